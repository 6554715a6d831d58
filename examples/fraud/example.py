"""The demo of the card issuer, with 75 days of simulated purchases by 2,500 cards, and the measures of its model.

Scenarios 1 to 3 last days or are visible in the request, so fresh features hardly help. Scenarios 4 and 5 last minutes or hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from examples.example import EventFiles, Example, Gain
from examples.fraud.transactions import DELAY_DAYS, generate


def write(folder: Path, end_ms: int) -> EventFiles:
    """Writes the purchases and the chargebacks, and returns the files."""
    report = generate(folder, cards=2_500, terminals=600, days=75, seed=1, end_ms=end_ms)
    return {"transactions": (report.transactions,), "chargebacks": (report.chargebacks,)}


def labelled(folder: Path, seed: int) -> tuple[Mapping[str, Path], Path]:
    """Writes the events of 4,000 cards; returns their files, and the file of labels with the truth, also about frauds that are not known yet."""
    report = generate(folder, seed=seed)
    return {"transactions": report.transactions, "chargebacks": report.chargebacks}, report.labels


example = Example(
    name="fraud",
    origin="purchases and chargebacks: simulated data",
    write=write,
    # About 300 events per second, so that the budget is measured on a machine that is busy, but not full.
    speedup=25_000,
    gain=Gain(
        generate=labelled,
        scenarios={
            1: "large amount",
            2: "compromised terminal",
            3: "stolen card",
            4: "card testing",
            5: "attacked terminal",
        },
        measures=("average precision", "recall at 1 % FPR"),
        overall=("subject precision@100",),
        known_after_days=DELAY_DAYS[1],
    ),
)
