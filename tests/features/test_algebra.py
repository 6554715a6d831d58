"""Every aggregation is a commutative monoid, and its faster fold means the same as adding event by event."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import Counter
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.aggregations import (
    Aggregation,
    ApproxDistinct,
    Count,
    Distinct,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Series,
    SinceLast,
    StdDev,
    Sum,
    TopK,
    Variance,
)  # fmt: skip

AGGREGATIONS: list[Aggregation] = [
    Count(), Sum(), Mean(), Variance(), StdDev(), Min(), Max(), Last(), LastK(3), TopK(2, 5), Distinct(16), ApproxDistinct(4),
    ApproxDistinct(6), SinceLast("hours"),
]  # fmt: skip
TAKING = [(aggregation, text) for aggregation in AGGREGATIONS for text in (False, True) if aggregation.takes_text or not text]
every_aggregation = pytest.mark.parametrize(
    ("aggregation", "text"), TAKING, ids=[f"{aggregation.kind}-{'text' if text else 'int'}" for aggregation, text in TAKING]
)

EXTREMES = (-(2**63), -(2**63) + 1, 2**63 - 1, 2**32, 2**32 - 1, -(2**32), 2**53 + 1)
INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3) | st.sampled_from(EXTREMES)
TEXT = st.sampled_from(["", "a", "b", "é", "ü:ü", "\U0001f986", "\uffff"])


def events_of(aggregation: Aggregation, text: bool) -> st.SearchStrategy[list[tuple[int, Any, bool]]]:
    return st.lists(st.tuples(st.integers(-9, 9), TEXT if text else INT64, st.booleans()), max_size=60)


@every_aggregation
@given(data=st.data())
def test_many_partials_combine_as_one_after_the_other(aggregation: Aggregation, text: bool, data: st.DataObject) -> None:
    events = data.draw(events_of(aggregation, text))
    partials = [aggregation.lift(ts_ms, v) if valid else None for ts_ms, v, valid in events]
    expected = None
    for partial in partials:
        expected = aggregation.combine(expected, partial)
    combined = aggregation.combine_all(partials)
    assert combined == expected
    if combined is not None:
        assert aggregation.moved(aggregation.moved(combined, 7), -7) == combined


def series_of(events: list[tuple[int, Any, bool]], text: bool) -> Series:
    return Series(
        np.array([e[0] for e in events], dtype=np.int64),
        np.array([e[1] for e in events], dtype=object if text else np.int64),
        np.array([e[2] for e in events], dtype=bool),
    )


@every_aggregation
@given(data=st.data())
def test_order_and_grouping_change_no_bit(aggregation: Aggregation, text: bool, data: st.DataObject) -> None:
    lifted = [aggregation.lift(ts, v) for ts, v, _ in data.draw(events_of(aggregation, text))]
    whole = aggregation.combine_all(lifted)
    shuffled = data.draw(st.permutations(lifted))
    cut = data.draw(st.integers(0, len(shuffled)))
    parts = aggregation.combine(aggregation.combine_all(shuffled[:cut]), aggregation.combine_all(shuffled[cut:]))
    assert parts == whole
    assert aggregation.finalize(parts, 100, 1) == aggregation.finalize(whole, 100, 1)


@every_aggregation
@given(data=st.data())
def test_fold_of_ranges_is_adding_one_by_one(aggregation: Aggregation, text: bool, data: st.DataObject) -> None:
    # Within a millisecond in any order.
    events = sorted(data.draw(events_of(aggregation, text)), key=lambda event: event[0])
    series = series_of(events, text)
    # A range never splits a millisecond: its bounds are instants.
    edges = [*np.searchsorted(series.ts_ms, np.unique(series.ts_ms)).tolist(), len(events)]
    bounds = data.draw(st.lists(st.tuples(st.sampled_from(edges), st.sampled_from(edges)).map(sorted), max_size=10))
    lo, hi = (np.array([pair[side] for pair in bounds], dtype=np.int64) for side in (0, 1))
    assert aggregation.fold(series, lo, hi) == Aggregation.fold(aggregation, series, lo, hi)


@every_aggregation
@given(data=st.data())
def test_a_partial_passes_through_msgpack_and_json(aggregation: Aggregation, text: bool, data: st.DataObject) -> None:
    encode = msgspec.msgpack.encode
    events = data.draw(events_of(aggregation, text))
    whole = aggregation.combine_all([aggregation.lift(ts, v) for ts, v, _ in events])
    for other in (msgspec.msgpack.decode(encode(whole)), json.loads(json.dumps(whole))):
        # A pair comes back as a list, and joins and finishes all the same.
        assert encode(other) == encode(whole)
        assert encode(aggregation.combine(whole, other)) == encode(aggregation.combine(whole, whole))
        assert aggregation.finalize(other, 100, 1) == aggregation.finalize(whole, 100, 1)


@pytest.mark.parametrize("n", [1, 2, 1_000])
@pytest.mark.parametrize("extreme", [10**18 - 1, 2**63 - 1, -(2**63)], ids=["largest decimal", "largest int64", "smallest int64"])
def test_variance_is_exact_at_the_ends_of_the_range(extreme: int, n: int) -> None:
    """A decimal has up to 10^18 - 1 micro-units; its square needs 120 bits, and a double would lose all of a small variance."""
    step = -1 if extreme > 0 else 1
    values = [extreme + step * (index % 3) for index in range(n)]
    [partial] = Variance().fold(series_of([(0, v, True) for v in values], False), np.array([0]), np.array([n]))
    assert partial == Variance().combine_all([Variance().lift(0, v) for v in values])
    assert all(-(2**63) <= limb < 2**63 for limb in partial)
    exact = statistics.pvariance([Fraction(v, 1_000_000) for v in values])
    assert Variance().value(partial, 0, 1_000_000) == float(exact)
    assert StdDev().value(partial, 0, 1_000_000) == math.sqrt(exact)


@given(values=st.lists(INT64, min_size=1, max_size=60))
def test_sums_and_means_are_exact_over_the_whole_range_of_int64(values: list[int]) -> None:
    total, series, bounds = sum(values), series_of([(0, v, True) for v in values], False), (np.array([0]), np.array([len(values)]))
    for scale in (1, 1_000_000):
        [partial] = Sum().fold(series, *bounds)
        fits = -(2**63) <= total < 2**63
        assert Sum().value(partial, 0, scale) == (total / scale if scale > 1 else total if fits else None)
        [partial] = Mean().fold(series, *bounds)
        assert Mean().value(partial, 0, scale) == float(Fraction(total, len(values) * scale))


@pytest.mark.parametrize("extreme", [2**63 - 1, -(2**63)])
def test_a_total_keeps_its_form_up_to_the_bound_of_events(extreme: int) -> None:
    """Up to 2³¹ events: each doubling joins a partial with itself."""
    for aggregation in (Sum(), Mean(), Variance()):
        partial, n = aggregation.lift(0, extreme), 2**31
        for _ in range(31):
            partial = aggregation.join(partial, partial)
        assert all(-(2**63) <= limb < 2**63 for limb in partial), "each fits a BIGINT"
        expected = {"sum": extreme * n / 10**6, "mean": extreme / 10**6, "variance": 0.0}
        assert aggregation.value(partial, 0, 10**6) == expected[aggregation.kind]
        for _ in range(34):
            partial = aggregation.join(partial, partial)
        with pytest.raises((OverflowError, pa.ArrowInvalid)):
            pa.array(partial, pa.int64())
        with pytest.raises(OverflowError):
            msgspec.msgpack.encode(partial)


def test_distinct_is_exact_below_its_bound_and_close_beyond() -> None:
    distinct = Distinct(1_024)
    hashes = random_hashes(50_000, 7)
    for n in (1, 1_000, 1_023):
        partial = distinct.combine_all([distinct.lift(0, v) for v in hashes[:n]])
        assert distinct.finalize(partial, 0, 1) == n
    for n in (2_000, 50_000):
        partial = distinct.join(sorted(set(hashes[:n]))[:1_024], [hashes[0]])
        estimate = distinct.finalize(partial, 0, 1)
        assert isinstance(estimate, int)
        assert abs(estimate / n - 1) < 4 / math.sqrt(1_022)


@pytest.mark.parametrize("precision", [4, 8, 10, 12])
def test_approx_distinct_is_within_its_stated_error_without_a_bias(precision: int) -> None:
    sketch, error, trials = ApproxDistinct(precision), 1.04 / math.sqrt(2**precision), 40
    for n in (10, 300, 3_000, 30_000):
        folded = series_of([(0, v, True) for v in random_hashes(n * trials, n)], False)
        lo = np.arange(trials) * n
        errors = [sketch.value(partial, 0, 1) / n - 1 for partial in sketch.fold(folded, lo, lo + n)]
        assert abs(statistics.mean(errors)) < 4 * error / math.sqrt(trials) + 0.02 / n
        assert statistics.pstdev(errors) < 1.5 * error


def test_a_sketch_costs_an_eighth_of_the_set_of_hashes_that_errs_as_much() -> None:
    hashes = series_of([(0, v, True) for v in random_hashes(100_000, 1)], False)
    ends = (np.array([0, 0]), np.array([100_000, 20]))
    full, few = (len(msgspec.msgpack.encode(partial)) for partial in ApproxDistinct(10).fold(hashes, *ends))
    assert full <= 1_160
    assert few <= 20 * 3 + 3
    assert len(msgspec.msgpack.encode(Distinct(1_024).fold(hashes, *ends)[0])) > 7 * full


def test_the_latest_come_first_and_of_one_millisecond_the_largest() -> None:
    pairs = [(1, "b"), (2, "a"), (2, "z"), (2, "z"), (0, "c")]
    lifted = [LastK(3).lift(ts, v) for ts, v in pairs]
    assert LastK(3).value(LastK(3).combine_all(lifted), 9, 1) == ["z", "z", "a"]
    assert LastK(9).value(LastK(9).combine_all(lifted), 9, 1) == ["z", "z", "a", "b", "c"]


def test_the_most_frequent_come_first_and_of_equally_frequent_ones_the_smaller() -> None:
    values = ["c", "b", "ü", "b", "c", "a"]
    partial = TopK(9).combine_all([TopK(9).lift(0, v) for v in values])
    assert TopK(9).value(partial, 0, 1) == ["b", "c", "a", "ü"]
    assert TopK(1).value(partial, 0, 1) == ["b"]
    amounts = TopK(2).combine_all([TopK(2).lift(0, v) for v in (2_500_000, 1_000_000, 2_500_000)])
    assert TopK(2).value(amounts, 0, 1_000_000) == [2.5, 1.0]


@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=30), bound=st.integers(2, 8), data=st.data())
def test_beyond_its_bound_top_k_has_no_answer_however_the_events_are_split(
    values: list[int], bound: int, data: st.DataObject
) -> None:
    top = TopK(2, bound)
    cut = data.draw(st.integers(0, len(values)))
    parts = [top.combine_all([top.lift(0, v) for v in part]) for part in (values[:cut], values[cut:])]
    counts = Counter(values)
    right = sorted(counts, key=lambda v: (-counts[v], v))[:2] if len(counts) <= bound else None
    assert top.finalize(top.combine(*parts), 0, 1) == right


def random_hashes(n: int, seed: int) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(64) - 2**63 for _ in range(n)]
