"""The batch view: all that is known of each entity before batch_end.

Reads tiles (and the events of the tile that batch_end cuts), writes `view_{group}`: the packed value for the online store, and
beside it the finished features for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType, _parse_datatype_string

from batch.partials import arrow_schema, by_entity, numpy_of, partials_from_arrow, whole_partition
from batch.tiles import fold_events, stale_days, tiles_table
from features.declaration import FeatureGroup
from features.packed import encode
from features.sources import EventSource
from features.tiles import runs
from features.view import build_view as build_entity_view
from features.windows import floor_ms
from infra.errors import NotReadyError
from infra.settings import Settings


@dataclass(frozen=True)
class ViewReport:
    """What was written: entities, tiles read, and the instant up to which the view knows everything."""

    entities: int
    tiles: int
    batch_end_ms: int


def view_table(group: FeatureGroup) -> str:
    """The name of the group's Delta table with its batch view."""
    return f"view_{group.name}"


def default_batch_end_ms(spark: SparkSession, settings: Settings, source: EventSource, now_ms: int) -> int:
    """The latest batch_end that the batch can vouch for.

    It lies after everything that was loaded and, of what was streamed, at the watermark: the stream may still accept events after it.

    Raises:
        NotReadyError: There are no events.
    """
    path = settings.table(source.table)
    rows = (
        spark.read.format("delta").load(path).groupBy("origin").agg(F.max("ts_ms").alias("newest")).collect()
        if DeltaTable.isDeltaTable(spark, path)
        else []
    )
    newest = {row["origin"]: row["newest"] for row in rows}
    if not newest:
        raise NotReadyError("There are no events yet.", "Load a file by `braid load FILE` or stream some by `braid replay FILE`.")
    vouched = [newest["load"] + 1] if "load" in newest else []
    vouched += [newest["stream"] - settings.watermark_seconds * 1_000] if "stream" in newest else []
    return min(max(vouched), now_ms)


def build_view(spark: SparkSession, settings: Settings, group: FeatureGroup, batch_end_ms: int) -> ViewReport:
    """Builds the view as of `batch_end_ms` (any millisecond) and replaces the group's table by it, atomically.

    Raises:
        NotReadyError: A day with events before batch_end has no tiles, or tiles of fewer events.
    """
    path = settings.table(tiles_table(group))
    last_day = datetime.fromtimestamp(batch_end_ms / 1_000, UTC).date()
    behind = [day for day in stale_days(spark, settings, group) if day <= last_day]
    if behind:
        raise NotReadyError(
            f"The tiles of {len(behind)} days before batch_end are not up to date, the first {behind[0]}.", "Run `braid backfill`."
        )
    if not DeltaTable.isDeltaTable(spark, path):
        raise NotReadyError(f"There are no tiles of {group.name}.", "Run `braid backfill`.")
    cut_ms = floor_ms(batch_end_ms, group.tile_ms)
    tiles = spark.read.format("delta").load(path).where(F.col("tile_start_ms") < cut_ms).drop("day")
    if cut_ms < batch_end_ms:
        events = spark.read.format("delta").load(settings.table(group.source.table))
        cut = events.where(
            (F.col("ts_ms") >= cut_ms)
            & (F.col("ts_ms") < batch_end_ms)
            & (F.col("day") == F.to_date(F.timestamp_millis(F.lit(cut_ms))))
        )
        tiles = tiles.unionByName(fold_events(cut, group, 1))
    count = tiles.count()
    entity_type = tiles.schema["entity"].dataType.simpleString()
    values = ", ".join(f"`{feature.name}` {group.value_sql_type(index)}" for index, feature in enumerate(group.features))
    schema = _parse_datatype_string(
        f"entity {entity_type}, batch_end_ms BIGINT, fingerprint STRING, newest_event_ms BIGINT, packed BINARY, {values}"
    )
    assert isinstance(schema, StructType)
    view = by_entity(tiles, count, "tile_start_ms").mapInArrow(_view_kernel(group, batch_end_ms, arrow_schema(schema)), schema)
    target = settings.table(view_table(group))
    view.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(target)
    latest = DeltaTable.forPath(spark, target).history(1).first()
    assert latest is not None
    return ViewReport(int(latest["operationMetrics"].get("numOutputRows", 0)), count, batch_end_ms)


def _view_kernel(
    group: FeatureGroup, batch_end_ms: int, schema: pa.Schema
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = whole_partition(batches)
        if table is None:
            return
        starts_ms = table.column("tile_start_ms").to_pylist()
        newest_ms = table.column("last_ms").to_pylist()
        partials = [partials_from_arrow(table.column(name)) for name in group.feature_names]
        lo, hi = runs(numpy_of(table.column("entity")))
        rows = []
        for a, b in zip(lo.tolist(), hi.tolist(), strict=True):
            view = build_entity_view(group, batch_end_ms, starts_ms[a:b], [column[a:b] for column in partials], newest_ms[b - 1])
            values = [
                feature.aggregation.finalize(
                    one.suffixes[0] if one.suffixes else one.collapsed, batch_end_ms, group.scale_of(index)
                )
                for index, (feature, one) in enumerate(zip(group.features, view.features, strict=True))
            ]
            rows.append((batch_end_ms, group.fingerprint, view.newest_event_ms, encode(view), *values))
        entities = table.column("entity").combine_chunks().take(pa.array(lo))
        columns = [entities, *(pa.array(column, type=schema.field(i + 1).type) for i, column in enumerate(zip(*rows, strict=True)))]
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches(max_chunksize=10_000)

    return kernel
