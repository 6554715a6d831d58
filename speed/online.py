"""Open tiles → online store: the query that a request sees within a fraction of a second.

Reads the stream of events; writes the field `t:<version>:<tile start>` of the hash `{group}:{entity}`: the tile's absolute value, so that
writing twice, which a restart does, changes nothing. The tasks write, before Spark commits the micro-batch; so whoever reads an
offset as done (`speed.progress`) finds its tile in the store.

The Python that writes is part of the streaming plan, before a sink that takes no rows, rather than in `foreachBatch`: that would
plan a second job per micro-batch and go through the driver's Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from pyspark.sql.streaming.readwriter import DataStreamWriter

from features.declaration import FeatureGroup
from features.packed import encode, tile_prefix
from infra.settings import Settings
from speed.fold import fold_batch
from speed.stream import tile_events, tiles
from store.writing import expiring_command, online_store

#: Tiles per round trip to the store.
PIPELINE_LENGTH = 1_000


def start_online(spark: SparkSession, settings: Settings, group: FeatureGroup, generation: str) -> StreamingQuery:
    """Starts the query of a group.

    A changed declaration is a new query, with a state of its own; so is one into a store that holds nothing of the last one, or of a
    topic that was made anew: `generation` names both (`store.clients.store_generation`, `speed.topics`). It reads from the earliest
    message.
    """
    name = f"online_{group.name}_{group.fingerprint}"
    checkpoint = settings.checkpoint(f"{name}_{generation}")
    return online_writer(spark, settings, group).queryName(name).option("checkpointLocation", checkpoint).start()


def online_writer(spark: SparkSession, settings: Settings, group: FeatureGroup, at_most: int | None = None) -> DataStreamWriter:
    """The query of a group, to be started; `at_most` as in `speed.stream.messages`."""
    frame = tiles(settings, group, tile_events(spark, settings, group, at_most))
    return frame.mapInArrow(partial(write_tiles, settings, group), "tiles BIGINT").writeStream.outputMode("update").format("noop")


def write_tiles(settings: Settings, group: FeatureGroup, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Folds tiles and writes them; runs in Spark's Python workers. Gives how many, per batch."""
    for batch in batches:
        if not batch.num_rows:
            continue
        store = online_store(settings)
        command = expiring_command(store)
        packed = [encode(tile) for tile in fold_batch(group, batch)]
        entities, starts_ms = batch.column("entity").to_pylist(), batch.column("tile_start_ms").to_pylist()
        fields: dict[str, dict[bytes, bytes]] = {}
        prefix = tile_prefix(group.fingerprint)
        for entity, start_ms, value in zip(entities, starts_ms, packed, strict=True):
            fields.setdefault(group.key(entity), {})[prefix + str(start_ms).encode()] = value
        pipeline, queued = store.pipeline(transaction=False), 0
        for key, values in fields.items():
            _queue(pipeline, command, key, values, settings.tile_ttl_seconds)
            queued += len(values)
            if queued >= PIPELINE_LENGTH:
                pipeline.execute()
                queued = 0
        pipeline.execute()
        yield pa.record_batch({"tiles": pa.array([len(packed)], pa.int64())})


def _queue(pipeline: Any, command: str | None, key: str, values: dict[bytes, bytes], ttl_seconds: int) -> None:
    """One entity's tiles, with their expiry where the server knows it for fields."""
    pairs = [part for pair in values.items() for part in pair]
    if command == "HSETEX":
        pipeline.execute_command("HSETEX", key, "EX", ttl_seconds, "FIELDS", len(values), *pairs)
        return
    pipeline.execute_command("HSET", key, *pairs)
    if command == "HPEXPIRE":
        pipeline.execute_command("HPEXPIRE", key, ttl_seconds * 1_000, "FIELDS", len(values), *values)
