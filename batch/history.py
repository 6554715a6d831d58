"""History: the part of a view from the time before its windows, as one tile per entity.

Reads tiles; writes `history_{group}_{version}`: for each entity the partials of the features without a window, and the time of its latest event,
up to the beginning of a month. With such a snapshot the number of tiles that a view reads does not grow with the years. The name of a snapshot is a
digest of the tiles from which it was made. If these tiles change for any reason, the name no longer matches, and the next view makes a new snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from batch.partials import arrow_schema, by_entity, numpy_of, partials_from_arrow, whole_partition
from batch.tables import TableState, create_table, digest, partitions_of, table_state
from batch.tiles import PARTITIONS
from features.declaration import Feature, FeatureGroup
from features.instants import day_start_ms, utc_day
from features.tiles import runs
from infra.settings import Settings

_SNAPSHOT = ("until", "built_from")


def history_table(group: FeatureGroup) -> str:
    """Returns the name of the group's Delta table of snapshots."""
    return f"history_{group.name}_{group.fingerprint}"


def tiles_for_view(spark: SparkSession, settings: Settings, group: FeatureGroup, tiles: TableState, batch_end_ms: int) -> DataFrame:
    """Returns the tiles for a view: all since the beginning of the month in which the longest window begins, and one per entity for the time before.

    Returns:
        The columns of the tiles without their partition columns, up to the day of batch_end. The tile for the time before has only
        the partials of the features without a window.
    """
    days = sorted(partitions_of(spark, tiles))
    tails_ms = [feature.window.start_ms(batch_end_ms) for feature in group.features if feature.window]
    until = utc_day(min(tails_ms, default=batch_end_ms)).replace(day=1)
    recent = tiles.read(spark).where(F.col("day").between(until, utc_day(batch_end_ms))).drop(*PARTITIONS)
    if not any(day < str(until) for day, _ in days):
        return recent
    return recent.unionByName(_snapshot(spark, settings, group, tiles, days, until), allowMissingColumns=True)


def _snapshot(
    spark: SparkSession, settings: Settings, group: FeatureGroup, tiles: TableState, days: list[tuple[str, ...]], until: date
) -> DataFrame:
    """Returns one tile per entity for the time before `until`: the stored snapshot, or a new snapshot from the latest valid snapshot before it."""
    path = settings.table(history_table(group))

    def name(end: str) -> str:
        return digest(f"{day} {folded_from}" for day, folded_from in days if day < end)

    state = table_state(spark, path)
    stored = list(partitions_of(spark, state)) if state else []
    valid = [snapshot for snapshot in stored if snapshot[1] == name(snapshot[0])]
    base = max((snapshot for snapshot in valid if snapshot[0] <= str(until)), default=None)
    if state and base and base[1] == name(str(until)):
        return _read(state, spark, group, *base)
    timeless = [feature for feature in group.features if feature.window is None]
    columns = ["entity", "tile_start_ms", "last_ms", *(feature.name for feature in timeless)]
    past = tiles.read(spark).where(F.col("day") < until)
    if state and base:
        since = past.where(F.col("day") >= date.fromisoformat(base[0])).select(columns)
        past = since.unionByName(_read(state, spark, group, *base))
    past = past.select(columns)
    schema = StructType([past.schema[column] for column in columns if column != "tile_start_ms"])
    collapsed = by_entity(past, past.count(), "tile_start_ms").mapInArrow(_collapse_kernel(timeless, arrow_schema(schema)), schema)
    rows = collapsed.withColumns({"until": F.lit(until), "built_from": F.lit(name(str(until)))})
    create_table(spark, path, rows.schema, _SNAPSHOT)
    replaced = ", ".join(sorted({f"DATE'{until}'", *(f"DATE'{end}'" for end, _ in set(stored) - set(valid))}))
    rows.write.format("delta").mode("overwrite").option("replaceWhere", f"until IN ({replaced})").save(path)
    # Read the table again: another process, which read other tiles, may have replaced the snapshot.
    return _snapshot(spark, settings, group, tiles, days, until)


def _read(state: TableState, spark: SparkSession, group: FeatureGroup, until: str, built_from: str) -> DataFrame:
    """Returns a snapshot as tiles that begin before every other tile."""
    end = date.fromisoformat(until)
    start_ms = day_start_ms(end) - group.tile_ms
    rows = state.read(spark).where((F.col("until") == end) & (F.col("built_from") == built_from)).drop(*_SNAPSHOT)
    return rows.withColumn("tile_start_ms", F.lit(start_ms).cast("bigint"))


def _collapse_kernel(timeless: list[Feature], schema: pa.Schema) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = whole_partition(batches)
        if table is None:
            return
        lo, hi = runs(numpy_of(table.column("entity")))
        columns = [
            table.column("entity").combine_chunks().take(pa.array(lo)),
            table.column("last_ms").combine_chunks().take(pa.array(hi - 1)),
        ]
        for feature in timeless:
            partials = partials_from_arrow(table.column(feature.name))
            whole = [feature.aggregation.combine_all(partials[a:b]) for a, b in zip(lo.tolist(), hi.tolist(), strict=True)]
            columns.append(pa.array(whole, type=schema.field(feature.name).type))
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches(max_chunksize=10_000)

    return kernel
