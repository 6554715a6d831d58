"""Sums of integers: Count, Sum, Mean, Variance, StdDev. Sums are exact and never wrap; a quotient is rounded once, at the end.

A sum of int64 values may need more than 64 bits, but Delta's BIGINT has 64. So a total is stored in two limbs, (high, low): the total
is high · 2³² + low, with 0 ≤ low < 2³². The pair depends only on the total, so every order of additions returns the same bits. Both
limbs fit int64 for up to 2³¹ events in one partial, whatever their values. This is the limit of every layer; Arrow and MessagePack raise
an error for a larger limb.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from features.aggregations.monoid import Aggregation, Ints, Partial, Series, range_sums, unscaled

_LIMB_BITS = 32
_LOW = 2**_LIMB_BITS - 1
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Count(Aggregation):
    """The number of events. Partial: int."""

    kind = "count"
    sql_type = "BIGINT"
    value_sql_type = "BIGINT"
    empty = 0

    def lift(self, ts_ms: int, v: int) -> int:
        return 1

    def join(self, a: int, b: int) -> int:
        return a + b

    def combine_all(self, partials: Iterable[int | None]) -> int | None:
        return sum(partial for partial in partials if partial is not None) or None

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
        return [n or None for n in range_sums(series.valid, lo, hi).tolist()]

    def value(self, partial: int, q_ms: int, scale: int) -> int:
        return partial


@dataclass(frozen=True)
class Sum(Aggregation):
    """The exact sum. Partial: the total in two limbs, in the input's unit (micro-units for decimals).

    A sum of an integer column that does not fit a BIGINT is None, as in Spark's `try_sum`. A sum of decimals is a DOUBLE, rounded once.
    """

    kind = "sum"
    sql_type = "STRUCT<high: BIGINT, low: BIGINT>"
    empty = 0

    def lift(self, ts_ms: int, v: int) -> tuple[int, int]:
        return v >> _LIMB_BITS, v & _LOW

    def join(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        low = a[1] + b[1]
        return a[0] + b[0] + (low >> _LIMB_BITS), low & _LOW

    def compact(self, partial: Partial) -> Partial:
        total = _number(partial)
        return total if total in _INT64 else partial

    def expanded(self, stored: Partial) -> Partial:
        return _limbs(stored) if isinstance(stored, int) else stored

    def combine_all(self, partials: Iterable[Partial]) -> tuple[int, int] | None:
        # Of a partial in limbs only the first two elements are read, so the partials of a mean are valid arguments as well.
        known = [partial for partial in partials if partial is not None]
        return _limbs(_total(known)) if known else None

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[tuple[int, int] | None]:
        rows = zip(range_sums(series.valid, lo, hi).tolist(), *map(np.ndarray.tolist, exact_totals(series, lo, hi)), strict=True)
        return [(high, low) if n else None for n, high, low in rows]

    def value(self, partial: tuple[int, int], q_ms: int, scale: int) -> float | int | None:
        total = _number(partial)
        return unscaled(total, scale) if scale > 1 or total in _INT64 else None


@dataclass(frozen=True)
class Mean(Aggregation):
    """The arithmetic mean. Partial: the total in two limbs, and the count."""

    kind = "mean"
    sql_type = "STRUCT<high: BIGINT, low: BIGINT, count: BIGINT>"
    value_sql_type = "DOUBLE"

    def lift(self, ts_ms: int, v: int) -> tuple[int, int, int]:
        return v >> _LIMB_BITS, v & _LOW, 1

    def join(self, a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
        low = a[1] + b[1]
        return a[0] + b[0] + (low >> _LIMB_BITS), low & _LOW, a[2] + b[2]

    def compact(self, partial: Partial) -> Partial:
        return _number(partial[:2]) if partial[2] == 1 else partial

    def expanded(self, stored: Partial) -> Partial:
        return (*_limbs(stored), 1) if isinstance(stored, int) else stored

    def combine_all(self, partials: Iterable[Partial]) -> tuple[int, int, int] | None:
        known = [partial for partial in partials if partial is not None]
        if not known:
            return None
        return *_limbs(_total(known)), sum([1 if type(partial) is int else partial[2] for partial in known])

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[tuple[int, int, int] | None]:
        columns = (*exact_totals(series, lo, hi), range_sums(series.valid, lo, hi))
        return [row if row[2] else None for row in zip(*map(np.ndarray.tolist, columns), strict=True)]

    def value(self, partial: tuple[int, int, int], q_ms: int, scale: int) -> float:
        # Python divides integers of any size with one correct rounding.
        return _number(partial[:2]) / (partial[2] * scale)


@dataclass(frozen=True)
class Variance(Aggregation):
    """The population variance: the mean of v² minus the square of the mean of v. Partial: count, sum of v, sum of v², the sums in limbs.

    A square of micro-units has up to 126 bits, so v and v² are cut into limbs of 32 bits, and each limb is summed by itself. An int64
    holds the sum of 2³¹ limbs, so no carry is needed, and every order of additions returns the same limbs.
    """

    kind = "variance"
    sql_type = "STRUCT<count: BIGINT, sum_1: BIGINT, sum_0: BIGINT, squares_3: BIGINT, squares_2: BIGINT, squares_1: BIGINT, squares_0: BIGINT>"
    value_sql_type = "DOUBLE"

    def lift(self, ts_ms: int, v: int) -> tuple[int, ...]:
        square = v * v
        return (1, v >> 32, v & _LOW, square >> 96, square >> 64 & _LOW, square >> 32 & _LOW, square & _LOW)

    def join(self, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(map(add, a, b))

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[tuple[int, ...] | None]:
        limbs = (series.v >> _LIMB_BITS, series.v & _LOW, *_square_limbs(series.v))
        rows = zip(*_sums(series, lo, hi, *limbs), strict=True)
        return [row if row[0] else None for row in rows]

    def value(self, partial: tuple[int, ...], q_ms: int, scale: int) -> float:
        n, total = partial[0], _number(partial[1:3])
        return (n * _number(partial[3:]) - total * total) / (n * scale) ** 2


@dataclass(frozen=True)
class StdDev(Variance):
    """The population standard deviation: the square root of the variance. The partial is that of Variance."""

    kind = "stddev"

    def value(self, partial: tuple[int, ...], q_ms: int, scale: int) -> float:
        return math.sqrt(super().value(partial, q_ms, scale))


def exact_totals(series: Series, lo: Ints, hi: Ints) -> tuple[Ints, Ints]:
    """Returns, for each range, the exact total of the values that contribute, in two limbs: high, low."""
    values = np.where(series.valid, series.v, 0)
    largest = max(int(values.max()), -int(values.min())) if len(values) else 0
    if largest * int(np.max(hi - lo, initial=0)) < 2**63:  # every total fits 64 bits, which is the usual case
        totals = range_sums(values, lo, hi)
        return totals >> _LIMB_BITS, totals & _LOW
    low = range_sums(values & _LOW, lo, hi)
    return range_sums(values >> _LIMB_BITS, lo, hi) + (low >> _LIMB_BITS), low & _LOW


def _sums(series: Series, lo: Ints, hi: Ints, *columns: npt.NDArray[Any]) -> list[list[int]]:
    """Returns, for each range, the number of events that contribute, and the sum of each column over these events."""
    contributing = (np.where(series.valid, column, 0) for column in columns)
    return [range_sums(column, lo, hi).tolist() for column in (series.valid, *contributing)]


def _square_limbs(v: Ints) -> tuple[npt.NDArray[Any], ...]:
    """Returns v² in four limbs, the highest first, computed from the three products of (high · 2³² + low)², each of which fits 64 bits."""
    magnitude = np.abs(v).view(np.uint64)  # also right for the smallest int64, whose magnitude fits uint64 only
    high, low = magnitude >> _LIMB_BITS, magnitude & _LOW
    highest, middle, lowest = high * high, high * low, low * low  # of weight 2⁶⁴, 2³³ and 1
    second = (lowest >> _LIMB_BITS) + ((middle & (2**31 - 1)) << 1)
    third = (second >> _LIMB_BITS) + (middle >> 31) + (highest & _LOW)
    fourth = (third >> _LIMB_BITS) + (highest >> _LIMB_BITS)
    return fourth, third & _LOW, second & _LOW, lowest & _LOW


def _total(partials: Sequence[Partial]) -> int:
    """Returns the exact total of partials of sums and means: each is its total as one number, or begins with the two limbs of its total."""
    return sum([partial if type(partial) is int else (partial[0] << _LIMB_BITS) + partial[1] for partial in partials])


def _limbs(total: int) -> tuple[int, int]:
    return total >> _LIMB_BITS, total & _LOW


def _number(limbs: Sequence[int]) -> int:
    number = 0
    for limb in limbs:
        number = (number << _LIMB_BITS) + limb
    return number
