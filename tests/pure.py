"""The way of events through the pure code alone: events → inputs → tiles and view → bytes. DuckDB stands in for Spark's SQL.

An event is a row of the `events` table: the source's columns by name, decimals as `Fraction`, and `ts_ms`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import sqlglot

from features import packed
from features.aggregations import Series, Value
from features.declaration import FeatureGroup
from features.sources import ColumnType, EventSource
from features.speed_tiles import SpeedTiles, decode_speed
from features.speed_value import pack_tile, speed_head, with_entries
from features.tiles import fold_ranges, fold_tile_values, runs
from features.view import build_view, exact_span_ms
from features.windows import floor_ms

Event = dict[str, Any]
_ARROW = {
    ColumnType.STRING: pa.string(), ColumnType.INT64: pa.int64(), ColumnType.DECIMAL: pa.decimal128(38, 6),
    ColumnType.TIMESTAMP: pa.timestamp("ms", "UTC"), ColumnType.MAP: pa.map_(pa.string(), pa.string()),
}  # fmt: skip


@cache
def duck() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    connection.execute("CREATE MACRO xxhash64(x) AS (hash(x)::HUGEINT - 9223372036854775808)::BIGINT")
    return connection


@cache
def in_duckdb(spark_sql: str) -> str:
    return sqlglot.transpile(spark_sql, read="spark", write="duckdb")[0]


def evaluated(source: EventSource, events: Sequence[Event], expressions: Sequence[str]) -> list[list[Any]]:
    """Of each expression in Spark SQL its value for each event."""
    if not events:
        return [[] for _ in expressions]
    columns = {"_row": pa.array(range(len(events)))}
    for column in source.columns:
        values = [event["ts_ms"] if column.name == source.time else event.get(column.name) for event in events]
        if column.type is ColumnType.DECIMAL:
            values = [None if v is None else Decimal(v.numerator * 10**6 // v.denominator).scaleb(-6) for v in values]
        columns[column.name] = pa.array(values, _ARROW[column.type])
    rows = pa.table(columns)  # noqa: F841  # DuckDB reads it by its name
    values = duck().execute(f"SELECT {', '.join(map(in_duckdb, expressions))} FROM rows ORDER BY _row").fetchall()
    return [list(column) for column in zip(*values, strict=True)]


def series_of(group: FeatureGroup, events: Sequence[Event]) -> list[Series]:
    """The group's inputs of events of one entity, ascending by time."""
    ts_ms, result = np.array([event["ts_ms"] for event in events], dtype=np.int64), []
    columns = evaluated(group.source, events, [input_.sql for input_ in group.inputs])
    for input_, column in zip(group.inputs, columns, strict=True):
        values = [v if v is not None else "" if input_.text else 0 for v in column]
        valid = np.array([v is not None for v in column], dtype=bool)
        result.append(Series(ts_ms, np.array(values, dtype=object if input_.text else np.int64), valid))
    return result


