"""The demo of the recommendations, with 35 days of simulated visits, and the measures of its model.

Only the views of the last minutes show what a user wants in this visit. The past shows what a user always likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from examples.example import EventFiles, Example, Gain
from examples.recommendation.candidates import CANDIDATES, FirstStage
from examples.recommendation.visits import generate


def write(folder: Path, end_ms: int) -> EventFiles:
    """Writes the views, recommendations and clicks, and returns the file."""
    return {"visits": (generate(folder, users=400, days=35, per_day=120, end_ms=end_ms).visits,)}


def labelled(folder: Path, seed: int) -> tuple[Mapping[str, Path], Path]:
    """Writes the events of 12,000 visits; returns their file, and the file with whether each recommendation was clicked."""
    report = generate(folder, seed=seed)
    return {"visits": report.visits}, report.labels


example = Example(
    name="recommendation",
    origin="visits and clicks: simulated data",
    write=write,
    # About 170 events per second, so that the budget is measured on a machine that is busy, but not full.
    speedup=5_000,
    predictions_per_second=10,
    scores_per_second=3,
    candidate=("item_id", "category", "popularity"),
    candidates=CANDIDATES,
    first_stage=FirstStage,
    gain=Gain(
        generate=labelled,
        scenarios={0: "usual need", 1: "new need", 2: "trending item"},
        measures=("AUC", "log loss"),
        overall=("NDCG@10",),
        baseline="popularity",
    ),
)
