"""The overhead of Dagster per run and per asset: python -m benchmarks.dagster_overhead [--rounds 5] [--json].

The assets do nothing. A chain of one asset and a chain of eleven assets run in process, as `braid backfill` runs its jobs, with a Dagster instance on
disk. A tenth of the difference between the two is the cost of an asset; a run of one asset without that cost is the cost of a run. The peers are a
run of one asset in a new process, as the daemon launches runs, and a direct call of the function. The figures are medians of the rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import dagster as dg
import typer

_MORE = 10


def nothing() -> None:
    """The function of each asset; it does nothing."""


def chain(length: int) -> list[dg.AssetsDefinition]:
    """Returns a chain of assets: each depends on the asset before it."""
    assets: list[dg.AssetsDefinition] = []
    for index in range(length):
        asset = dg.asset(name=f"nothing_{index}", deps=assets[-1:])
        assets.append(asset(lambda: nothing()))  # noqa: PLW0108  # Dagster needs a new function for each asset
    return assets


def main(
    rounds: Annotated[int, typer.Option(help="Runs of each.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures the seconds of a run and of one more asset."""
    seconds: dict[str, list[float]] = {"one asset": [], "eleven assets": [], "a process of its own": [], "the function": []}
    with tempfile.TemporaryDirectory(prefix="braid-bench-") as home, dg.DagsterInstance.local_temp(home) as instance:
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "*", "-f", __file__]
        for _ in range(rounds):
            for name, length in (("one asset", 1), ("eleven assets", _MORE + 1)):
                assets = chain(length)
                seconds[name].append(_timed(lambda assets=assets: dg.materialize(assets, instance=instance, run_config=quiet)))
            seconds["a process of its own"].append(
                _timed(lambda: subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1]))
            )
            seconds["the function"].append(_timed(nothing))
    median = {name: statistics.median(runs) for name, runs in seconds.items()}
    more = (median["eleven assets"] - median["one asset"]) / _MORE
    result = {
        "run_seconds": round(median["one asset"] - more, 4),
        "asset_seconds": round(more, 4),
        "process_seconds": round(median["a process of its own"], 2),
        "function_seconds": round(median["the function"], 9),
        "rounds": rounds,
    }
    sentence = (
        f"A run costs {result['run_seconds']:.3f} s and each of its assets {result['asset_seconds']:.3f} s; a run in a process of its own "
        f"{result['process_seconds']:.1f} s, most of which is imports (medians of {rounds})."
    )
    print(json.dumps(result) if as_json else sentence)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    typer.run(main)
else:
    defs = dg.Definitions(chain(1))  # loaded by the command in `main`
