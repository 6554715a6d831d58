"""Computes the features of an example's label points by hand-written SQL in DuckDB, as of their time and as of the last midnight.

Reads the CSV files of an example's events and labels, and the declaration of its model. For each feature the SQL has an aggregate over the earlier
events of the entity. It uses neither the aggregations nor the tiles of the product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pandas as pd

from features.declaration import Feature, FeatureGroup
from features.model import Model
from features.sources import ColumnType
from features.windows import DAY_MS
from orchestration.proof import UNIT_MS

_TYPES = {ColumnType.INT64: "BIGINT", ColumnType.DECIMAL: "DECIMAL(18, 6)", ColumnType.TIMESTAMP: "TIMESTAMPTZ"}


def label_points(model: Model, events: Mapping[str, Path], labels: Path) -> pd.DataFrame:
    """Returns each label point with its features at its own time, and with its features at the last midnight before that time.

    Args:
        model: The declaration.
        events: Source → CSV file with the columns of the source.
        labels: CSV file with the keys of the model, its request columns, `time`, `label`, and columns that are passed through.

    Returns:
        The columns of the labels without `time`; `q_ms`; the features by their names in the model; and the features at midnight by these names with
        the prefix `batch_`. Ordered by time.
    """
    kinds = {**model.vector.keys, **{column.name: column.type for column in model.request}, "time": ColumnType.TIMESTAMP}
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for source in {group.source.name: group.source for group in model.groups}.values():
            columns = ", ".join(f"'{column.name}': '{_TYPES.get(column.type, 'VARCHAR')}'" for column in source.columns)
            connection.execute(
                f"CREATE TABLE {source.table} AS SELECT * EXCLUDE ({source.time}), epoch_ms({source.time}) AS ts_ms "
                f"FROM read_csv('{events[source.name]}', header = true, types = {{{columns}}})"
            )
        types = ", ".join(f"'{name}': '{_TYPES.get(kind, 'VARCHAR')}'" for name, kind in kinds.items())
        connection.execute(
            f"CREATE TABLE points AS SELECT * EXCLUDE (time), epoch_ms(time) AS q_ms, q_ms - q_ms % {DAY_MS} AS midnight_ms "
            f"FROM read_csv('{labels}', header = true, types = {{{types}}})"
        )
        selected, joins = ["points.* EXCLUDE (midnight_ms)"], []
        for place, entry in enumerate(model.vector.inputs):
            for kind, instant in (("", "q_ms"), ("batch_", "midnight_ms")):
                table = f"{kind}input_{place}"
                connection.execute(f"CREATE TABLE {table} AS {features_sql(entry.group, entry.keys, instant)}")
                selected += [f"{table}.{name} AS {kind}{entry.prefix}{name}" for name in entry.group.feature_names]
                joins.append(
                    f"JOIN {table} ON {table}.entity = {_id([f'points.{key}' for key in entry.keys])} AND {table}.q_ms = points.{instant}"
                )
        return connection.execute(
            f"SELECT {', '.join(selected)} FROM points {' '.join(joins)} ORDER BY {', '.join(['points.q_ms', *model.vector.keys])}"
        ).df()


def features_sql(group: FeatureGroup, keys: Sequence[str], instant: str) -> str:
    """Returns SQL for the features of a group at each distinct (`keys`, `instant`) of the table `points`. Columns: `entity`, `q_ms`, the features."""
    features = ", ".join(f"{_feature_sql(feature)} AS {feature.name}" for feature in group.features)
    events = (
        f"SELECT * EXCLUDE (ts_ms), {_id(group.entity_names)} AS entity, ts_ms AS t, true AS is_event FROM {group.source.table}"
    )
    points = f"SELECT DISTINCT {_id(keys)} AS entity, {instant} AS t, false AS is_event FROM points"
    rows = f"SELECT entity, t AS q_ms, is_event, {features} FROM ({events} UNION ALL BY NAME {points})"
    return f"SELECT * EXCLUDE (is_event) FROM ({rows}) WHERE NOT is_event"


def _id(columns: Sequence[str]) -> str:
    """Returns SQL for the entity: a column, or a row of several columns."""
    return columns[0] if len(columns) == 1 else f"row({', '.join(columns)})"


def _feature_sql(feature: Feature) -> str:
    """Returns SQL for the value of a feature from the events before each row; the tail of its window snaps down to a hop."""
    where = f"is_event AND ({feature.where})" if feature.where else "is_event"
    begin = "UNBOUNDED PRECEDING"
    if feature.window:
        begin = f"(t - (t - {feature.window.size_ms}) // {feature.window.hop_ms} * {feature.window.hop_ms}) PRECEDING"
    of = f"{feature.of}::DOUBLE"

    def over(aggregate: str) -> str:
        return f"{aggregate} FILTER (WHERE {where}) OVER (PARTITION BY entity ORDER BY t RANGE BETWEEN {begin} AND 1 PRECEDING)"

    kind = feature.aggregation.kind
    if kind == "count":
        return over("count(*)")
    if kind == "sum":
        return f"coalesce({over(f'sum({of})')}, 0)"
    if kind == "mean":
        return over(f"avg({of})")
    if kind == "distinct":
        return over(f"count(DISTINCT {feature.of})")
    assert kind == "since_last", f"The benchmark has no SQL for {kind}."
    return f"(t - {over('max(t)')}) / {UNIT_MS[feature.aggregation.unit]}::DOUBLE"  # type: ignore[attr-defined]
