"""The algebra: aggregations as commutative monoids over partials.

An aggregation sees an event as (ts_ms, v): `v` is the int64 that the feature's input expression gives for the event, never null.
What is stored is always the partial; `None` is the partial of no event. Partials are plain ints, pairs and sorted lists of
ints, so that Delta, msgpack and JSON carry them unchanged, and integers alone, so that every order of `combine` gives the
same bits. After Chronon's aggregators (https://github.com/airbnb/chronon, `aggregator/`) and the monoids of Twitter's Algebird.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from features.windows import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

#: An aggregation's stored state; None where there was no event. Pairs come back from msgpack as lists: index, never unpack types.
Partial = Any
#: A finished feature.
Value = float | int | None

Ints = npt.NDArray[np.int64]

TIME_UNITS_MS = {"seconds": SECOND_MS, "minutes": MINUTE_MS, "hours": HOUR_MS, "days": DAY_MS}


class Series(NamedTuple):
    """What a run of events gives one input: three arrays of one length n, in ascending order of time within each entity.

    `ts_ms` int64 (n,), `v` int64 (n,), `valid` bool (n,): False where the event contributes nothing.
    """

    ts_ms: Ints
    v: Ints
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Aggregation:
    """A commutative monoid with `None` as its zero. Subclasses say what the partial is.

    Attributes:
        kind: The name in a declaration's fingerprint.
        sql_type: The partial's column type in Delta.
        empty: The value of no event: 0 where counting nothing is a fact, None where there is nothing to say.
        integral: Whether the value is a whole number whatever the input's unit.
    """

    kind: ClassVar[str]
    sql_type: ClassVar[str]
    empty: ClassVar[Value] = None
    integral: ClassVar[bool] = False

    def lift(self, ts_ms: int, v: int) -> Partial:
        """The partial of one event."""
        raise NotImplementedError

    def join(self, a: Partial, b: Partial) -> Partial:
        """The partial of two disjoint sets of events, neither empty."""
        raise NotImplementedError

    def value(self, partial: Partial, q_ms: int, scale: int) -> Value:
        """The finished value at `q_ms` of a partial that is not empty; `scale` is the input's units per 1."""
        raise NotImplementedError

    def add(self, partial: Partial, ts_ms: int, v: int) -> Partial:
        """`partial` with one event more."""
        return self.combine(partial, self.lift(ts_ms, v))

    def combine(self, a: Partial, b: Partial) -> Partial:
        """The partial of the union of two disjoint sets of events. Associative and commutative; None is neutral."""
        if a is None:
            return b
        if b is None:
            return a
        return self.join(a, b)

    def combine_all(self, partials: Iterable[Partial]) -> Partial:
        """`combine` over any number of partials."""
        result: Partial = None
        for partial in partials:
            result = self.combine(result, partial)
        return result

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[Partial]:
        """The partials of many index ranges at once: entry i is the partial of the events lo[i] <= index < hi[i].

        Ranges may overlap and be empty. Subclasses have the same in vectorised form; this is its meaning.
        """
        result = []
        for start, end in zip(lo.tolist(), hi.tolist(), strict=True):
            partial: Partial = None
            for index in range(start, end):
                if series.valid[index]:
                    partial = self.add(partial, int(series.ts_ms[index]), int(series.v[index]))
            result.append(partial)
        return result

    def finalize(self, partial: Partial, q_ms: int, scale: int) -> Value:
        """The finished value at `q_ms`: `empty` for no event."""
        return self.empty if partial is None else self.value(partial, q_ms, scale)


@dataclass(frozen=True)
class Count(Aggregation):
    """How many events. Partial: int."""

    kind = "count"
    sql_type = "BIGINT"
    empty = 0
    integral = True

    def lift(self, ts_ms: int, v: int) -> int:
        return 1

    def join(self, a: int, b: int) -> int:
        return a + b

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
        return [n or None for n in _range_sums(series.valid, lo, hi).tolist()]

    def value(self, partial: int, q_ms: int, scale: int) -> int:
        return partial


@dataclass(frozen=True)
class Sum(Aggregation):
    """The exact sum. Partial: int in the input's unit (micro-units for decimals)."""

    kind = "sum"
    sql_type = "BIGINT"
    empty = 0

    def lift(self, ts_ms: int, v: int) -> int:
        return v

    def join(self, a: int, b: int) -> int:
        return a + b

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
        counts = _range_sums(series.valid, lo, hi).tolist()
        totals = _range_sums(np.where(series.valid, series.v, 0), lo, hi).tolist()
        return [total if n else None for n, total in zip(counts, totals, strict=True)]

    def value(self, partial: int, q_ms: int, scale: int) -> float | int:
        return _unscaled(partial, scale)


