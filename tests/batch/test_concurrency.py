"""Several backfills at once, beside the stream, and one that is killed: the tables are those of one run that nothing disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch.events import ingest_archive
from batch.load import load_events
from batch.tiles import build_tiles, stale_days, tiles_table
from batch.view import build_view, view_table
from features.windows import DAY_MS
from infra.errors import NotReadyError
from infra.settings import Settings
from speed.archive import create_archive
from tests.archive import append_messages
from tests.declarations import user_events, user_features
from tests.waiting import eventually

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BEGIN = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000)
DAYS = 7
END = BEGIN + DAYS * DAY_MS + 1_234_567


def events_of(first_day: int, last_day: int, n: int = 400) -> list[dict[str, Any]]:
    """Events whose content follows from their number, so that two calls agree on the days that they share."""
    rows = []
    for day in range(first_day, last_day):
        for index in range(n // 10):
            source = random.Random(day * 1_000 + index)
            at = BEGIN + day * DAY_MS + source.randrange(DAY_MS)
            rows.append({
                "event_id": f"{day}-{index}", "user_id": source.randrange(20), "session_id": f"s{source.randrange(9)}",
                "event_type": source.choice(["PURCHASE", "VIEW"]), "amount": source.randrange(10**5) / 100,
                "event_timestamp": datetime.fromtimestamp(at / 1_000, UTC).isoformat(timespec="milliseconds"),
            })  # fmt: skip
    return rows


def write(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def archive(spark: SparkSession, settings: Settings, offset: int, events: list[dict[str, Any]]) -> None:
    """As a micro-batch of the speed layer."""
    rows = [
        (user_events.topic, 0, offset + n, END + offset + n, b"key", json.dumps(event).encode()) for n, event in enumerate(events)
    ]
    append_messages(spark, settings, user_events, rows)


def up_to_date(spark: SparkSession, settings: Settings) -> None:
    """Tiles and view, again while others bring events of days before batch_end."""

    def built() -> bool:
        if days := stale_days(spark, settings, user_features):
            build_tiles(spark, settings, user_features, days)
        try:
            build_view(spark, settings, user_features, END)
        except NotReadyError:
            return False
        return True

    eventually(built)


def tables(spark: SparkSession, settings: Settings) -> dict[str, list[Any]]:
    """The rows of events, tiles and view; without what says when and whence they came."""
    dropped = ["arrival_ms", "origin", "kafka_partition", "kafka_offset", "folded_from"]
    contents = {}
    for name in (user_events.table, tiles_table(user_features), view_table(user_features)):
        frame = spark.read.format("delta").load(settings.table(name)).drop(*dropped)
        contents[name] = sorted(map(repr, frame.collect()))
    return contents


def assert_same(contents: dict[str, list[Any]], right: dict[str, list[Any]]) -> None:
    for name, rows in right.items():
        lost, added = Counter(rows) - Counter(contents[name]), Counter(contents[name]) - Counter(rows)
        assert not lost and not added, (name, len(rows), len(lost), len(added), lost.most_common(2), added.most_common(2))


def test_four_backfills_at_once_beside_the_stream_lose_and_double_nothing(
    spark: SparkSession, lake: Settings, tmp_path: Path
) -> None:
    spans = [(0, 2), (1, 3), (3, 4), (4, 5)]  # the first two overlap
    streamed = [events_of(5, DAYS)[start : start + 16] for start in range(0, 80, 16)]
    once = lake.model_copy(update={"lake_uri": f"{lake.lake_uri}-once"})
    load_events(spark, once, user_events, write(tmp_path / "all.jsonl", events_of(0, DAYS)))
    up_to_date(spark, once)

    create_archive(spark, lake, user_events)
    begun, ended = threading.Barrier(len(spans) + 1), threading.Event()

    def backfill(index: int) -> None:
        session = spark.newSession()
        path = write(tmp_path / f"{index}.jsonl", events_of(*spans[index]))
        begun.wait(60)
        load_events(session, lake, user_events, path)
        ingest_archive(session, lake, user_events)
        up_to_date(session, lake)
        # Somebody else, who takes the same days once more.
        load_events(session, lake, user_events, path)

    def stream() -> None:
        session = spark.newSession()
        begun.wait(60)
        for n, batch in enumerate(streamed):
            # The topic delivers some twice.
            archive(session, lake, n * 100, [*batch, *streamed[n - 1][:2]] if n else batch)
            ended.wait(1)

    with ThreadPoolExecutor(len(spans) + 1) as pool:
        done = [pool.submit(stream), *(pool.submit(backfill, index) for index in range(len(spans)))]
        for future in done:
            future.result(240)
    ingest_archive(spark, lake, user_events)
    up_to_date(spark, lake)
    assert_same(tables(spark, lake), tables(spark, once))


KILLED = """
from batch.tiles import build_tiles, stale_days
from batch.view import build_view
from tests.declarations import user_features
from infra.settings import Settings
from infra.spark import spark_session

settings = Settings.load()
spark = spark_session(settings, "killed", "1g")
if days := stale_days(spark, settings, user_features):
    build_tiles(spark, settings, user_features, days)
build_view(spark, settings, user_features, {end})
"""


@pytest.mark.parametrize("victim", [pytest.param("tiles", marks=pytest.mark.long), "view"])
def test_a_run_that_is_killed_while_it_writes_is_made_good_by_the_next(
    spark: SparkSession, lake: Settings, tmp_path: Path, victim: str
) -> None:
    load_events(spark, lake, user_events, write(tmp_path / "events.jsonl", events_of(0, DAYS, 4_000)))
    name = {"tiles": tiles_table(user_features), "view": view_table(user_features)}[victim]
    if victim == "view":
        build_tiles(spark, lake, user_features, stale_days(spark, lake, user_features))
    once = lake.model_copy(update={"lake_uri": f"{lake.lake_uri}-once"})
    shutil.copytree(lake.lake_uri, once.lake_uri)
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(end=END))
    process = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, **lake.environment(), "PYTHONPATH": str(Path.cwd())},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    eventually(lambda: process.poll() is not None or any(Path(lake.table(name)).rglob("*.parquet")), every=0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    assert any(Path(lake.table(name)).rglob("*.parquet"))  # it was killed as it wrote
    up_to_date(spark, lake)
    up_to_date(spark, once)
    assert_same(tables(spark, lake), tables(spark, once))
