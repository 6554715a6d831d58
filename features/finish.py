"""Finished values by the column: what `fold` and then `finalize` give, for very many windows at once, to the bit.

Reads a series of events and index ranges; gives an array of values. A training set asks for millions of windows, where a Python
object for each partial would be most of the work. An aggregation that has no form in columns goes the way over its partials.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.aggregations import (
    TIME_UNITS_MS,
    Aggregation,
    Count,
    Distinct,
    Ints,
    Last,
    Max,
    Mean,
    Min,
    Series,
    SinceLast,
    Sum,
    Value,
)  # fmt: skip
from features.aggregations.sums import exact_totals

Values = npt.NDArray[Any] | np.ma.MaskedArray[Any, Any] | list[Value]
#: Integers up to here are doubles.
_EXACT = 2**53
#: Events of ranges that are looked at in one go.
_CHUNK = 2**22


class _Windows(NamedTuple):
    series: Series
    lo: Ints
    hi: Ints
    q_ms: Ints
    scale: int


def finish(aggregation: Aggregation, series: Series, lo: Ints, hi: Ints, q_ms: Ints, scale: int) -> Values:
    """The values at `q_ms` of the ranges lo[i] <= index < hi[i], masked where there is none.

    Args:
        aggregation: Of the feature.
        series: Its input.
        lo: First index of each range.
        hi: End of each range, exclusive; a range does not split a millisecond of its entity.
        q_ms: The instant of each value.
        scale: The input's units per 1.
    """
    by_column = _BY_COLUMN.get(type(aggregation))
    if by_column:
        return by_column(aggregation, _Windows(series, lo, np.maximum(lo, hi), q_ms, scale))
    partials = aggregation.fold(series, lo, hi)
    return [aggregation.finalize(partial, q, scale) for partial, q in zip(partials, q_ms.tolist(), strict=True)]


def _count(_: Count, one: _Windows) -> Values:
    return _sums(one.series.valid, one)


def _sum(_: Sum, one: _Windows) -> Values:
    if one.scale > 1:
        return _exact_quotients(one, np.full(len(one.lo), one.scale))
    totals, inside = _int64_totals(*exact_totals(one.series, one.lo, one.hi))
    return np.ma.MaskedArray(totals, ~inside)


def _mean(_: Mean, one: _Windows) -> Values:
    counts = _sums(one.series.valid, one)
    return np.ma.MaskedArray(_exact_quotients(one, np.maximum(counts, 1) * one.scale), counts == 0)


def _minimum(_: Min, one: _Windows) -> Values:
    return _extremes(np.minimum, np.iinfo(np.int64).max, one)


def _maximum(_: Max, one: _Windows) -> Values:
    return _extremes(np.maximum, np.iinfo(np.int64).min, one)


def _last(_: Last, one: _Windows) -> Values:
    # Of several in the latest millisecond, the largest: of the events from the first of this millisecond on.
    latest, ts_ms = _latest(one), one.series.ts_ms
    changed = np.append(True, ts_ms[1:] != ts_ms[:-1])[: len(ts_ms)]
    first = np.append(np.maximum.accumulate(np.where(changed, np.arange(len(ts_ms)), 0)), 0)
    found = latest >= 0
    instants = one._replace(lo=np.where(found, np.maximum(first[latest], one.lo), 0), hi=np.where(found, latest + 1, 0))
    return _maximum(Max(), instants)


def _since_last(aggregation: SinceLast, one: _Windows) -> Values:
    latest = _latest(one)
    ages_ms = one.q_ms - np.append(one.series.ts_ms, 0)[latest]
    return np.ma.MaskedArray(_quotients(ages_ms, np.int64(TIME_UNITS_MS[aggregation.unit])), latest < 0)


def _distinct(aggregation: Distinct, one: _Windows) -> Values:
    # A value counts where it stands first in the range: where its previous place lies before the range.
    v, lo, hi = one.series.v, one.lo, one.hi
    places = np.flatnonzero(one.series.valid)
    places = places[np.argsort(v[places], kind="stable")]
    repeats = v[places[1:]] == v[places[:-1]]
    previous = np.full(len(v), np.iinfo(np.int64).max)
    previous[places] = -1
    previous[places[1:][repeats]] = places[:-1][repeats]
    counts = np.zeros(len(lo), np.int64)
    ends = np.cumsum(hi - lo)
    cuts = np.searchsorted(ends, np.arange(0, int(ends[-1]) + 1 if len(ends) else 1, _CHUNK), side="right")
    for a, b in zip(cuts.tolist(), [*cuts[1:].tolist(), len(lo)], strict=True):
        lengths = hi[a:b] - lo[a:b]
        bounds = np.append(0, np.cumsum(lengths))
        index = np.repeat(lo[a:b] - bounds[:-1], lengths) + np.arange(bounds[-1])
        firsts = previous[index] < np.repeat(lo[a:b], lengths)
        counts[a:b] = _sums(firsts, one._replace(lo=bounds[:-1], hi=bounds[1:]))
    many = np.flatnonzero(counts >= aggregation.bound)  # estimated, from the hashes themselves
    partials = aggregation.fold(one.series, lo[many], hi[many])
    counts[many] = np.array([aggregation.finalize(partial, 0, 1) for partial in partials], np.int64)
    return counts


#: By the exact type: a subclass may mean something else.
_BY_COLUMN: dict[type[Aggregation], Callable[..., Values]] = {
    Count: _count, Sum: _sum, Mean: _mean, Min: _minimum, Max: _maximum, Last: _last, SinceLast: _since_last, Distinct: _distinct,
}  # fmt: skip


def _sums(values: npt.NDArray[Any], one: _Windows) -> Ints:
    # int64 wraps around, so the difference of two running sums is right even where they overflow.
    running = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, dtype=np.int64, out=running[1:])
    return running[one.hi] - running[one.lo]


def _int64_totals(high: Ints, low: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Totals from their two limbs, and which of them are 64-bit integers; the others are 0."""
    inside = (high >= -(2**31)) & (high < 2**31)
    return np.where(inside, high << 32 | low, 0), inside


