"""Finished values of many windows at once, equal to the bit to `fold` followed by `finalize`.

Reads a series of events and index ranges; returns an array of values. A training set has millions of windows, and a Python object per partial
would take most of the time. For an aggregation without a form for arrays, the values are computed from its partials.
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
#: Every integer up to this magnitude is exactly a double.
_EXACT = 2**53
#: The approximate number of events in the ranges of a step of `_distinct`, which bounds its memory.
_CHUNK = 2**22


class _Windows(NamedTuple):
    series: Series
    lo: Ints
    hi: Ints
    q_ms: Ints
    scale: int


def finish(aggregation: Aggregation, series: Series, lo: Ints, hi: Ints, q_ms: Ints, scale: int) -> Values:
    """Returns the values at `q_ms` of the ranges lo[i] <= index < hi[i].

    Args:
        aggregation: The aggregation of the feature.
        series: The input of the feature.
        lo: First index of each range.
        hi: End of each range, exclusive. A range does not split a millisecond of its entity.
        q_ms: The instant of each value, in ms since 1970.
        scale: The number of the input's units per 1.

    Returns:
        One value per range. For an aggregation with a form for arrays it is an array, in which a range without a value is masked; else a list, in
        which it is None.
    """
    by_column = _BY_COLUMN.get(type(aggregation))
    if by_column:
        return by_column(aggregation, _Windows(series, lo, np.maximum(lo, hi), q_ms, scale))
    partials = aggregation.fold(series, lo, hi)
    return [aggregation.finalize(partial, q, scale) for partial, q in zip(partials, q_ms.tolist(), strict=True)]


def _count(_: Count, windows: _Windows) -> Values:
    return _sums(windows.series.valid, windows)


def _sum(_: Sum, windows: _Windows) -> Values:
    if windows.scale > 1:
        return _exact_quotients(windows, np.full(len(windows.lo), windows.scale))
    totals, inside = _int64_totals(*exact_totals(windows.series, windows.lo, windows.hi))
    return np.ma.MaskedArray(totals, ~inside)


def _mean(_: Mean, windows: _Windows) -> Values:
    counts = _sums(windows.series.valid, windows)
    return np.ma.MaskedArray(_exact_quotients(windows, np.maximum(counts, 1) * windows.scale), counts == 0)


def _minimum(_: Min, windows: _Windows) -> Values:
    return _extremes(np.minimum, np.iinfo(np.int64).max, windows)


def _maximum(_: Max, windows: _Windows) -> Values:
    return _extremes(np.maximum, np.iinfo(np.int64).min, windows)


def _last(_: Last, windows: _Windows) -> Values:
    # The largest value of the latest millisecond: the maximum of a range that begins with the first event of this millisecond.
    latest, ts_ms = _latest(windows), windows.series.ts_ms
    changed = np.append(True, ts_ms[1:] != ts_ms[:-1])[: len(ts_ms)]
    first = np.append(np.maximum.accumulate(np.where(changed, np.arange(len(ts_ms)), 0)), 0)
    filled = latest >= 0
    instants = windows._replace(lo=np.where(filled, np.maximum(first[latest], windows.lo), 0), hi=np.where(filled, latest + 1, 0))
    return _maximum(Max(), instants)


def _since_last(aggregation: SinceLast, windows: _Windows) -> Values:
    latest = _latest(windows)
    ages_ms = windows.q_ms - np.append(windows.series.ts_ms, 0)[latest]
    return np.ma.MaskedArray(_quotients(ages_ms, np.int64(TIME_UNITS_MS[aggregation.unit])), latest < 0)


def _distinct(aggregation: Distinct, windows: _Windows) -> Values:
    # A value counts at its first place in the range: the place whose previous occurrence of the value lies before the range.
    v, lo, hi = windows.series.v, windows.lo, windows.hi
    places = np.flatnonzero(windows.series.valid)
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
        counts[a:b] = _sums(firsts, windows._replace(lo=bounds[:-1], hi=bounds[1:]))
    many = np.flatnonzero(counts >= aggregation.bound)  # from `bound` on the value is an estimate from the hashes
    partials = aggregation.fold(windows.series, lo[many], hi[many])
    counts[many] = np.array([aggregation.finalize(partial, 0, 1) for partial in partials], np.int64)
    return counts


#: The key is the exact type, because a subclass may have another meaning.
_BY_COLUMN: dict[type[Aggregation], Callable[..., Values]] = {
    Count: _count, Sum: _sum, Mean: _mean, Min: _minimum, Max: _maximum, Last: _last, SinceLast: _since_last, Distinct: _distinct,
}  # fmt: skip


def _sums(values: npt.NDArray[Any], windows: _Windows) -> Ints:
    # int64 wraps around, so the difference of two running sums is right even if the sums overflow.
    running = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, dtype=np.int64, out=running[1:])
    return running[windows.hi] - running[windows.lo]


def _int64_totals(high: Ints, low: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Returns the totals of pairs of limbs, and whether each fits int64; a total that does not fit is 0."""
    inside = (high >= -(2**31)) & (high < 2**31)
    return np.where(inside, high << 32 | low, 0), inside


def _exact_quotients(windows: _Windows, divisors: Ints) -> npt.NDArray[Any]:
    """Returns the exact totals of the windows divided by the divisors, rounded once."""
    high, low = exact_totals(windows.series, windows.lo, windows.hi)
    totals, inside = _int64_totals(high, low)
    result = _quotients(totals, divisors)
    for place in np.flatnonzero(~inside).tolist():
        result[place] = ((int(high[place]) << 32) + int(low[place])) / int(divisors[place])
    return result


def _latest(windows: _Windows) -> Ints:
    """Returns the index of the last contributing event of each range, -1 if the range has no such event."""
    valid = windows.series.valid
    running = np.append(np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1)), -1)
    latest = running[windows.hi - 1]
    return np.where((windows.hi > windows.lo) & (latest >= windows.lo), latest, -1)


def _extremes(ufunc: np.ufunc, neutral: int, windows: _Windows) -> Values:
    filled = _sums(windows.series.valid, windows) > 0
    result = np.zeros(len(windows.lo), np.int64)
    if filled.any():
        values = np.append(np.where(windows.series.valid, windows.series.v, neutral), neutral)
        result[filled] = ufunc.reduceat(values, np.column_stack((windows.lo[filled], windows.hi[filled])).ravel())[::2]
    return np.ma.MaskedArray(_unscaled(result, windows.scale), ~filled)


def _unscaled(numbers: Ints, scale: int) -> npt.NDArray[Any]:
    return numbers if scale == 1 else _quotients(numbers, np.int64(scale))


def _quotients(numbers: Ints, divisors: npt.NDArray[Any] | np.int64) -> npt.NDArray[Any]:
    """Returns quotients that are rounded once. Python divides the numbers beyond 2^53, because it rounds a quotient of integers once."""
    result = np.asarray(numbers / divisors)
    divisors = np.broadcast_to(divisors, numbers.shape)
    for place in np.flatnonzero((numbers > _EXACT) | (numbers < -_EXACT)).tolist():
        result[place] = int(numbers[place]) / int(divisors[place])
    return result
