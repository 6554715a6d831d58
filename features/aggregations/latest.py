"""The latest events: Last, LastK, SinceLast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from features.aggregations.monoid import Aggregation, Ints, Series, unscaled
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

TIME_UNITS_MS = {"seconds": SECOND_MS, "minutes": MINUTE_MS, "hours": HOUR_MS, "days": DAY_MS}

_pair = itemgetter(0, 1)


@dataclass(frozen=True)
class Last(Aggregation):
    """The value of the latest event; of several events in one millisecond, the largest value. Partial: (ts_ms, v)."""

    kind = "last"
    sql_type = "STRUCT<ts_ms: BIGINT, v: BIGINT>"
    timed = True

    def lift(self, ts_ms: int, v: int) -> tuple[int, int]:
        return (ts_ms, v)

    def moved(self, partial: tuple[int, int], by_ms: int) -> tuple[int, int]:
        return (partial[0] + by_ms, partial[1])

    def join(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return a if (a[0], a[1]) >= (b[0], b[1]) else b

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[tuple[int, int] | None]:
        result: list[tuple[int, int] | None] = []
        for start, index in zip(lo.tolist(), _latest_valid(series, lo, hi).tolist(), strict=True):
            if index < 0:
                result.append(None)
                continue
            ts_ms, v = int(series.ts_ms[index]), int(series.v[index])
            while index > start and series.ts_ms[index - 1] == ts_ms:
                index -= 1
                if series.valid[index]:
                    v = max(v, int(series.v[index]))
            result.append((ts_ms, v))
        return result

    def value(self, partial: tuple[int, int], q_ms: int, scale: int) -> float | int:
        return unscaled(partial[1], scale)


@dataclass(frozen=True)
class LastK(Aggregation):
    """The values of the `k` latest events, the latest first; within one millisecond the largest first.

    Partial: the pairs (ts_ms, v) of these events, in this order. Two events with the same value are two pairs.
    """

    kind = "last_k"
    sql_type = "ARRAY<STRUCT<ts_ms: BIGINT, v: {input}>>"
    value_sql_type = "ARRAY<{value}>"
    takes_text = True
    timed = True

    k: int

    def lift(self, ts_ms: int, v: Any) -> list[tuple[int, Any]]:
        return [(ts_ms, v)]

    def moved(self, partial: list[tuple[int, Any]], by_ms: int) -> list[tuple[int, Any]]:
        return [(pair[0] + by_ms, pair[1]) for pair in partial]

    def join(self, a: list[tuple[int, Any]], b: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        return self._latest([*a, *b])

    def _latest(self, pairs: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        return sorted(pairs, key=_pair, reverse=True)[: self.k]

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[list[tuple[int, Any]] | None]:
        filled = np.flatnonzero(series.valid)
        ts_ms, v = series.ts_ms[filled].tolist(), series.v[filled].tolist()
        result: list[list[tuple[int, Any]] | None] = []
        for start, end in zip(np.searchsorted(filled, lo).tolist(), np.searchsorted(filled, hi).tolist(), strict=True):
            first = max(start, end - self.k)
            # The order of the series within one millisecond is arbitrary, so all events of that millisecond are compared.
            while first > start and ts_ms[first - 1] == ts_ms[first]:
                first -= 1
            result.append(self._latest(list(zip(ts_ms[first:end], v[first:end], strict=True))) if end > start else None)
        return result

    def value(self, partial: list[tuple[int, Any]], q_ms: int, scale: int) -> list[Any]:
        return [unscaled(pair[1], scale) for pair in partial]


@dataclass(frozen=True)
class SinceLast(Aggregation):
    """The time from the latest event to q, in `unit`. Partial: the ts_ms of the latest event."""

    kind = "since_last"
    sql_type = "BIGINT"
    value_sql_type = "DOUBLE"
    timed = True
    ages = True

    unit: str = "days"

    def lift(self, ts_ms: int, v: int) -> int:
        return ts_ms

    def moved(self, partial: int, by_ms: int) -> int:
        return partial + by_ms

    def join(self, a: int, b: int) -> int:
        return max(b, a)

    def combine_all(self, partials: Iterable[int | None]) -> int | None:
        return max((partial for partial in partials if partial is not None), default=None)

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
        indices = _latest_valid(series, lo, hi)
        latest = np.append(series.ts_ms, 0)[indices].tolist()  # index -1 reads the appended 0
        return [None if index < 0 else ts_ms for index, ts_ms in zip(indices.tolist(), latest, strict=True)]

    def value(self, partial: int, q_ms: int, scale: int) -> float:
        return (q_ms - partial) / TIME_UNITS_MS[self.unit]


def _latest_valid(series: Series, lo: Ints, hi: Ints) -> Ints:
    """Returns the index of the last contributing event of each range, -1 if the range has no such event."""
    positions = np.where(series.valid, np.arange(len(series.valid)), -1)
    running = np.append(np.maximum.accumulate(positions) if len(positions) else positions, -1)
    latest = np.where(hi > lo, running[hi - 1], -1)
    return np.where(latest >= lo, latest, -1)
