"""The interface of an aggregation: a commutative monoid over partials, in scalar form for the merge and over arrays for the fold.

The input of an aggregation is an event as a pair (ts_ms, v). `v` is the value of the feature's input expression: an int64 or a text, never
null. The layers store partials; the partial of no event is `None`. A partial consists of ints, texts, tuples and lists, which Delta, msgpack
and JSON store without loss. It contains no floats, so every order of `combine` returns the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

#: The stored state of an aggregation; None if no event counts. msgpack decodes a tuple as a list, so read its elements by index.
Partial = Any
#: A finished feature: a number, or the list of `LastK` and `TopK`.
Value = float | int | list[Any] | None

Ints = npt.NDArray[np.int64]


class Series(NamedTuple):
    """The values of one input over n events, in ascending order of time within each entity.

    Attributes:
        ts_ms: The times of the events, int64, shape (n,).
        v: The values, int64 or texts as objects, shape (n,).
        valid: Whether the event contributes to the input, bool, shape (n,).
    """

    ts_ms: Ints
    v: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Aggregation:
    """A commutative monoid whose neutral element is `None`. Each subclass defines its partial.

    Attributes:
        kind: The name of the aggregation in the fingerprint of a declaration.
        sql_type: The Spark SQL type of the partial in Delta; `{input}` stands for the type of `v`, BIGINT or STRING.
        value_sql_type: The Spark SQL type of the value; `{value}` stands for the type of one input value: BIGINT, STRING, or DOUBLE if it is
            scaled.
        takes_text: Whether `v` may be a text.
        empty: The value without events: 0 for counts and sums, else None.
        timed: Whether a partial contains times, which `moved` shifts.
        ages: Whether the value of one partial changes with `q_ms`.
    """

    kind: ClassVar[str]
    sql_type: ClassVar[str]
    value_sql_type: ClassVar[str] = "{value}"
    takes_text: ClassVar[bool] = False
    empty: ClassVar[Value] = None
    timed: ClassVar[bool] = False
    ages: ClassVar[bool] = False

    def lift(self, ts_ms: int, v: Any) -> Partial:
        """Returns the partial of one event."""
        raise NotImplementedError

    def join(self, a: Partial, b: Partial) -> Partial:
        """Returns the partial of the union of two disjoint sets of events, neither of which is empty."""
        raise NotImplementedError

    def value(self, partial: Partial, q_ms: int, scale: int) -> Value:
        """Returns the finished value at `q_ms` of a partial that is not None; `scale` is the number of the input's units per 1."""
        raise NotImplementedError

    def moved(self, partial: Partial, by_ms: int) -> Partial:
        """Returns a partial that is not None, with all its times shifted by `by_ms`. Packed tiles store times relative to a nearby instant."""
        return partial

    def compact(self, partial: Partial) -> Partial:
        """Returns the form in which a packed tile stores a partial that is not None. `combine_all` takes both forms."""
        return partial

    def expanded(self, stored: Partial) -> Partial:
        """Returns the partial of the form that `compact` returned."""
        return stored

    def add(self, partial: Partial, ts_ms: int, v: Any) -> Partial:
        """Returns the partial with one more event."""
        return self.combine(partial, self.lift(ts_ms, v))

    def combine(self, a: Partial, b: Partial) -> Partial:
        """Returns the partial of the union of two disjoint sets of events. Associative and commutative; None is neutral."""
        if a is None:
            return b
        if b is None:
            return a
        return self.join(a, b)

    def combine_all(self, partials: Iterable[Partial]) -> Partial:
        """Combines any number of partials, each of which may be in its `compact` form."""
        result: Partial = None
        for partial in partials:
            result = self.combine(result, partial)
        return result

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[Partial]:
        """Returns the partials of many index ranges: entry i is the partial of the events lo[i] <= index < hi[i].

        Ranges may overlap or be empty. No range splits a millisecond. This loop defines the result; subclasses compute it faster.
        """
        result = []
        for start, end in zip(lo.tolist(), hi.tolist(), strict=True):
            partial: Partial = None
            for index in range(start, end):
                if series.valid[index]:
                    partial = self.add(partial, int(series.ts_ms[index]), series.v[index : index + 1].tolist()[0])
            result.append(partial)
        return result

    def finalize(self, partial: Partial, q_ms: int, scale: int) -> Value:
        """Returns the finished value at `q_ms`; `empty` if the partial is None."""
        return self.empty if partial is None else self.value(partial, q_ms, scale)


def unscaled(v: Any, scale: int) -> Any:
    """Converts the value of an input to the unit of its column."""
    return v if scale == 1 else v / scale


def range_sums(values: npt.NDArray[Any], lo: Ints, hi: Ints) -> Ints:
    """Returns the sum of each range. Each sum must fit int64; the running sums may wrap around, because their difference is still right."""
    running = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, dtype=np.int64, out=running[1:])
    return running[hi] - running[lo]


def values_in_ranges(series: Series, values: list[Any], lo: Ints, hi: Ints) -> Iterable[list[Any]]:
    """Yields, for each range, the `values` of the events that contribute; `values` has one element per event."""
    contributing = [v for v, valid in zip(values, series.valid.tolist(), strict=True) if valid]
    before = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(series.valid, out=before[1:])
    return (contributing[start:end] for start, end in zip(before[lo].tolist(), before[hi].tolist(), strict=True))
