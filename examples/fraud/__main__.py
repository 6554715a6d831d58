"""`python -m examples.fraud FOLDER` writes the simulated purchases, chargebacks and labels into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from examples.fraud.transactions import generate


def main(
    folder: Annotated[Path, typer.Argument(help="Where the CSV files go.")],
    cards: Annotated[int, typer.Option(help="Cards.")] = 4_000,
    terminals: Annotated[int, typer.Option(help="Terminals.")] = 1_000,
    days: Annotated[int, typer.Option(help="Days of purchases.")] = 90,
    seed: Annotated[int, typer.Option(help="Seed of the data.")] = 1,
) -> None:
    """Writes the data of the example."""
    folder.mkdir(parents=True, exist_ok=True)
    report = generate(folder, cards, terminals, days, seed)
    print(
        f"{report.purchases:,} purchases, {report.fraud_share:.2%} of them fraud; {report.known_frauds:,} chargebacks. Written to {folder}."
    )


if __name__ == "__main__":
    typer.run(main)
