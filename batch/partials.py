"""Partials and events in Arrow: conversions between the columns of Spark and the arrays and lists of the algebra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from features.aggregations import Partial, Series
from features.declaration import FeatureGroup
from features.windows import DAY_MS

#: The number of rows that a Python worker folds at once. More rows are spread over more partitions.
ROWS_PER_PARTITION = 2_000_000


def with_inputs(events: DataFrame, group: FeatureGroup) -> DataFrame:
    """Returns the inputs of the group: `entity`, `ts_ms` and one nullable column `input_{i}`, BIGINT or STRING, per input."""
    inputs = [
        f"CAST({contribution.sql} AS {contribution.sql_type}) AS input_{index}" for index, contribution in enumerate(group.inputs)
    ]
    return events.where(group.has_entity_sql).selectExpr(f"{group.entity_sql} AS entity", "ts_ms", *inputs)


def by_entity(rows: DataFrame, count: int, *order: str) -> DataFrame:
    """Repartitions about `count` rows: all rows of an entity are in one partition, sorted by entity and `order`, or unsorted without an order."""
    parallelism = rows.sparkSession.sparkContext.defaultParallelism
    partitions = max(parallelism, -(-count // ROWS_PER_PARTITION))
    spread = rows.repartition(partitions, "entity")
    return spread.sortWithinPartitions("entity", *order) if order else spread


def by_day(rows: DataFrame, count: int, days: int, *order: str) -> DataFrame:
    """Repartitions about `count` rows: all rows of an entity and a day (UTC, of `ts_ms`) are in one partition, sorted by entity and `order`.

    The rows of a day are in few partitions.
    """
    parallelism = rows.sparkSession.sparkContext.defaultParallelism
    # Twice the necessary number, because a hash assigns the days to partitions.
    partitions = max(parallelism, -(-2 * count // ROWS_PER_PARTITION))
    shares = -(-partitions // days)
    day, share = F.expr(f"ts_ms - pmod(ts_ms, {DAY_MS})"), F.expr(f"pmod(xxhash64(entity), {shares})")
    return rows.repartition(partitions, day, share).sortWithinPartitions("entity", *order)


def arrow_schema(schema: StructType) -> pa.Schema:
    """Returns the Arrow form of a Spark schema."""
    return to_arrow_schema(schema)


def whole_partition(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    """Returns a partition's batches as one table; None for an empty partition."""
    collected = [batch for batch in batches if batch.num_rows]
    return pa.Table.from_batches(collected).combine_chunks() if collected else None


def series_of(table: pa.Table, group: FeatureGroup) -> list[Series]:
    """Returns the inputs of sorted events as series, one per input of the group."""
    ts_ms = numpy_of(table.column("ts_ms"))
    result = []
    for index, contribution in enumerate(group.inputs):
        column = table.column(f"input_{index}")
        result.append(Series(ts_ms, numpy_of(column.fill_null("" if contribution.text else 0)), numpy_of(column.is_valid())))
    return result


def numpy_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, Any]:
    """Returns the values of a column that has no nulls; texts become Python objects."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.to_numpy(zero_copy_only=False)


def partials_from_arrow(column: pa.ChunkedArray | pa.Array) -> list[Partial]:
    """Returns the partials of a column. Structs become tuples again, because `pa.array` has made structs of the tuples."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind, valid = array.type, array.is_valid().to_pylist()
    if pa.types.is_struct(kind):
        rows = zip(*(array.field(i).to_pylist() for i in range(kind.num_fields)), strict=True)
        return [row if there else None for row, there in zip(rows, valid, strict=True)]
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        pairs, offsets = partials_from_arrow(array.values), array.offsets.to_pylist()
        return [pairs[a:b] if there else None for a, b, there in zip(offsets, offsets[1:], valid, strict=False)]
    return array.to_pylist()


def partial_columns_sql(group: FeatureGroup) -> str:
    """Returns the columns of a group's partials as a schema string."""
    return ", ".join(f"`{name}` {group.partial_sql_type(index)}" for index, name in enumerate(group.feature_names))
