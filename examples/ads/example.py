"""The demo of the ad exchange, with 30 days of simulated impressions to 2,000 users, and the measures of its model.

Fresh counters matter for new ads and during episodes. For usual impressions they matter little, because the past shows most about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from examples.ads.impressions import generate
from examples.example import EventFiles, Example, Gain


def write(folder: Path, end_ms: int) -> EventFiles:
    """Writes the impressions and clicks, and returns the files."""
    return {"ad_events": (generate(folder, users=2_000, days=30, per_day=5_000, end_ms=end_ms).ad_events,)}


def labelled(folder: Path, seed: int) -> tuple[Mapping[str, Path], Path]:
    """Writes the events of 4,000 users; returns their file, and the file with whether each impression was clicked."""
    report = generate(folder, seed=seed)
    return {"ad_events": report.ad_events}, report.labels


example = Example(
    name="ads",
    origin="impressions and clicks: simulated data",
    write=write,
    # About 270 events per second, so that the budget is measured on a machine that is busy, but not full.
    speedup=5_000,
    scores_per_second=5,
    candidate=("ad_id",),
    gain=Gain(
        generate=labelled,
        scenarios={0: "usual", 1: "new ad", 2: "trending ad", 3: "fault of an ad or a slot"},
        measures=("log loss", "calibration error", "AUC"),
    ),
)
