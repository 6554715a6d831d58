"""Computes the features of a few events, for tests of a declaration. DuckDB evaluates the SQL; neither services nor Spark are needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import sqlglot

from features.aggregations import Partial, Value
from features.declaration import FeatureGroup
from features.errors import BraidError
from features.instants import parse_rfc3339
from features.sources import ColumnType

__all__ = ["features_at"]

_CASTS = {ColumnType.INT64: "BIGINT", ColumnType.TIMESTAMP: "TIMESTAMPTZ", ColumnType.MAP: "JSON::MAP(VARCHAR, VARCHAR)"}
#: A stand-in for Spark's hash. Distinct counts need only that different values have different hashes.
_XXHASH64 = "CREATE MACRO xxhash64(x) AS (hash(x)::HUGEINT - 9223372036854775808)::BIGINT"


def features_at(
    group: FeatureGroup, events: Iterable[Mapping[str, Any]], entity: int | str | tuple[int | str, ...], at: str
) -> dict[str, Value]:
    """Computes the features of an entity at an instant, by the aggregations that batch, speed and the training set use.

    Args:
        group: The declaration.
        events: The events, each as in a file of JSON lines: column of the source → value. If several events have one id, the first counts.
        entity: The id of the entity; a tuple of values if several columns identify it.
        at: The instant, in RFC 3339 with an offset.

    Returns:
        Feature → value; None if the feature has no value.

    Raises:
        BraidError: An event has no value in a required column.
        ValueError: `at` is not a time with an offset.
        duckdb.Error: A value does not fit its column.
    """
    source, at_ms = group.source, parse_rfc3339(at)
    distinct_events: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if lacking := [column.name for column in source.columns if column.required and event.get(column.name) is None]:
            raise BraidError(f"The event {event} has no {lacking[0]}.", f"{source.name} requires it.")
        distinct_events.setdefault(event[source.event_id], event)
    texts = {column.name: [_text(event.get(column.name)) for event in distinct_events.values()] for column in source.columns}
    typed = ", ".join(
        f'unnest(${column.name}::VARCHAR[])::{_CASTS.get(column.type, column.type)} AS "{column.name}"' for column in source.columns
    )
    id_sql, *inputs = (
        sqlglot.transpile(sql, read="spark", write="duckdb")[0] for sql in (group.entity_sql, *(used.sql for used in group.inputs))
    )
    entity_id = entity if isinstance(entity, int | str) else group.id_of(entity)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_XXHASH64)
        connection.execute(f"CREATE TABLE events AS SELECT {typed}", texts)
        rows = connection.execute(
            f'SELECT epoch_ms("{source.time}") AS ts_ms, {", ".join(inputs)} FROM events WHERE {id_sql} = $1 AND ts_ms < $2 ORDER BY ts_ms',
            [entity_id, at_ms],
        ).fetchall()
    values_by_name: dict[str, Value] = {}
    for index, feature in enumerate(group.features):
        start_ms = feature.window.start_ms(at_ms) if feature.window else None
        partial: Partial = None
        for ts_ms, *values in rows:
            value = values[group.input_of[index]]
            if value is not None and (start_ms is None or ts_ms >= start_ms):
                partial = feature.aggregation.add(partial, ts_ms, value)
        values_by_name[feature.name] = feature.aggregation.finalize(partial, at_ms, group.scale_of(index))
    return values_by_name


def _text(value: Any) -> str | None:
    """Converts a value to the text of a raw column; None for None."""
    return json.dumps(value) if isinstance(value, dict | bool) else None if value is None else str(value)