def view_of(
    group: FeatureGroup,
    events: Sequence[Event],
    batch_end_ms: int,
    inputs: Callable[[FeatureGroup, Sequence[Event]], list[Series]] = series_of,
) -> packed.BatchValue:
    """Batch: an entity's events before batch_end, in tiles, and those of the exact spans by the instant, in a view, through its bytes."""

    def pieces(chosen: list[Event], step_ms: int) -> tuple[list[int], list[list[Any]]]:
        series = inputs(group, chosen)
        lo, hi = runs(series[0].ts_ms // step_ms)
        return (series[0].ts_ms[lo] // step_ms * step_ms).tolist(), fold_ranges(group, series, lo, hi)

    before = [event for event in events if event["ts_ms"] < batch_end_ms]
    spans = [exact_span_ms(group, window, batch_end_ms) for window in group.exact_windows]
    instants = pieces([event for event in before if any(a <= event["ts_ms"] < b for a, b in spans)], 1)
    newest_ms = before[-1]["ts_ms"] if before else None
    view = build_view(group, batch_end_ms, *pieces(before, group.tile_ms), newest_ms, *instants)
    return packed.decode_batch(packed.encode(view), group.fingerprint)


def tiles_of(group: FeatureGroup, events: Sequence[Event]) -> list[packed.TileValue]:
    """Speed: an entity's events, also those before batch_end, in packed tiles."""
    if not events:
        return []
    series = series_of(group, events)
    tiles = fold_tile_values(group, series, *runs(series[0].ts_ms // group.tile_ms))
    return [packed.decode_tile(packed.encode(tile), group.fingerprint) for tile in tiles]


def speed_value(group: FeatureGroup, tiles: Sequence[packed.TileValue], dropped_ms: int = -(2**47)) -> bytes:
    """Tiles in the packed value that `features.speed_editor` makes of them, but for their expiry."""
    values = {tile.first_ms // group.tile_ms * group.tile_ms: tile for tile in tiles}
    tiles_packed = [(start_ms, pack_tile(group, start_ms, values[start_ms])) for start_ms in sorted(values)]
    head = speed_head(group) + dropped_ms.to_bytes(6, "big", signed=True) + len(values).to_bytes(4, "big")
    numbers = [(start_ms // group.tile_ms).to_bytes(5, "big", signed=True) for start_ms, _ in tiles_packed]
    index = [number + bytes(2) + len(data).to_bytes(3, "big") for number, (_, data) in zip(numbers, tiles_packed, strict=True)]
    return b"".join((head, *index, *(data for _, data in tiles_packed), bytes(2)))


def speed_tiles_of(group: FeatureGroup, tiles: Sequence[packed.TileValue]) -> Sequence[packed.TileValue]:
    """Tiles as the store gives them: through the bytes of their packed value."""
    return decode_speed(speed_value(group, tiles), group) if tiles else ()


def trained(group: FeatureGroup, events: Sequence[Event], q_ms: int) -> list[Value]:
    """The training set's fold over the window of each feature, for one entity."""
    series, values = series_of(group, events), []
    for index, feature in enumerate(group.features):
        start = -(2**62) if feature.window is None else floor_ms(q_ms - feature.window.size_ms, feature.window.hop_ms)
        bounds = np.searchsorted(series[0].ts_ms, [start, q_ms])
        partial = feature.aggregation.fold(series[group.input_of[index]], bounds[:1], bounds[1:])[0]
        values.append(feature.aggregation.finalize(partial, q_ms, group.scale_of(index)))
    return values


def micros(amount: int | None) -> Fraction | None:
    """A decimal from its micro-units."""
    return None if amount is None else Fraction(amount, 10**6)


def unpacked(group: FeatureGroup, start_ms: int, data: bytes) -> packed.TileValue:
    """What `pack_tile` made the bytes of."""
    return SpeedTiles(group, [start_ms], [with_entries(msgspec.msgpack.decode(data))], 0)[0]


def joined(group: FeatureGroup, a: packed.TileValue, b: packed.TileValue) -> packed.TileValue:
    """The tile of the events of two tiles of one entity and one hop that have no event in common, entry by entry."""

    def join(left: Sequence[Any], right: Sequence[Any]) -> list[Any]:
        pairs = zip(group.features, left, right, strict=True)
        return [feature.aggregation.combine(ours, theirs) for feature, ours, theirs in pairs]

    first_ms, last_ms, log = min(a.first_ms, b.first_ms), max(a.last_ms, b.last_ms), packed.encode_log([])
    if first_ms < last_ms and packed.has_log(a) and packed.has_log(b):
        instants = dict(packed.decode_log(a))
        for ts_ms, partials in packed.decode_log(b):
            instants[ts_ms] = join(instants[ts_ms], partials) if ts_ms in instants else partials
        log = packed.encode_log(sorted(instants.items()))
    return packed.TileValue(packed.FORMAT, group.fingerprint, first_ms, last_ms, join(a.partials, b.partials), log)
