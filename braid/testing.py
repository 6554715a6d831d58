"""Computes the features of a few events, for tests of a declaration. DuckDB evaluates the SQL; neither services nor Spark are needed.

The values of events are read by the contract that the platform applies to messages and files (`features.sources.Column.typed_sql`), here in Python, and
an event that the platform would refuse is an error. `tests/test_one_contract.py` compares both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

import duckdb
import sqlglot

from features.aggregations import Partial, Value
from features.declaration import FeatureGroup
from features.errors import BraidError
from features.instants import instant_of, parse_rfc3339
from features.sources import EXPECTED, RFC3339, Column, ColumnType, EventSource

__all__ = ["features_at"]

#: Type → the type in DuckDB. A decimal is wider than the platform's: DuckDB gives a product the digits of its factors, and Spark more.
_CASTS = {ColumnType.DECIMAL: "DECIMAL(38, 6)", ColumnType.TIMESTAMP: "TIMESTAMPTZ", ColumnType.MAP: "JSON::MAP(VARCHAR, VARCHAR)"}
#: The column of the table of events with the time of the event, in ms since 1970.
_TS_MS = "_braid_ts_ms"
_TIME = re.compile(RFC3339.replace("\\\\", "\\"), re.ASCII)
_INTEGER = re.compile(r"([+-]?\d+)(\.0+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
#: More digits than any number that fits.
_DIGITS = Context(prec=100)
#: The largest offset of a time.
_OFFSET = timedelta(hours=18)
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
        BraidError: An event has no value in a required column, a value does not fit its column, or a time lies outside of the source's bounds.
        ValueError: `at` is not a time with an offset.
    """
    source, at_ms = group.source, parse_rfc3339(at)
    distinct_events: dict[str | None, tuple[dict[str, str | None], int]] = {}
    for event in events:
        texts, ts_ms = _read(source, event)
        distinct_events.setdefault(texts[source.event_id], (texts, ts_ms))
    columns: dict[str, list[Any]] = {
        column.name: [texts[column.name] for texts, _ in distinct_events.values()] for column in source.columns
    }
    columns[_TS_MS] = [ts_ms for _, ts_ms in distinct_events.values()]
    typed = ", ".join(
        f'unnest(${column.name}::VARCHAR[])::{_CASTS.get(column.type, column.type)} AS "{column.name}"' for column in source.columns
    )
    id_sql, has_entity, *inputs = (
        sqlglot.transpile(sql, read="spark", write="duckdb")[0]
        for sql in (group.entity_sql, group.has_entity_sql, *(used.sql for used in group.inputs))
    )
    entity_id = entity if isinstance(entity, int | str) else group.id_of(entity)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_XXHASH64)
        connection.execute(f"CREATE TABLE events AS SELECT {typed}, unnest(${_TS_MS}::BIGINT[]) AS {_TS_MS}", columns)
        rows = connection.execute(
            f"SELECT {_TS_MS}, {', '.join(inputs)} FROM events WHERE {id_sql} = $1 AND {has_entity} AND {_TS_MS} < $2 ORDER BY {_TS_MS}",
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


def _read(source: EventSource, event: Mapping[str, Any]) -> tuple[dict[str, str | None], int]:
    """Reads an event. Returns column → a text that DuckDB casts exactly, or None; and the time of the event, in ms since 1970.

    Raises:
        BraidError: The platform would refuse the event.
    """
    texts: dict[str, str | None] = {}
    for column in source.columns:
        raw = _text(event.get(column.name))
        blank = raw is None or not raw.strip(" ")
        if blank and column.required:
            raise BraidError(f"The event {event} has no {column.name}.", f"{source.name} requires it.")
        texts[column.name] = raw if column.type is ColumnType.STRING else None if raw is None or blank else _fitting(column, raw)
    time = texts[source.time]
    assert time is not None
    ts_ms = instant_of(datetime.fromisoformat(time))
    if not source.earliest_ms <= ts_ms < source.latest_ms:
        side = f"before {source.earliest}" if ts_ms < source.earliest_ms else f"after {source.latest}"
        raise BraidError(
            f"{source.time} lies {side}: {event[source.time]}.", f"The platform refuses such an event of {source.name}."
        )
    return texts, ts_ms


def _fitting(column: Column, raw: str) -> str:
    """Converts the text of a raw column as `Column.typed_sql` does. Returns a text that DuckDB casts exactly to the type of the column.

    Raises:
        BraidError: The text does not fit the column.
    """
    typed = {ColumnType.INT64: _integer, ColumnType.DECIMAL: _decimal, ColumnType.TIMESTAMP: _time, ColumnType.MAP: _map}[
        column.type
    ](raw)
    if typed is None:
        raise BraidError(
            f"{column.name} is not {EXPECTED[column.type]}: {raw[:80]}.", "The platform refuses an event with such a value."
        )
    return typed


def _integer(raw: str) -> str | None:
    matched = _INTEGER.fullmatch(raw.strip(" "))
    number = int(matched[1]) if matched else 2**63
    return str(number) if -(2**63) <= number < 2**63 else None


def _decimal(raw: str) -> str | None:
    """Rounds to 18 decimal places, as Spark's cast, then a half to the even neighbour of six."""
    if not _NUMBER.fullmatch(raw.strip(" ")):
        return None
    try:
        read = Decimal(raw.strip(" ")).quantize(Decimal("1e-18"), ROUND_HALF_UP, _DIGITS)
    except InvalidOperation:  # it has more digits than any number that fits
        return None
    rounded = read.quantize(Decimal("1e-6"), ROUND_HALF_EVEN, _DIGITS)
    return f"{rounded:f}" if abs(rounded) < 10**12 else None


def _time(raw: str) -> str | None:
    if not _TIME.fullmatch(raw):
        return None
    try:
        moment = datetime.fromisoformat(raw.upper())
    except ValueError:
        return None
    offset = moment.utcoffset()
    assert offset is not None  # the pattern has one
    return moment.isoformat() if abs(offset) <= _OFFSET and (raw[-3] != ":" or int(raw[-2:]) < 60) else None


def _map(raw: str) -> str | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return raw if isinstance(value, dict) else "{}" if value == [] else None  # PHP writes an empty map as an empty array


def _text(value: Any) -> str | None:
    """Converts a value to the text of a raw column; None for None."""
    return json.dumps(value) if isinstance(value, dict | list | bool) else None if value is None else str(value)
