"""Partials and events in Arrow: between the columns of Spark and the arrays and lists that the algebra works on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from features.aggregations import Aggregation, Partial, Series
from features.declaration import FeatureGroup

#: Rows that one Python worker folds at once; more are spread over more partitions.
ROWS_PER_PARTITION = 2_000_000


def with_inputs(events: DataFrame, group: FeatureGroup) -> DataFrame:
    """What the events contribute: `entity`, `ts_ms` and one nullable int64 `input_{i}` per input of the group."""
    inputs = [f"CAST({one.sql} AS BIGINT) AS input_{index}" for index, one in enumerate(group.inputs)]
    return events.where(F.col(group.entity).isNotNull()).selectExpr(f"`{group.entity}` AS entity", "ts_ms", *inputs)


def by_entity(rows: DataFrame, count: int, *order: str) -> DataFrame:
    """All rows of an entity in one partition, sorted by entity and `order`."""
    parallelism = rows.sparkSession.sparkContext.defaultParallelism
    partitions = max(parallelism, -(-count // ROWS_PER_PARTITION))
    return rows.repartition(partitions, "entity").sortWithinPartitions("entity", *order)


def arrow_schema(schema: StructType) -> pa.Schema:
    """The Arrow form of a Spark schema."""
    return to_arrow_schema(schema)


def whole_partition(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    """A partition's batches as one table, None for an empty one."""
    collected = [batch for batch in batches if batch.num_rows]
    return pa.Table.from_batches(collected).combine_chunks() if collected else None


def series_of(table: pa.Table, group: FeatureGroup) -> list[Series]:
    """The inputs of sorted events as the algebra's series."""
    ts_ms = numpy_of(table.column("ts_ms"))
    result = []
    for index in range(len(group.inputs)):
        column = table.column(f"input_{index}")
        valid = np.asarray(column.is_valid().combine_chunks().to_numpy(zero_copy_only=False), dtype=bool)
        result.append(Series(ts_ms, numpy_of(column.fill_null(0)), valid))
    return result


def numpy_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, Any]:
    """The values of a column without nulls; texts as objects."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.to_numpy(zero_copy_only=False)


def partials_to_arrow(partials: Sequence[Partial], kind: pa.DataType) -> pa.Array:
    """A column of partials; pairs become structs."""
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        partials = [None if pair is None else dict(zip(names, pair, strict=True)) for pair in partials]
    return pa.array(partials, type=kind)


def partials_from_arrow(column: pa.ChunkedArray) -> list[Partial]:
    """The partials of a column; structs become pairs."""
    if pa.types.is_struct(column.type):
        return [None if pair is None else tuple(pair.values()) for pair in column.to_pylist()]
    return column.to_pylist()


def partial_columns_sql(group: FeatureGroup) -> str:
    """The columns of a group's partials as a schema string."""
    aggregations: list[tuple[str, Aggregation]] = [(feature.name, feature.aggregation) for feature in group.features]
    return ", ".join(f"`{name}` {aggregation.sql_type}" for name, aggregation in aggregations)