def _exact_quotients(one: _Windows, divisors: Ints) -> npt.NDArray[Any]:
    """The exact totals of the windows by the divisors, rounded once."""
    high, low = exact_totals(one.series, one.lo, one.hi)
    totals, inside = _int64_totals(high, low)
    result = _quotients(totals, divisors)
    for place in np.flatnonzero(~inside).tolist():
        result[place] = ((int(high[place]) << 32) + int(low[place])) / int(divisors[place])
    return result


def _latest(one: _Windows) -> Ints:
    """The index of the last contributing event of each range, -1 where there is none."""
    valid = one.series.valid
    running = np.append(np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1)), -1)
    latest = running[one.hi - 1]
    return np.where((one.hi > one.lo) & (latest >= one.lo), latest, -1)


def _extremes(ufunc: np.ufunc, neutral: int, one: _Windows) -> Values:
    found = _sums(one.series.valid, one) > 0
    result = np.zeros(len(one.lo), np.int64)
    if found.any():
        values = np.append(np.where(one.series.valid, one.series.v, neutral), neutral)
        result[found] = ufunc.reduceat(values, np.column_stack((one.lo[found], one.hi[found])).ravel())[::2]
    return np.ma.MaskedArray(_unscaled(result, one.scale), ~found)


def _unscaled(numbers: Ints, scale: int) -> npt.NDArray[Any]:
    return numbers if scale == 1 else _quotients(numbers, np.int64(scale))


def _quotients(numbers: Ints, divisors: npt.NDArray[Any] | np.int64) -> npt.NDArray[Any]:
    """Rounded once, as Python divides integers: numbers that are no doubles go its way."""
    result = np.asarray(numbers / divisors)
    divisors = np.broadcast_to(divisors, numbers.shape)
    for place in np.flatnonzero((numbers > _EXACT) | (numbers < -_EXACT)).tolist():
        result[place] = int(numbers[place]) / int(divisors[place])
    return result
