"""History: all that a view needs of the time before its windows, as one tile per entity.

Reads tiles; writes `history_{group}_{version}`: per entity the partials of all time, and its latest event, up to the beginning of a
month. A snapshot is named by the tiles that it was made from, so that one whose past has changed since is never read, whoever
changed it and whatever crashed in between; the next view makes another. What a view reads thereby does not grow with the years.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from batch.partials import arrow_schema, by_entity, numpy_of, partials_from_arrow, whole_partition
from batch.tables import TableState, create_table, digest, partitions_of, table_state
from batch.tiles import PARTITIONS
from features.declaration import Feature, FeatureGroup
from features.tiles import runs
from infra.settings import Settings

_SNAPSHOT = ("until", "built_from")


def history_table(group: FeatureGroup) -> str:
    """The name of the group's Delta table of snapshots."""
    return f"history_{group.name}_{group.fingerprint}"


def tiles_for_view(spark: SparkSession, settings: Settings, group: FeatureGroup, tiles: TableState, batch_end_ms: int) -> DataFrame:
    """What the view as of `batch_end_ms` is built from: the tiles of the days that its windows reach, and one per entity before.

    Returns:
        Columns of the tiles without their partitions, of days up to that of batch_end; in the one before, only the partials of all
        time are there.
    """
    days = sorted(partitions_of(tiles.read(spark), len(PARTITIONS)))
    tails_ms = [feature.window.start_ms(batch_end_ms) for feature in group.features if feature.window]
    until = _date(min(tails_ms, default=batch_end_ms)).replace(day=1)
    recent = tiles.read(spark).where(F.col("day").between(until, _date(batch_end_ms))).drop(*PARTITIONS)
    if not any(day < str(until) for day, _ in days):
        return recent
    return recent.unionByName(_snapshot(spark, settings, group, tiles, days, until), allowMissingColumns=True)


def _snapshot(
    spark: SparkSession, settings: Settings, group: FeatureGroup, tiles: TableState, days: list[tuple[str, ...]], until: date
) -> DataFrame:
    """One tile per entity of all before `until`: the snapshot that is there, or one that is made from the latest before it."""
    path = settings.table(history_table(group))

    def name(end: str) -> str:
        return digest(f"{day} {folded_from}" for day, folded_from in days if day < end)

    state = table_state(spark, path)
    stored = list(partitions_of(state.read(spark), len(_SNAPSHOT))) if state else []
    valid = [one for one in stored if one[1] == name(one[0])]
    base = max((one for one in valid if one[0] <= str(until)), default=None)
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
    # Not what was written, but what is there: another, who has seen another past, may have replaced it.
    return _snapshot(spark, settings, group, tiles, days, until)


def _read(state: TableState, spark: SparkSession, group: FeatureGroup, until: str, built_from: str) -> DataFrame:
    """A snapshot as tiles that begin before every other."""
    end = date.fromisoformat(until)
    start_ms = int(datetime(end.year, end.month, end.day, tzinfo=UTC).timestamp()) * 1_000 - group.tile_ms
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


def _date(instant_ms: int) -> date:
    return datetime.fromtimestamp(instant_ms / 1_000, UTC).date()
