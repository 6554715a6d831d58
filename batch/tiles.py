"""Tiles: the partials of each entity over each hop, by day. Reads `events`, writes `tiles_{group}_{version}`.

A day is always written as a whole (`replaceWhere`), so a day can be folded again at any time, and a late event is included when its day is
folded again. The partition column `folded_from` has a digest of the files of events from which a day was folded, so the logs of both tables show
which days are stale, even after a crash. The table's name contains the version of the declaration, so tiles of another version are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType, _parse_datatype_string

from batch.events import no_events
from batch.partials import (
    arrow_schema,
    by_day,
    numpy_of,
    partial_columns_sql,
    series_of,
    whole_partition,
    with_inputs,
)
from batch.tables import TableState, create_table, digest, partitions_of, retry_conflicts, table_state
from features.declaration import FeatureGroup
from features.tiles import fold_ranges, runs
from features.trial import check_expressions
from features.windows import floor_ms
from infra.settings import Settings

#: The columns with the day, and with the digest of the files of events from which the day was folded.
PARTITIONS = ("day", "folded_from")


@dataclass(frozen=True)
class TilesReport:
    """The numbers of folded events, written tiles, and days."""

    events: int
    tiles: int
    days: int


def tiles_table(group: FeatureGroup) -> str:
    """Returns the name of the group's Delta table of tiles."""
    return f"tiles_{group.name}_{group.fingerprint}"


def build_tiles(spark: SparkSession, settings: Settings, group: FeatureGroup, days: Collection[date]) -> TilesReport:
    """Folds the events of the days (at least one day) into tiles, in one Spark job.

    Raises:
        NoEventsError: There are no events.
        DeclarationError: Spark cannot evaluate an expression of the group.
    """
    check_expressions(spark, group)
    return retry_conflicts(lambda: _build_tiles(spark, settings, group, days))


def _build_tiles(spark: SparkSession, settings: Settings, group: FeatureGroup, days: Collection[date]) -> TilesReport:
    state = table_state(spark, settings.table(group.source.table))
    if state is None:
        raise no_events(group.source)
    dates = ", ".join(f"DATE'{day}'" for day in sorted(days))
    chosen = f"day IN ({dates})"
    events = state.read(spark).where(chosen)
    count = events.count()
    tiles = fold_events(events, group, count, len(days)).withColumn("day", F.to_date(F.timestamp_millis("tile_start_ms")))
    now = _folded_from(spark, state)
    of_day = spark.createDataFrame([(day, now[day]) for day in sorted(now.keys() & days)], "day DATE, folded_from STRING")
    tiles = tiles.join(F.broadcast(of_day), "day")
    path = settings.table(tiles_table(group))
    create_table(spark, path, tiles.schema, PARTITIONS)
    observed = Observation()
    tiles = tiles.observe(observed, F.count("*").alias("tiles"))
    tiles.write.format("delta").mode("overwrite").option("replaceWhere", chosen).save(path)
    return TilesReport(count, observed.get["tiles"], len(days))


def fold_events(events: DataFrame, group: FeatureGroup, count: int, days: int = 1, step_ms: int | None = None) -> DataFrame:
    """Folds events into tiles: entity, tile_start_ms, first_ms, last_ms, events, and one column of partials per feature.

    Args:
        events: Rows of the `events` table.
        group: The declaration.
        count: The approximate number of events.
        days: The number of days that have events.
        step_ms: The length of the tiles in ms; by default the length of the group's tiles.
    """
    inputs = with_inputs(events, group)
    entity_type = inputs.schema["entity"].dataType.simpleString()
    ddl = (
        f"entity {entity_type}, tile_start_ms BIGINT, first_ms BIGINT, last_ms BIGINT, events BIGINT, {partial_columns_sql(group)}"
    )
    schema = _parse_datatype_string(ddl)
    assert isinstance(schema, StructType)
    kernel = _tile_kernel(group, step_ms or group.tile_ms, arrow_schema(schema))
    return by_day(inputs, count, days, "ts_ms").mapInArrow(kernel, schema)


def _tile_kernel(
    group: FeatureGroup, step_ms: int, schema: pa.Schema
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = whole_partition(batches)
        if table is None:
            return
        inputs = series_of(table, group)
        ts_ms = inputs[0].ts_ms
        starts_ms = floor_ms(ts_ms, step_ms)
        lo, hi = runs(numpy_of(table.column("entity")), starts_ms)
        partials = fold_ranges(group, inputs, lo, hi)
        columns = [
            table.column("entity").combine_chunks().take(pa.array(lo)),
            pa.array(starts_ms[lo]),
            pa.array(ts_ms[lo]),
            pa.array(ts_ms[hi - 1]),
            pa.array(hi - lo),
        ]
        columns += [pa.array(column, schema.field(name).type) for column, name in zip(partials, group.feature_names, strict=True)]
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches(max_chunksize=10_000)

    return kernel


def stale_days(spark: SparkSession, settings: Settings, group: FeatureGroup) -> list[date]:
    """Returns the days whose events have changed since their tiles were folded, ascending: new days, deleted days, days with late events.

    The logs of both tables suffice, except for days with events but without tiles. The events of these days are read, because events without
    an entity have no tile.
    """
    events, tiles = table_state(spark, settings.table(group.source.table)), table_state(spark, settings.table(tiles_table(group)))
    return stale_between(spark, group, events, tiles)


def stale_between(spark: SparkSession, group: FeatureGroup, events: TableState | None, tiles: TableState | None) -> list[date]:
    """Returns the `stale_days` as of one commit of each table."""
    now = _folded_from(spark, events) if events else {}
    if tiles is None:
        return sorted(now)  # so that the table is created even if no event has an entity
    folded = {date.fromisoformat(day): name for day, name in partitions_of(spark, tiles)}
    stale = {day for day, name in now.items() if folded.get(day, name) != name} | folded.keys() - now.keys()
    if events and (without := now.keys() - folded.keys()):
        rows = events.read(spark).where(F.col("day").isin(sorted(without)) & F.expr(group.has_entity_sql))
        stale |= {row["day"] for row in rows.select("day").distinct().collect()}
    return sorted(stale)


def _folded_from(spark: SparkSession, events: TableState) -> dict[date, str]:
    """Returns, by day, the digest of the names of the day's files of the events. A file of a Delta table never changes under its name."""
    return {date.fromisoformat(day): digest(files) for (day,), files in partitions_of(spark, events).items()}
