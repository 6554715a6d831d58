"""Extremes: Min and Max."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.aggregations.monoid import Aggregation, Ints, Series, range_sums, unscaled


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
        return _range_extremes(np.minimum, np.iinfo(np.int64).max, series, lo, hi)

    def value(self, partial: int, q_ms: int, scale: int) -> float | int:
        return unscaled(partial, scale)


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
        return _range_extremes(np.maximum, np.iinfo(np.int64).min, series, lo, hi)

    def value(self, partial: int, q_ms: int, scale: int) -> float | int:
        return unscaled(partial, scale)


def _range_extremes(ufunc: np.ufunc, neutral: int, series: Series, lo: Ints, hi: Ints) -> list[int | None]:
    counts = range_sums(series.valid, lo, hi)
    result: list[int | None] = [None] * len(lo)
    filled = np.flatnonzero(counts)
    if filled.size:
        values = np.append(np.where(series.valid, series.v, neutral), neutral)
        bounds = np.column_stack((lo[filled], hi[filled])).ravel()
        for position, extreme in zip(filled.tolist(), ufunc.reduceat(values, bounds)[::2].tolist(), strict=True):
            result[position] = extreme
    return result
