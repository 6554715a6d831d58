"""Every aggregation is a commutative monoid, and its vectorised fold means the same as adding event by event."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.aggregations import Aggregation, Count, Distinct, Last, Max, Mean, Min, Series, SinceLast, Sum

AGGREGATIONS: list[Aggregation] = [Count(), Sum(), Mean(), Min(), Max(), Last(), Distinct(16), SinceLast("hours")]

events = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), st.booleans()), max_size=60
)


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda a: a.kind)
@given(events=events, data=st.data())
def test_order_and_grouping_change_no_bit(
    aggregation: Aggregation, events: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    lifted = [aggregation.lift(ts, v) for ts, v, _ in events]
    whole = aggregation.combine_all(lifted)
    shuffled = data.draw(st.permutations(lifted))
    cut = data.draw(st.integers(0, len(shuffled)))
    parts = aggregation.combine(aggregation.combine_all(shuffled[:cut]), aggregation.combine_all(shuffled[cut:]))
    assert parts == whole
    assert aggregation.finalize(parts, 100, 1) == aggregation.finalize(whole, 100, 1)


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda a: a.kind)
@given(events=events, data=st.data())
def test_fold_of_ranges_is_adding_one_by_one(
    aggregation: Aggregation, events: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    # Sums of 60 values must stay in the int64 of a Delta column.
    events = sorted((ts, v // 64, valid) for ts, v, valid in events)
    n = len(events)
    bounds = data.draw(st.lists(st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted), max_size=10))
    lo = np.array([a for a, _ in bounds], dtype=np.int64)
    hi = np.array([b for _, b in bounds], dtype=np.int64)
    series = Series(
        np.array([e[0] for e in events], dtype=np.int64),
        np.array([e[1] for e in events], dtype=np.int64),
        np.array([e[2] for e in events], dtype=bool),
    )
    if isinstance(aggregation, Last):
        # A range never splits a millisecond: its bounds are instants.
        times = series.ts_ms
        lo = np.array([np.searchsorted(times, times[i]) if i < n else n for i in lo], dtype=np.int64)
        hi = np.array([np.searchsorted(times, times[i]) if i < n else n for i in hi], dtype=np.int64)
        hi = np.maximum(lo, hi)
    assert aggregation.fold(series, lo, hi) == Aggregation.fold(aggregation, series, lo, hi)


def test_distinct_is_exact_below_its_bound_and_close_beyond() -> None:
    distinct = Distinct(1_024)
    source = random.Random(7)
    hashes = [source.getrandbits(64) - 2**63 for _ in range(50_000)]
    for n in (1, 1_000, 1_023):
        partial = distinct.combine_all([distinct.lift(0, v) for v in hashes[:n]])
        assert distinct.finalize(partial, 0, 1) == n
    for n in (2_000, 50_000):
        partial = distinct.join(sorted(set(hashes[:n]))[:1_024], [hashes[0]])
        estimate = distinct.finalize(partial, 0, 1)
        assert isinstance(estimate, int)
        assert abs(estimate / n - 1) < 4 / math.sqrt(1_022)
