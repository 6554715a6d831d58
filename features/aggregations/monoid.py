"""What an aggregation is: a commutative monoid over partials, in scalar form for the merge and over arrays for the fold.

An aggregation sees an event as (ts_ms, v): `v` is what the feature's input expression gives for the event, never null: an int64, or
a text. What is stored is always the partial; `None` is the partial of no event. Partials are plain ints, texts, pairs and lists of
them, so that Delta, msgpack and JSON carry them unchanged, and no floats, so that every order of `combine` gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

#: An aggregation's stored state; None where there was no event. Pairs come back from msgpack as lists: index, never unpack types.
Partial = Any
#: A finished feature: a number, or the list of `LastK` and `TopK`.
Value = float | int | list[Any] | None

Ints = npt.NDArray[np.int64]


class Series(NamedTuple):
    """What a run of events gives one input: three arrays of one length n, in ascending order of time within each entity.

    `ts_ms` int64 (n,), `v` (n,) int64 or texts as objects, `valid` bool (n,): False where the event contributes nothing.
    """

    ts_ms: Ints
    v: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Aggregation:
    """A commutative monoid with `None` as its zero. Subclasses say what the partial is.

    Attributes:
        kind: The name in a declaration's fingerprint.
        sql_type: The partial's column type in Delta; `{input}` stands for the type of `v`, BIGINT or STRING.
        value_sql_type: The value's; `{value}` stands for the type of one input value: BIGINT, STRING, or DOUBLE where it is scaled.
        takes_text: Whether `v` may be a text.
        empty: The value of no event: 0 where counting nothing is a fact, None where there is nothing to say.
    """

    kind: ClassVar[str]
    sql_type: ClassVar[str]
    value_sql_type: ClassVar[str] = "{value}"
    takes_text: ClassVar[bool] = False
    empty: ClassVar[Value] = None

    def lift(self, ts_ms: int, v: Any) -> Partial:
        """The partial of one event."""
        raise NotImplementedError

    def join(self, a: Partial, b: Partial) -> Partial:
        """The partial of two disjoint sets of events, neither empty."""
        raise NotImplementedError

    def value(self, partial: Partial, q_ms: int, scale: int) -> Value:
        """The finished value at `q_ms` of a partial that is not None; `scale` is the input's units per 1."""
        raise NotImplementedError

    def add(self, partial: Partial, ts_ms: int, v: Any) -> Partial:
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

        Ranges may overlap and be empty, and never split a millisecond. Subclasses have the same in faster form; this is its meaning.
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
        """The finished value at `q_ms`: `empty` for no event."""
        return self.empty if partial is None else self.value(partial, q_ms, scale)


def unscaled(v: Any, scale: int) -> Any:
    """An input's value in the unit of its column."""
    return v if scale == 1 else v / scale


def range_sums(values: npt.NDArray[Any], lo: Ints, hi: Ints) -> Ints:
    """The sum of each range, which must itself fit int64: where the running sums wrap around, their difference is right all the same."""
    running = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, dtype=np.int64, out=running[1:])
    return running[hi] - running[lo]


def values_in_ranges(series: Series, values: list[Any], lo: Ints, hi: Ints) -> Iterable[list[Any]]:
    """Of each range the `values` (one per event) of the events that contribute."""
    kept = [v for v, valid in zip(values, series.valid.tolist(), strict=True) if valid]
    before = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(series.valid, out=before[1:])
    return (kept[start:end] for start, end in zip(before[lo].tolist(), before[hi].tolist(), strict=True))
