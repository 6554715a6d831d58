"""Point in time: the features of entities at given instants, by the same windows and the same algebra as serving.

Reads `events` and instants; returns a row per instant. The window at q contains only events before q.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType, _parse_datatype_string

from batch.partials import arrow_schema, by_entity, numpy_of, series_of, whole_partition, with_inputs
from features.aggregations import Ints
from features.declaration import FeatureGroup
from features.finish import finish
from infra.settings import Settings


def point_in_time(
    spark: SparkSession,
    settings: Settings,
    group: FeatureGroup,
    labels: DataFrame,
    instants: Mapping[str, str] | None = None,
    only: Mapping[str, Collection[str]] | None = None,
) -> DataFrame:
    """Returns the features of each label's entity at the label's time.

    Args:
        spark: The session.
        settings: The settings, with the place of the lake.
        group: The declaration.
        labels: A column `entity` and the columns of `instants`; other columns are passed through.
        instants: Prefix of the result's columns → column with the time, int64 ms since 1970. Default: no prefix, `q_ms`.
        only: Prefix → the features that are computed at that time; all features for a prefix without an entry.

    Returns:
        `labels` with one column `{prefix}{feature}` per prefix and feature, of the feature's SQL type; NULL if the feature has no value.
    """
    requested = [
        (f"{prefix}{name}", column, index)
        for prefix, column in (instants or {"": "q_ms"}).items()
        for index, name in enumerate(group.feature_names)
        if name in (only or {}).get(prefix, group.feature_names)
    ]
    table = spark.read.format("delta").load(settings.table(group.source.table))
    events = with_inputs(table, group)
    rows = events.withColumn("label", F.lit(None).cast(labels.schema.simpleString())).unionByName(
        labels.select("entity", F.struct(*labels.columns).alias("label")), allowMissingColumns=True
    )
    values = [f"`{name}` {group.value_sql_type(index)}" for name, _, index in requested]
    schema = _parse_datatype_string(", ".join([*(f"`{f.name}` {f.dataType.simpleString()}" for f in labels.schema), *values]))
    assert isinstance(schema, StructType)
    # Delta counts the events by the log, without reading them.
    return by_entity(rows, table.count()).mapInArrow(_kernel(group, requested, arrow_schema(schema)), schema)


def _kernel(
    group: FeatureGroup, requested: list[tuple[str, str, int]], schema: pa.Schema
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = whole_partition(batches)
        if table is None:
            return
        is_label = table.column("label").is_valid()
        events, labels = table.filter(table.column("ts_ms").is_valid()), table.filter(is_label)
        if not labels.num_rows:
            return
        entities, places = np.unique(
            np.concatenate([numpy_of(events.column("entity")), numpy_of(labels.column("entity"))]), return_inverse=True
        )
        event_at, label_at = places[: events.num_rows], places[events.num_rows :]
        inputs = series_of(events, group)
        # Sorted here and not by Spark, because Spark orders texts differently from numpy.
        order = np.lexsort((inputs[0].ts_ms, event_at))
        inputs = [type(series)(series.ts_ms[order], series.v[order], series.valid[order]) for series in inputs]
        find = _Finder(event_at[order], inputs[0].ts_ms, len(entities))
        structs = labels.column("label").combine_chunks()
        columns: list[Any] = [structs.field(i) for i in range(structs.type.num_fields)]
        for _, column, index in requested:
            feature, q_ms = group.features[index], numpy_of(structs.field(column)).astype(np.int64)
            start_ms = np.full_like(q_ms, np.iinfo(np.int64).min) if feature.window is None else feature.window.start_ms(q_ms)
            lo, hi = find(label_at, start_ms), find(label_at, q_ms)
            values = finish(feature.aggregation, inputs[group.input_of[index]], lo, hi, q_ms, group.scale_of(index))
            columns.append(pa.array(values, type=schema.field(len(columns)).type))
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches(max_chunksize=10_000)

    return kernel


class _Finder:
    """Finds, for many pairs (entity, instant), the index of the entity's first event that is not before the instant."""

    def __init__(self, entity: Ints, ts_ms: Ints, entities: int) -> None:
        self._low = int(ts_ms.min()) if len(ts_ms) else 0
        self._span = (int(ts_ms.max()) if len(ts_ms) else 0) - self._low + 2
        if self._span * (entities + 1) >= 2**63:
            raise OverflowError("The events of one partition span too many entities and milliseconds.")
        self._keys = entity * self._span + (ts_ms - self._low)

    def __call__(self, entity: Ints, instant_ms: Ints) -> Ints:
        return np.searchsorted(
            self._keys, entity * self._span + np.clip(instant_ms, self._low, self._low + self._span - 1) - self._low
        )
