"""Values by the column are the values of the partials, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.aggregations import Aggregation, Count, Distinct, Last, Max, Mean, Min, Series, SinceLast, Sum
from features.finish import finish

EXTREME = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1]))
AGGREGATIONS = [Count(), Sum(), Mean(), Min(), Max(), Last(), Distinct(16), SinceLast("hours")]


@st.composite
def windows(draw: st.DrawFn) -> tuple[Series, np.ndarray, np.ndarray, np.ndarray]:
    """Events of a few entities, in order, and ranges within an entity that split no millisecond."""
    entities = [sorted(draw(st.lists(st.integers(-5, 40), max_size=30))) for _ in range(draw(st.integers(0, 3)))]
    ts_ms = [t for times in entities for t in times]
    v, valid = draw(st.lists(EXTREME, min_size=len(ts_ms), max_size=len(ts_ms))), [draw(st.booleans()) for _ in ts_ms]
    series = Series(np.array(ts_ms, np.int64), np.array(v, np.int64), np.array(valid, bool))
    bounds, begin = [], 0
    for times in entities:
        cuts = [begin + i for i in range(len(times) + 1) if i in (0, len(times)) or times[i] != times[i - 1]]
        bounds += [sorted(draw(st.tuples(st.sampled_from(cuts), st.sampled_from(cuts)))) for _ in range(4)]
        begin += len(times)
    lo, hi = (np.array([pair[i] for pair in bounds], np.int64) for i in (0, 1))
    q_ms = np.array([draw(st.integers(50, 2**60)) for _ in bounds], np.int64)
    return series, lo, hi, q_ms


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda aggregation: aggregation.kind)
@given(windows(), st.sampled_from([1, 10**6]))
def test_a_column_of_values_is_each_value_of_its_partial(
    aggregation: Aggregation, given_windows: tuple[Series, np.ndarray, np.ndarray, np.ndarray], scale: int
) -> None:
    series, lo, hi, q_ms = given_windows
    partials = aggregation.fold(series, lo, hi)
    expected = [aggregation.finalize(partial, q, scale) for partial, q in zip(partials, q_ms.tolist(), strict=True)]
    finished = finish(aggregation, series, lo, hi, q_ms, scale)
    assert list(map(repr, finished.tolist())) == [
        repr(float(v)) if v == 0 and finished.dtype == float else repr(v) for v in expected
    ]


def test_a_count_beyond_its_bound_is_the_estimate_of_the_partial() -> None:
    hashes = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 5_000)
    series = Series(np.arange(5_000), hashes, np.ones(5_000, bool))
    lo, hi = np.array([0, 10, 0]), np.array([5_000, 25, 16])
    aggregation = Distinct(16)
    values = finish(aggregation, series, lo, hi, hi, 1).tolist()
    assert values == [aggregation.finalize(partial, 0, 1) for partial in aggregation.fold(series, lo, hi)]
    assert values[1] == 15
