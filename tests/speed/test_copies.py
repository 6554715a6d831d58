"""Copies of an event, in a stream of a real Spark with the online store's memory: the first to arrive counts, and no other."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.settings import Settings
from speed.batch_reads import BatchRead, record
from speed.copies import OBSERVED, without_later_copies
from speed.online import counted
from speed.session import SQL_PROPERTIES
from store.server import writing_store
from tests.declarations import user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TILE = 1_795_000_200_000
EVENTS, COPIES = 200, 3
SCHEMA = "event BIGINT, time TIMESTAMP, arrival_ms BIGINT, kafka_partition INT, kafka_offset BIGINT, ts_ms BIGINT"


def copy_of(event: int, arrival_ms: int, partition: int, offset: int, ts_ms: int) -> dict[str, Any]:
    when = datetime.fromtimestamp(ts_ms / 1_000, UTC)
    return {
        "event": event * 2**47 + event, "time": when, "arrival_ms": arrival_ms, "kafka_partition": partition, "kafka_offset": offset, "ts_ms": ts_ms
    }  # fmt: skip


def micro_batch(folder: Path, number: int, rows: list[dict[str, Any]]) -> None:
    """Two files, which two tasks read; micro-batches are taken in the order of their files' times."""
    for half in range(2):
        path = folder / f"{number}-{half}.parquet"
        schema = pa.schema([("event", pa.int64()), ("time", pa.timestamp("us", "UTC")), ("arrival_ms", pa.int64()),
                            ("kafka_partition", pa.int32()), ("kafka_offset", pa.int64()), ("ts_ms", pa.int64())])  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows[half::2], schema), path)
        os.utime(path, (number, number))


def first_only(settings: Settings, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if collected := list(batches):
        yield from without_later_copies(writing_store(settings), "copies", pa.Table.from_batches(collected)).to_batches()


def counted_places(
    spark: SparkSession, settings: Settings, folder: Path
) -> tuple[dict[int, tuple[int, ...]], list[dict[str, int]]]:
    """What counts of the micro-batches in a folder, by event: arrival, partition and offset; and the numbers of each micro-batch that Spark reports."""
    session = spark.newSession()
    for name, value in SQL_PROPERTIES.items():
        session.conf.set(name, value)
    stream = session.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 2).parquet(str(folder))
    rows = counted(
        settings, "copies", "a_source", stream.withWatermark("time", f"{settings.watermark_seconds} seconds").drop("time")
    )
    rows = rows.repartition(2, "event").mapInArrow(partial(first_only, settings), rows.schema)
    target = folder.parent / "events"
    writer = rows.writeStream.option("checkpointLocation", str(folder.parent / "checkpoint")).trigger(availableNow=True)
    query = writer.start(str(target), format="parquet", outputMode="append")
    assert query.awaitTermination(120)
    events = spark.read.parquet(str(target)).collect()
    places = {row["event"] % 2**47: (row["arrival_ms"], row["kafka_partition"], row["kafka_offset"]) for row in events}
    assert len(events) == len(places)
    return places, [update.observedMetrics[OBSERVED].asDict() for update in query.recentProgress if update.numInputRows]


def test_the_first_to_arrive_counts_in_a_micro_batch_and_later_ones_fall_whatever_their_tile(
    spark: SparkSession, valkey: Settings, tmp_path: Path
) -> None:
    rng, folder = random.Random(3), tmp_path / "messages"
    folder.mkdir()
    first = [
        (event, TILE + rng.randrange(1_000), rng.randrange(4), event * COPIES + n, TILE + rng.randrange(2 * user_features.tile_ms))
        for event in range(EVENTS)
        for n in range(COPIES)
    ]
    rng.shuffle(first)
    again = [(event, TILE + 500_000, 0, 10_000 + event, TILE + user_features.tile_ms) for event in range(EVENTS + 1)]
    micro_batch(folder, 1, [copy_of(*message) for message in first])
    micro_batch(folder, 2, [copy_of(*message) for message in again])
    places, numbers = counted_places(spark, valkey, folder)
    right = {event: min(message[1:4] for message in first if message[0] == event) for event in range(EVENTS)}
    assert places == right | {EVENTS: (TILE + 500_000, 0, 10_000 + EVENTS)}
    assert numbers[1] == {"late_rows": 0, "copies": EVENTS}


def test_an_event_is_late_by_the_micro_batches_before_its_own(spark: SparkSession, valkey: Settings, tmp_path: Path) -> None:
    folder, watermark_ms = tmp_path / "messages", valkey.watermark_seconds * 1_000
    folder.mkdir()
    newest = TILE + 10 * watermark_ms
    micro_batch(folder, 1, [copy_of(1_001, TILE, 0, 1, newest), copy_of(1_002, TILE, 0, 2, newest - 2 * watermark_ms)])
    micro_batch(
        folder, 2, [copy_of(1_003, TILE, 1, 1, newest - watermark_ms), copy_of(1_004, TILE, 1, 2, newest - watermark_ms + 1)]
    )
    places, numbers = counted_places(spark, valkey, folder)
    assert sorted(places) == [1_001, 1_002, 1_004]
    assert numbers == [{"late_rows": 0, "copies": 0}, {"late_rows": 1, "copies": 0}]


def test_an_event_that_the_latest_batch_has_missed_counts_and_is_a_late_row(
    spark: SparkSession, valkey: Settings, tmp_path: Path
) -> None:
    folder, store = tmp_path / "messages", writing_store(valkey)
    folder.mkdir()
    record(store, "a_source", BatchRead(TILE, {0: 2}))
    rows = [copy_of(2_001, TILE, 0, 1, TILE - 1), copy_of(2_002, TILE, 0, 2, TILE - 1), copy_of(2_003, TILE, 0, 3, TILE)]
    micro_batch(folder, 1, rows)
    try:
        places, numbers = counted_places(spark, valkey, folder)
    finally:
        store.note("batch-reads", "a_source", None)
    assert sorted(places) == [2_001, 2_002, 2_003]
    assert numbers == [{"late_rows": 1, "copies": 0}]
