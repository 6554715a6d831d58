"""The rebuild of an online store that lost all its keys, compared with a restart from the store's own file: seconds until keys are back.

    python -m benchmarks.store_rebuild [--runs 3] [--json]

The deployment is that of the demo: a year of purchases in the batch views, and the last two days streamed. After FLUSHALL the platform repairs
itself: Dagster's sensor publishes the views from Delta, and the speed layer reads the stream again. A key is back when its value equals the old value
byte for byte. The peer is the same Valkey after SIGKILL, which its supervisor restarts from the store's own file. The services run in a temporary
home, which is deleted.
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

from benchmarks._home import temporary_home
from examples.shop.definitions import project
from examples.shop.journey import write_journey
from features.instants import now_ms
from features.windows import DAY_MS
from infra.embedded import services
from infra.settings import Settings
from store.clients import store

#: The number of keys that are compared until all of these keys are back; from then on all keys are compared.
_SAMPLE = 2_000


def main(
    runs: Annotated[int, typer.Option(help="Losses of each kind.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures the seconds until 99 % of the keys, and until all keys, are back."""
    with temporary_home() as settings:
        start(settings)
        before = content(settings)
        faults: dict[str, Callable[[], object]] = {
            "rebuilt": lambda: store(settings).flushall(),
            "restarted": lambda: services.kill(settings, "valkey"),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in faults}
        for _ in range(runs):
            for name, fault in faults.items():
                to_most, to_all = recovery_seconds(settings, before, fault)
                seconds[name].append((to_most, to_all))
                print(f"{name}: 99 % after {to_most:.1f} s, all after {to_all:.1f} s", file=sys.stderr, flush=True)
                services.wait_healthy(settings, ["speed", "valkey"])
    result: dict[str, Any] = {"keys": len(before), "runs": runs}
    for name, pairs in seconds.items():
        for place, share in enumerate(("99", "100")):
            result[f"{name}_seconds_to_{share}"] = round(statistics.median(pair[place] for pair in pairs), 1)
    print(json.dumps(result) if as_json else _sentence(result))


def start(settings: Settings) -> None:
    """Loads, backfills and streams the demo's purchases through the command line."""
    journey = write_journey(settings.home / "journey", now_ms())
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
    """Returns the fields of entities' keys in the store, by key; by default of the keys of all entities."""
    client, fields_of = store(settings), {}
    keys = keys or [key for group in project.groups for key in client.scan_iter(f"{group.name}:*", count=1_000)]
    for begin in range(0, len(keys), 1_000):
        chunk = keys[begin : begin + 1_000]
        pipeline = client.pipeline(transaction=False)
        for key in chunk:
            pipeline.hgetall(key)
        fields_of.update(zip(chunk, pipeline.execute(), strict=True))
    return fields_of


def recovery_seconds(
    settings: Settings, before: dict[bytes, dict[bytes, bytes]], fault: Callable[[], object]
) -> tuple[float, float]:
    """Causes a fault. Returns the seconds until 99 % of the keys, and until all keys, have their old values."""
    sample, began, most = random.Random(1).sample(sorted(before), min(_SAMPLE, len(before))), time.monotonic(), 0.0
    fault()
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
