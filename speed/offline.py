"""Closed tiles → the speed layer's offline store: Delta `{group}_realtime`, one row per entity and tile, once and for all.

Reads the stream of events; appends a tile when the watermark has passed its end, so that a row never changes. Exactly once by
Delta's own sink. The columns of features hold the tile's finished values at the tile's end (what this tile alone says, to be read
by people); `packed` is the value to compute with.

The same aggregation as `speed.online` runs a second time here, in append mode, on a trigger of minutes: the online query cannot
give its closed tiles (update mode drops them in silence), and reading them from the archive would need a lateness rule of its own.
In one large micro-batch the events cost a fraction of what they cost as they trickle in. Its watermark is its own and
moves more rarely: a late event that the one query still takes may be too late for the other. The batch has it in any case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from features.declaration import FeatureGroup
from features.packed import encode
from infra.settings import Settings
from speed.fold import fold_batch
from speed.stream import tile_events, tiles


def table_of(group: FeatureGroup) -> str:
    """The Delta table of a group's closed tiles."""
    return f"{group.name}_realtime"


def start_offline(spark: SparkSession, settings: Settings, group: FeatureGroup, topic: str) -> StreamingQuery:
    """Starts the query of a group; `topic` is the identity of its source's topic."""
    frame = tiles(settings, group, tile_events(spark, settings, group))
    rows = frame.mapInArrow(partial(finish_tiles, group), tile_schema_sql(group))
    finished = rows.withColumn("tile_end", F.timestamp_millis(F.col("tile_start_ms") + group.tile_ms))
    name = f"offline_{group.name}"
    return (
        finished.writeStream.queryName(name).outputMode("append").format("delta")
        .trigger(processingTime=f"{round(settings.offline_seconds * 1_000)} milliseconds")
        .option("checkpointLocation", settings.checkpoint(f"{name}_{group.fingerprint}_{topic}"))
        # A feature that is declared later is a new column.
        .option("mergeSchema", "true")
        .start(settings.table(table_of(group)))
    )  # fmt: skip


def tile_schema_sql(group: FeatureGroup) -> str:
    """The columns of the table, but for tile_end. A changed declaration never changes a column's type, which Delta would refuse.

    So features that are numbers are all DOUBLE, and those that are lists stand together in one map of name → JSON.
    """
    features = [f"`{name}` DOUBLE" for name in group.model_names]
    features += ["lists MAP<STRING, STRING>"] if _lists(group) else []
    return (
        f"entity {group.entity_type.value}, fingerprint STRING, tile_start_ms BIGINT, first_ms BIGINT, last_ms BIGINT, "
        f"{', '.join(features)}, packed BINARY"
    )


def finish_tiles(group: FeatureGroup, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Folds tiles and finishes their values; runs in Spark's Python workers."""
    for batch in batches:
        if not batch.num_rows:
            continue
        folded = fold_batch(group, batch)
        ends_ms = [start_ms + group.tile_ms for start_ms in batch.column("tile_start_ms").to_pylist()]
        columns = {
            "entity": batch.column("entity"),
            "fingerprint": pa.array([group.fingerprint] * len(folded)),
            "tile_start_ms": batch.column("tile_start_ms"),
            "first_ms": pa.array([tile.first_ms for tile in folded], pa.int64()),
            "last_ms": pa.array([tile.last_ms for tile in folded], pa.int64()),
        }
        values: dict[str, list[Any]] = {
            feature.name: [
                feature.aggregation.finalize(tile.partials[index], end_ms, group.scale_of(index))
                for tile, end_ms in zip(folded, ends_ms, strict=True)
            ]
            for index, feature in enumerate(group.features)
        }
        for name in group.model_names:
            columns[name] = pa.array([None if value is None else float(value) for value in values[name]], pa.float64())
        if lists := _lists(group):
            texts = ({name: json.dumps(value) for name in lists if (value := values[name][row])} for row in range(len(folded)))
            columns["lists"] = pa.array([list(one.items()) for one in texts], pa.map_(pa.string(), pa.string()))
        columns["packed"] = pa.array([encode(tile) for tile in folded], pa.binary())
        yield pa.record_batch(columns)


def _lists(group: FeatureGroup) -> list[str]:
    return [name for name in group.feature_names if name not in group.model_names]
