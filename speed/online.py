"""Open tiles → online store: the query that a request sees within a fraction of a second.

Reads the stream of events; puts tiles into the online store, each by its absolute value, so that writing twice, which a restart does,
changes nothing. The tasks write, before Spark commits the micro-batch; so whoever reads an offset as done (`speed.progress`) finds its
tile in the store. After its tiles a task leaves its mark (`store.tiles`), by which a store that has lost them is noticed.

The Python that writes is part of the streaming plan, before a sink that takes no rows, rather than in `foreachBatch`: that would
plan a second job per micro-batch and go through the driver's Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from pyspark.sql.streaming.readwriter import DataStreamWriter

from features.declaration import FeatureGroup
from features.packed import encode
from infra.settings import Settings
from speed.fold import fold_batch
from speed.stream import tile_events, tiles
from store.protocol import Mark
from store.server import writing_store


def start_online(spark: SparkSession, settings: Settings, group: FeatureGroup, token: str) -> StreamingQuery:
    """Starts the query of a group.

    A changed declaration is a new query, with a state of its own; so is one into a store that has lost tiles of the last one, or of a topic
    that was made anew, by its token (`speed.completeness`): it reads again from the earliest message.
    """
    name = f"online_{group.name}_{group.fingerprint}"
    writer = online_writer(spark, settings, group, token=token)
    return writer.queryName(name).option("checkpointLocation", settings.checkpoint(f"{name}_{token}")).start()


def online_writer(
    spark: SparkSession, settings: Settings, group: FeatureGroup, at_most: int | None = None, token: str | None = None
) -> DataStreamWriter:
    """The query of a group, to be started; `at_most` as in `speed.stream.messages`. Without a token its tasks leave no marks."""
    frame = tiles(settings, group, tile_events(spark, settings, group, at_most))
    write = partial(write_tiles, settings, group, token)
    return frame.mapInArrow(write, "tiles BIGINT").writeStream.outputMode("update").format("noop")


def write_tiles(
    settings: Settings, group: FeatureGroup, token: str | None, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Folds tiles and writes them, then the task's mark; runs in Spark's Python workers. Gives how many, per batch."""
    store, kept_seconds = writing_store(settings), settings.tiles_kept_seconds(group.buffer_ms)
    for batch in batches:
        if not batch.num_rows:
            continue
        packed = [encode(tile) for tile in fold_batch(group, batch)]
        entities, starts_ms = batch.column("entity").to_pylist(), batch.column("tile_start_ms").to_pylist()
        store.put_tiles(group, list(zip(entities, starts_ms, packed, strict=True)), kept_seconds)
        yield pa.record_batch({"tiles": pa.array([len(packed)], pa.int64())})
    if token is not None:
        store.put_tiles(group, [], kept_seconds, _mark(token))


def _mark(token: str) -> Mark:
    task = TaskContext.get()
    assert task is not None
    return Mark(token, task.partitionId(), int(task.getLocalProperty("streaming.sql.batchId") or 0))
