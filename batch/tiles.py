"""Tiles: the partials of each entity over each hop, by day. Reads `events`, writes `tiles_{group}_{version}`.

A day is written whole (`replaceWhere`), so doing it again changes nothing, and a late event heals by doing its day again. The
version of the declaration is in the table's name: tiles of another meaning are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType, _parse_datatype_string

from batch.partials import (
    arrow_schema,
    by_entity,
    numpy_of,
    partial_columns_sql,
    partials_to_arrow,
    series_of,
    whole_partition,
    with_inputs,
)
from features.declaration import FeatureGroup
from features.tiles import fold_ranges, runs
from features.windows import floor_ms
from infra.errors import NotReadyError
from infra.settings import Settings


@dataclass(frozen=True)
class TilesReport:
    """What was folded: events, tiles, and days."""

    events: int
    tiles: int
    days: int


def tiles_table(group: FeatureGroup) -> str:
    """The name of the group's Delta table of tiles."""
    return f"tiles_{group.name}_{group.fingerprint}"


def build_tiles(spark: SparkSession, settings: Settings, group: FeatureGroup, days: Collection[date]) -> TilesReport:
    """Folds the events of the days (at least one) into tiles, in one Spark job whatever their number.

    Raises:
        NotReadyError: There is no `events` table.
    """
    events_path = settings.table(group.source.table)
    if not DeltaTable.isDeltaTable(spark, events_path):
        raise NotReadyError("There are no events yet.", "Load a file by `braid load FILE` or stream some by `braid replay FILE`.")
    dates = ", ".join(f"DATE'{day}'" for day in sorted(days))
    chosen = f"day IN ({dates})"
    events = spark.read.format("delta").load(events_path).where(chosen)
    count = events.count()
    tiles = fold_events(events, group, count).withColumn("day", F.to_date(F.timestamp_millis("tile_start_ms")))
    path = settings.table(tiles_table(group))
    writer = tiles.write.format("delta").mode("overwrite").partitionBy("day")
    if DeltaTable.isDeltaTable(spark, path):
        writer = writer.option("replaceWhere", chosen)
    writer.save(path)
    latest = DeltaTable.forPath(spark, path).history(1).first()
    assert latest is not None
    return TilesReport(count, int(latest["operationMetrics"].get("numOutputRows", 0)), len(days))


def fold_events(events: DataFrame, group: FeatureGroup, count: int) -> DataFrame:
    """The tiles of some events: entity, tile_start_ms, first_ms, last_ms, events, and one column of partials per feature."""
    inputs = with_inputs(events, group)
    entity_type = inputs.schema["entity"].dataType.simpleString()
    ddl = (
        f"entity {entity_type}, tile_start_ms BIGINT, first_ms BIGINT, last_ms BIGINT, events BIGINT, {partial_columns_sql(group)}"
    )
    schema = _parse_datatype_string(ddl)
    assert isinstance(schema, StructType)
    return by_entity(inputs, count, "ts_ms").mapInArrow(_tile_kernel(group, arrow_schema(schema)), schema)


def _tile_kernel(group: FeatureGroup, schema: pa.Schema) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = whole_partition(batches)
        if table is None:
            return
        inputs = series_of(table, group)
        ts_ms = inputs[0].ts_ms
        starts_ms = floor_ms(ts_ms, group.tile_ms)  # type: ignore[arg-type]
        lo, hi = runs(numpy_of(table.column("entity")), starts_ms)
        partials = fold_ranges(group, inputs, lo, hi)
        columns = [
            table.column("entity").combine_chunks().take(pa.array(lo)),
            pa.array(starts_ms[lo]),
            pa.array(ts_ms[lo]),
            pa.array(ts_ms[hi - 1]),
            pa.array(hi - lo),
        ]
        columns += [
            partials_to_arrow(one, schema.field(name).type) for one, name in zip(partials, group.feature_names, strict=True)
        ]
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches(max_chunksize=10_000)

    return kernel


def stale_days(spark: SparkSession, settings: Settings, group: FeatureGroup) -> list[date]:
    """The days whose events are not the ones that their tiles were folded from: new, or touched by late events. Ascending."""
    events_path, path = settings.table(group.source.table), settings.table(tiles_table(group))
    if not DeltaTable.isDeltaTable(spark, events_path):
        return []
    # An event without the entity has no tile.
    events = spark.read.format("delta").load(events_path).where(F.col(group.entity).isNotNull())
    now = events.groupBy("day").agg(F.count("*").alias("n"))
    if DeltaTable.isDeltaTable(spark, path):
        folded = spark.read.format("delta").load(path).groupBy("day").agg(F.sum("events").alias("folded"))
        now = now.join(folded, "day", "left").where("folded IS NULL OR folded <> n")
    return sorted(row["day"] for row in now.select("day").collect())
