"""The demos of the examples as one table: the rate of events, the latency at the rate of the demo's requests, and the gain by fresh features.

    python -m benchmarks.example_demos [fraud ads …] [--json]

Each demo has a home of its own and takes minutes. Its clients run in a separate process on the same machine as the stream and the batch. They send
requests at the rates of the example, even if answers are late; the time of an answer is counted from when its request was due.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from examples import NAMES

_COLUMNS = (
    "example", "entities", "events/s in", "requests", "per second", "p50 ms", "p99 ms", "p99.9 ms", "within the budget", "degraded", "AUC merged",
    "AUC batch only", "95 % interval",
)  # fmt: skip


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Examples. Default: all.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Runs the demos, and prints a line for each kind of request."""
    rows = [row for name in names or NAMES for row in rows_of(_demo(name))]
    print(json.dumps(rows) if as_json else markdown(rows))


def rows_of(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of the table for the summary of a demo: a row for predictions, and a row for scores, if there are any."""
    gain = summary["gain"]
    difference = gain["auc_difference"]
    interval = "" if difference is None else f"{difference['low']:+.3f} to {difference['high']:+.3f}"
    return [
        dict(
            zip(
                _COLUMNS,
                (
                    summary["example"], summary["entities"], summary["events_per_second"], kind, summary[f"{kind}_per_second"],
                    *(summary[f"{kind}_p{percent}_ms"] for percent in ("50", "99", "999")),
                    f"{within:.2%}" if (within := summary.get(f"{kind}_within_budget")) is not None else "", f"{summary[f'{title}_degraded'] / summary[title]:.1%}",
                    round(gain["auc"]["merged"], 3), round(gain["auc"]["batch_only"], 3), interval,
                ),
                strict=True,
            )
        )
        for kind, title in (("predict", "predictions"), ("score", "scores"))
        if summary[title]
    ]  # fmt: skip


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(row[column]) for column in _COLUMNS)} |" for row in rows)])


def _demo(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="braid-bench-") as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "orchestration.cli", "--home", folder, "demo", name, "--exit", "--report", str(report)]
        subprocess.run(command, stdout=sys.stderr, check=True)
        summary: dict[str, Any] = json.loads(report.read_text())
        return summary


if __name__ == "__main__":
    typer.run(main)
