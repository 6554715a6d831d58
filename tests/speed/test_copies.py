"""Copies of an event, in the stream's own stateful operator on a real Spark: the first to arrive counts, and no other."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.settings import Settings
from speed.session import SQL_PROPERTIES
from speed.stream import first_copies
from tests.declarations import user_events, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TILE = 1_795_000_200_000
EVENTS, COPIES = 200, 3
SCHEMA = f"event BIGINT, {user_events.time} TIMESTAMP, arrival_ms BIGINT, kafka_partition INT, kafka_offset BIGINT"


def copy_of(event: int, arrival_ms: int, partition: int, offset: int, ts_ms: int) -> dict[str, Any]:
    when = datetime.fromtimestamp(ts_ms / 1_000, UTC)
    return {"event": event, user_events.time: when, "arrival_ms": arrival_ms, "kafka_partition": partition, "kafka_offset": offset}


def micro_batch(folder: Path, number: int, rows: list[dict[str, Any]]) -> None:
    """Two files, which two tasks read; micro-batches are taken in the order of their files' times."""
    for half in range(2):
        path = folder / f"{number}-{half}.parquet"
        schema = pa.schema([("event", pa.int64()), (user_events.time, pa.timestamp("us", "UTC")), ("arrival_ms", pa.int64()),
                            ("kafka_partition", pa.int32()), ("kafka_offset", pa.int64())])  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows[half::2], schema), path)
        os.utime(path, (number, number))


def test_the_first_to_arrive_counts_in_a_micro_batch_and_later_ones_fall_whatever_their_tile(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    rng, folder = random.Random(3), tmp_path / "messages"
    folder.mkdir()
    first = [
        copy_of(event, TILE + rng.randrange(1_000), rng.randrange(4), event * COPIES + n, TILE + rng.randrange(2 * user_features.tile_ms))
        for event in range(EVENTS)
        for n in range(COPIES)
    ]  # fmt: skip
    rng.shuffle(first)
    again = [copy_of(event, TILE + 500_000, 0, 10_000 + event, TILE + user_features.tile_ms) for event in range(EVENTS + 1)]
    micro_batch(folder, 1, first)
    micro_batch(folder, 2, again)

    session = spark.newSession()
    for name, value in SQL_PROPERTIES.items():
        session.conf.set(name, value)
    stream = session.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 2).parquet(str(folder))
    writer = first_copies(settings, user_events, stream).writeStream.option("checkpointLocation", str(tmp_path / "checkpoint"))
    query = writer.trigger(availableNow=True).start(str(tmp_path / "events"), format="parquet", outputMode="append")
    assert query.awaitTermination(120)

    def place(row: Any) -> tuple[int, int, int]:
        return row["arrival_ms"], row["kafka_partition"], row["kafka_offset"]

    right = {event: min(place(row) for row in first if row["event"] == event) for event in range(EVENTS)}
    events = spark.read.parquet(str(tmp_path / "events")).collect()
    assert len(events) == EVENTS + 1
    assert {row["event"]: place(row) for row in events} == right | {EVENTS: (TILE + 500_000, 0, 10_000 + EVENTS)}
