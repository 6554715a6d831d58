"""The demo of the forum, with 45 days of simulated texts, its worker, and the measures of its model.

Raids and hijacked accounts last minutes, so only fresh counters show them. For habitual abusers and link spam fresh features hardly help: the past
shows a habitual abuser, and the text itself shows link spam.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from examples.example import EventFiles, Example, Gain
from examples.moderation.texts import generate
from examples.moderation.worker import VERDICTS, Worker


def write(folder: Path, end_ms: int) -> EventFiles:
    """Writes the texts and the removals, and returns the files."""
    report = generate(folder, authors=2_000, days=45, per_day=1_500, end_ms=end_ms)
    return {"texts": (report.texts,), "removals": (report.removals,)}


def labelled(folder: Path, seed: int) -> tuple[Mapping[str, Path], Path]:
    """Writes the events of 4,000 authors; returns their files, and the file of labels with the truth, also about abuse that nobody removed."""
    report = generate(folder, seed=seed)
    return {"texts": report.texts, "removals": report.removals}, report.labels


example = Example(
    name="moderation",
    origin="texts and removals: simulated data",
    write=write,
    # About 45 texts per second, which two cores with all services can answer in time.
    speedup=2_500,
    worker=partial(Worker, at_event_time=True),
    topics=(VERDICTS,),
    gain=Gain(
        generate=labelled,
        scenarios={1: "habitual abuser", 2: "link spam", 3: "raid", 4: "hijacked account"},
        measures=("average precision", "recall at 1 % FPR"),
    ),
)
