"""The demo of the search, with 30 days of simulated searches, and the measures of its model.

Only fresh clicks show the interest in a document that is new or in the news. The past shows how well a usual document fits a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from examples.example import EventFiles, Example, Gain
from examples.search.searches import generate


def write(folder: Path, end_ms: int) -> EventFiles:
    """Writes the shown documents and the clicks, and returns the file."""
    return {"results": (generate(folder, days=30, per_day=250, end_ms=end_ms).results,)}


def labelled(folder: Path, seed: int) -> tuple[Mapping[str, Path], Path]:
    """Writes the events of 15,000 searches; returns their file, and the file with whether each shown document was clicked."""
    report = generate(folder, seed=seed)
    return {"results": report.results}, report.labels


example = Example(
    name="search",
    origin="searches and clicks: simulated data",
    write=write,
    # About 300 events per second, so that the budget is measured on a machine that is busy, but not full.
    speedup=5_000,
    predictions_per_second=20,
    scores_per_second=5,
    candidate=("document_id", "query_id", "text_match"),
    candidates=50,
    gain=Gain(
        generate=labelled,
        scenarios={0: "usual", 1: "new document", 2: "in the news"},
        measures=("AUC", "log loss"),
        overall=("NDCG@10",),
        baseline="text_match",
    ),
)