@dataclass(frozen=True)
class Mean(Aggregation):
    """The arithmetic mean, rounded once, at the end. Partial: (sum, count)."""

    kind = "mean"
    sql_type = "STRUCT<total: BIGINT, count: BIGINT>"

    def lift(self, ts_ms: int, v: int) -> tuple[int, int]:
        return (v, 1)

    def join(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return (a[0] + b[0], a[1] + b[1])

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[tuple[int, int] | None]:
        counts = _range_sums(series.valid, lo, hi).tolist()
        totals = _range_sums(np.where(series.valid, series.v, 0), lo, hi).tolist()
        return [(total, n) if n else None for n, total in zip(counts, totals, strict=True)]

    def value(self, partial: tuple[int, int], q_ms: int, scale: int) -> float:
        # Python divides integers of any size with one correct rounding.
        return partial[0] / (partial[1] * scale)


@dataclass(frozen=True)
class Min(Aggregation):
    """The smallest value. Partial: int."""

    kind = "min"
    sql_type = "BIGINT"

    def lift(self, ts_ms: int, v: int) -> int:
        return v

    def join(self, a: int, b: int) -> int:
        return min(b, a)

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
        neutral = np.iinfo(np.int64).max
        return _range_extremes(np.minimum, neutral, series, lo, hi)

    def value(self, partial: int, q_ms: int, scale: int) -> float | int:
        return _unscaled(partial, scale)


@dataclass(frozen=True)
class Max(Aggregation):
    """The largest value. Partial: int."""

    kind = "max"
    sql_type = "BIGINT"

    def lift(self, ts_ms: int, v: int) -> int:
        return v

    def join(self, a: int, b: int) -> int:
        return max(b, a)

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
        neutral = np.iinfo(np.int64).min
        return _range_extremes(np.maximum, neutral, series, lo, hi)

    def value(self, partial: int, q_ms: int, scale: int) -> float | int:
        return _unscaled(partial, scale)


@dataclass(frozen=True)
class Last(Aggregation):
    """The value of the latest event; of several in one millisecond, the largest. Partial: (ts_ms, v)."""

    kind = "last"
    sql_type = "STRUCT<ts_ms: BIGINT, v: BIGINT>"

    def lift(self, ts_ms: int, v: int) -> tuple[int, int]:
        return (ts_ms, v)

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
        return _unscaled(partial[1], scale)


@dataclass(frozen=True)
class Distinct(Aggregation):
    """How many different values. Partial: the `bound` smallest 64-bit hashes, sorted.

    Below `bound` the set is whole and the count exact. From there on it is a k-minimum-values sketch (Bar-Yossef et al. 2002;
    the unbiased estimator of Beyer et al. 2007): the relative standard error is 1 / sqrt(bound - 2), 3.1 % at 1,024. The k
    smallest of a union depend on the union alone, so merged layers agree to the bit also where they estimate.
    """

    kind = "distinct"
    sql_type = "ARRAY<BIGINT>"
    empty = 0
    integral = True

    bound: int = 1_024

    def lift(self, ts_ms: int, v: int) -> list[int]:
        return [v]

    def join(self, a: list[int], b: list[int]) -> list[int]:
        union = set(a)
        union.update(b)
        return self._smallest(union)

    def _smallest(self, hashes: set[int]) -> list[int]:
        return sorted(hashes) if len(hashes) <= self.bound else heapq.nsmallest(self.bound, hashes)

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[list[int] | None]:
        hashes = [v if valid else None for v, valid in zip(series.v.tolist(), series.valid.tolist(), strict=True)]
        result: list[list[int] | None] = []
        for start, end in zip(lo.tolist(), hi.tolist(), strict=True):
            found = set(hashes[start:end])
            found.discard(None)
            result.append(self._smallest(found) if found else None)  # type: ignore[arg-type]
        return result

    def value(self, partial: list[int], q_ms: int, scale: int) -> int:
        if len(partial) < self.bound:
            return len(partial)
        # Hashes are signed; the largest kept one, as a share of the whole 64-bit range.
        share = (partial[-1] + 2**63) / 2**64
        return round((self.bound - 1) / share)


@dataclass(frozen=True)
class SinceLast(Aggregation):
    """The time from the latest event to q, in `unit`. Partial: ts_ms of the latest event."""

    kind = "since_last"
    sql_type = "BIGINT"

    unit: str = "days"

    def lift(self, ts_ms: int, v: int) -> int:
        return ts_ms

    def join(self, a: int, b: int) -> int:
        return max(b, a)

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
        indices = _latest_valid(series, lo, hi)
        latest = np.append(series.ts_ms, 0)[indices].tolist()  # index -1 reads the appended 0
        return [None if index < 0 else ts_ms for index, ts_ms in zip(indices.tolist(), latest, strict=True)]

    def value(self, partial: int, q_ms: int, scale: int) -> float:
        return (q_ms - partial) / TIME_UNITS_MS[self.unit]


def _unscaled(number: int, scale: int) -> float | int:
    return number if scale == 1 else number / scale


def _range_sums(values: npt.NDArray[Any], lo: Ints, hi: Ints) -> Ints:
    """The sum of each range. int64 wraps around, so the difference of two running sums is right even where they overflow."""
    running = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, dtype=np.int64, out=running[1:])
    return running[hi] - running[lo]


def _range_extremes(ufunc: np.ufunc, neutral: int, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
    counts = _range_sums(series.valid, lo, hi)
    result: list[int | None] = [None] * len(lo)
    filled = np.flatnonzero(counts)
    if filled.size:
        values = np.append(np.where(series.valid, series.v, neutral), neutral)
        bounds = np.column_stack((lo[filled], hi[filled])).ravel()
        for position, extreme in zip(filled.tolist(), ufunc.reduceat(values, bounds)[::2].tolist(), strict=True):
            result[position] = extreme
    return result


def _latest_valid(series: Series, lo: Ints, hi: Ints) -> Ints:
    """The index of the last contributing event of each range, -1 where there is none."""
    positions = np.where(series.valid, np.arange(len(series.valid)), -1)
    running = np.append(np.maximum.accumulate(positions) if len(positions) else positions, -1)
    latest = np.where(hi > lo, running[hi - 1], -1)
    return np.where(latest >= lo, latest, -1)
