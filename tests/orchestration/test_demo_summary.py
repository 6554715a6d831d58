"""The panel that ends a demo shows what the summary has, for an example with and without a budget, candidates and a worker."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from monitoring.attribution import Reason
from orchestration.demo import example_of
from orchestration.demo_clients import Answers
from orchestration.demo_summary import summary_panel
from orchestration.open_loop import BROKEN, DEGRADED, OK, Load


def summary(**figures: Any) -> dict[str, Any]:
    """The figures of a demo without a budget, candidates and a worker."""
    proof = {
        "group": "cards",
        "entity": "card_id",
        "as_of": "2026-01-01T00:00:00Z",
        "entities": 600,
        "cells": 6_600,
        "different": 0,
    }
    provenance = {"batch_end": "2025-12-31T00:00:00Z", "newest_event": "2026-01-01T00:00:00Z", "tiles_merged": 2}
    return {
        "seconds_total": 200.0, "peak_rss_mb": 5_000, "events_loaded": 100_000, "events_replayed": 5_000, "proofs": [proof],
        "champion_version": "1",
        "gain": {
            "rows": 20_000, "positives": 200, "auc": {"merged": 0.9, "batch_only": 0.8}, "log_loss": {"merged": 0.1, "batch_only": 0.2},
            "average_precision": {"merged": 0.6, "batch_only": 0.4}, "auc_difference": {"value": 0.1, "low": 0.05, "high": 0.15},
        },
        "predictions": 1_000, "predictions_degraded": 7, "predictions_failed": 0, "predictions_saturated": 0, "predict_p50_ms": 3.0, "predict_p99_ms": 9.0, "predict_p999_ms": 12.0, "predict_per_second": 80.0,
        "scores": 0, "worker": None, "experiment": None,
        "consistency": {"cards": {"answers": 10, "cells": 110, "defects": 0, **{str(reason): 0 for reason in Reason}}},
        "answer": {"card_id": 17, "prediction": 0.25, "features_used": {"amount": 12.5}, "model": {"name": "fraud", "version": "1"}, "provenance": provenance},
        "urls": {"Dagster": "http://127.0.0.1:3000"}, **figures,
    }  # fmt: skip


def text_of(**figures: Any) -> str:
    console = Console(width=250, record=True, file=StringIO())
    console.print(summary_panel(summary(**figures), {"data": 2.0, "asset cards_tiles": 9.0}, example_of("fraud"), Path("/home")))
    return console.export_text()


def test_the_panel_has_proof_gain_answers_and_an_example() -> None:
    text = text_of()
    for part in (
        "braid demo fraud", "data 2 s", "6,600 cells of 600 card_ids", "0 differ from brute force", "AUC 0.9000 merged, 0.8000 batch only",
        "+0.1000 by fresh features (95 % interval +0.0500 to +0.1500)", "1,000 predictions during the replay, 80 a second: p50 3.0 ms", "card_id 17: 0.250 by fraud 1",
        "110 logged cells of cards recomputed: 0 differ",
    ):  # fmt: skip
        assert part in text
    for part in ("scores", "worker", "experiment", "budget", "asset"):
        assert part not in text


@pytest.mark.parametrize(
    ("figures", "part"),
    [
        ({"predict_within_budget": 0.9987}, "p99 9.0 ms, p99.9 12.0 ms, 99.87% within the budget"),
        (
            {
                "scores": 50,
                "scores_degraded": 1,
                "scores_failed": 0,
                "scores_saturated": 2,
                "score_p50_ms": 4.0,
                "score_p99_ms": 8.0,
                "score_p999_ms": 9.0,
                "score_per_second": 20.5,
            },
            "1 marked degraded while the batch was late, 0 failed; serving did not keep up with the rate, so the clients gave up 2 times",
        ),
        ({"worker": {"keep": 1_234, "p50_seconds": 0.2}}, "keep 1,234, p50 seconds 0.2"),
        ({"experiment": "Too early."}, "Too early."),
        ({"predictions": 0, "predictions_failed": 9}, "0 predictions during the replay"),
    ],
)
def test_the_panel_has_what_an_example_adds(figures: dict[str, Any], part: str) -> None:
    assert part in text_of(**figures)


def test_the_percentiles_of_no_answer_are_zero() -> None:
    assert Answers().percentile_ms(99.9) == 0
    assert Answers().within(10) == 0
    assert Answers().per_second == 0
    assert Answers([0.01] * 30, wall_seconds=2.0).per_second == 15


def test_a_request_that_failed_fast_is_not_within_the_budget() -> None:
    load = Load(100.0, seconds=[0.001] * 60 + [0.020] * 30 + [0.200] * 10, served_seconds=[0.020] * 30 + [0.200] * 10)
    load.statuses.update({503: 50, BROKEN: 10, OK: 35, DEGRADED: 5})
    answers = Answers()
    answers.add(load, wall_seconds=1.0)
    assert (len(answers.seconds), answers.degraded, answers.failed, answers.per_second) == (40, 5, 60, 40)
    assert answers.within(50) == 0.3
    assert answers.percentile_ms(50) == 20
