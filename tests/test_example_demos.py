"""The table of the demos of the examples."""

from __future__ import annotations

from benchmarks.example_demos import markdown, rows_of


def test_a_demo_has_a_row_for_each_kind_of_request() -> None:
    summary = {
        "example": "ads", "entities": 2_400, "events_per_second": 310.5, "predictions": 900, "predictions_degraded": 9, "scores": 0, "scores_degraded": 0,
        "gain": {"auc": {"merged": 0.71234, "batch_only": 0.7}, "auc_difference": {"low": 0.0101, "high": 0.0144}},
        **{f"{kind}_{figure}": number for kind in ("predict", "score") for figure, number in (("per_second", 80.0), ("p50_ms", 2.5), ("p99_ms", 7.0), ("p999_ms", 9.0), ("within_budget", 0.99957))},
    }  # fmt: skip
    [row] = rows_of(summary)
    assert (row["example"], row["requests"], row["per second"], row["p99.9 ms"]) == ("ads", "predict", 80.0, 9.0)
    assert (
        markdown([row]).splitlines()[2]
        == "| ads | 2400 | 310.5 | predict | 80.0 | 2.5 | 7.0 | 9.0 | 99.96% | 1.0% | 0.712 | 0.7 | +0.010 to +0.014 |"
    )
    both = rows_of({**summary, "scores": 5, "gain": {**summary["gain"], "auc_difference": None}})
    assert [(row["requests"], row["95 % interval"]) for row in both] == [("predict", ""), ("score", "")]
