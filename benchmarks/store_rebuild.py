"""An online store that has lost everything, beside one that was killed and has its own file: seconds until its keys are back.

    python -m benchmarks.store_rebuild [--runs 3] [--json]

The deployment is the demo's: a year of purchases in the batch views, the last two days of them streamed. FLUSHALL, and nobody does
anything: Dagster's sensor publishes the views from Delta, the speed layer reads the stream again. A key is back when it holds byte for byte
what it held. The peer is the same Valkey under SIGKILL, started again by its supervisor from its own file. Services live in a home that is
deleted.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import duckdb
import redis
import typer
from orchestration.journey import write_journey

from benchmarks._home import temporary_home
from examples.shop.definitions import project
from features.windows import DAY_MS
from infra.embedded import services
from infra.settings import Settings
from store.clients import store

#: Keys that are looked at until all of them are back; then all keys are.
_SAMPLE = 2_000


def main(
    runs: Annotated[int, typer.Option(help="Losses of each kind.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures the seconds to 99 % and to all of the keys."""
    with temporary_home() as settings:
        start(settings)
        before = content(settings)
        blows: dict[str, Callable[[], object]] = {
            "rebuilt": lambda: store(settings).flushall(),
            "restarted": lambda: services.kill(settings, "valkey"),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in blows}
        for _ in range(runs):
            for name, blow in blows.items():
                seconds[name].append(back(settings, before, blow))
                print(
                    f"{name}: 99 % after {seconds[name][-1][0]:.1f} s, all after {seconds[name][-1][1]:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
                services.wait_healthy(settings, ["speed", "valkey"])
    result: dict[str, Any] = {"keys": len(before), "runs": runs}
    for name, found in seconds.items():
        for which, share in enumerate(("99", "100")):
            result[f"{name}_seconds_to_{share}"] = round(statistics.median(one[which] for one in found), 1)
    print(json.dumps(result) if as_json else _sentence(result))


def start(settings: Settings) -> None:
    """Loads, backfills and streams the demo's purchases, through the command line."""
    journey = write_journey(settings.home / "journey", time.time_ns() // 1_000_000)
    cut_ms, live = journey.end_ms - 2 * DAY_MS, settings.home / "live.parquet"
    with duckdb.connect() as connection:
        recent = f"SELECT * FROM '{journey.live}' WHERE epoch_ms(event_timestamp::TIMESTAMPTZ) >= {cut_ms}"
        connection.execute(f"COPY ({recent}) TO '{live}' (FORMAT parquet)")
    _braid(settings, "load", str(journey.history))
    _braid(settings, "load", str(journey.live))
    _braid(settings, "up", "--detach")
    _braid(settings, "backfill", "--to", str(cut_ms), "--no-train")
    _braid(settings, "replay", str(live), "--wait")


def content(settings: Settings, keys: list[bytes] | None = None) -> dict[bytes, dict[bytes, bytes]]:
    """What the store holds under the keys of entities; by default all of them."""
    client, found = store(settings), {}
    keys = keys or [key for name in (group.name for group in project.groups) for key in client.scan_iter(f"{name}:*", count=1_000)]
    for begin in range(0, len(keys), 1_000):
        some = keys[begin : begin + 1_000]
        pipeline = client.pipeline(transaction=False)
        for key in some:
            pipeline.hgetall(key)
        found.update(zip(some, pipeline.execute(), strict=True))
    return found


def back(settings: Settings, before: dict[bytes, dict[bytes, bytes]], blow: Callable[[], object]) -> tuple[float, float]:
    """Seconds from the blow until 99 % of the keys, and until all of them, are what they were."""
    sample, began, most = random.Random(1).sample(sorted(before), min(_SAMPLE, len(before))), time.monotonic(), 0.0
    blow()
    while True:
        keys = sample if most < 1 else list(before)
        try:
            share = sum(value == before[key] for key, value in content(settings, keys).items()) / len(keys)
        except redis.RedisError:
            share = 0.0
        seconds = time.monotonic() - began
        if most < 0.99 <= share:
            to_most = seconds
        most = max(most, share)
        if share == 1 and len(keys) == len(before):
            return to_most, seconds
        time.sleep(0.1)


def _braid(settings: Settings, *arguments: str) -> None:
    command = [sys.executable, "-m", "orchestration.cli", "--home", str(settings.home), *arguments, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def _sentence(result: dict[str, Any]) -> str:
    return (
        f"{result['keys']:,} keys lost: 99 % of them are back after {result['rebuilt_seconds_to_99']} s and all after "
        f"{result['rebuilt_seconds_to_100']} s; a store with its own file has all after {result['restarted_seconds_to_100']} s (medians)."
    )


if __name__ == "__main__":
    typer.run(main)
