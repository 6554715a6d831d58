"""The product's sentence, for random events: brute force = view + speed tiles merged = tiles alone (Kappa) = training-set fold.

Every aggregation, with both tails. Duplicates and late events are decided before this point, by ingest; here: any batch_end, any q,
events on every boundary.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features import packed
from features.aggregations import Series, Value
from features.declaration import (
    Feature,
    FeatureGroup,
    approx_distinct,
    count,
    distinct,
    last,
    last_k,
    maximum,
    mean,
    minimum,
    since_last,
    stddev,
    top_k,
    total,
    variance,
)  # fmt: skip
from features.merge import Merged, merge
from features.tiles import fold_ranges, fold_tile_values, runs
from features.view import build_view, exact_span_ms
from features.windows import BUFFER_MS, DAY_MS, HOUR_MS, MINUTE_MS, floor_ms
from tests.declarations import user_events

MICROS = 1_000_000
FIVE, HOUR, DAY = 5 * MINUTE_MS, HOUR_MS, DAY_MS


class Event(NamedTuple):
    """An event as the oracle sees it."""

    ts_ms: int
    amount: int | None
    session: int
    item: str | None


# The definitions, read aloud: each sees the events of its window, and q.
Oracle = Callable[[list[Event], int], Value]


def amounts(events: list[Event]) -> list[Fraction]:
    return [Fraction(e.amount, MICROS) for e in events if e.amount is not None]


def mean_of(events: list[Event], q_ms: int) -> Value:
    found = amounts(events)
    return float(sum(found) / len(found)) if found else None


def variance_of(events: list[Event], q_ms: int) -> Value:
    found = amounts(events)
    if not found:
        return None
    middle = sum(found) / len(found)
    return float(sum((one - middle) ** 2 for one in found) / len(found))


def deviation_of(events: list[Event], q_ms: int) -> Value:
    found = variance_of(events, q_ms)
    return None if found is None else math.sqrt(found)  # type: ignore[arg-type]


def latest_items(events: list[Event], q_ms: int) -> Value:
    largest_first = sorted((e for e in events if e.item is not None), key=lambda e: e.item, reverse=True)
    return [e.item for e in sorted(largest_first, key=lambda e: -e.ts_ms)][:3] or None


def latest_amounts(events: list[Event], q_ms: int) -> Value:
    found = sorted((e.ts_ms, e.amount) for e in events if e.amount is not None)
    return [amount / MICROS for _, amount in found[:-3:-1]] or None


def top_items(events: list[Event], q_ms: int) -> Value:
    counts = Counter(e.item for e in events if e.item is not None)
    ranked = sorted(counts, key=lambda item: (-counts[item], item))
    return ranked[:2] if 0 < len(ranked) <= 3 else None


def latest_amount(events: list[Event], q_ms: int) -> Value:
    found = [(e.ts_ms, e.amount) for e in events if e.amount is not None]
    return max(found)[1] / MICROS if found else None


ORACLES: dict[str, tuple[Callable[..., Feature], dict[str, Any], Oracle]] = {
    "count": (count, {}, lambda events, q: len(events)),
    "sum": (total, {"of": "amount"}, lambda events, q: float(sum(amounts(events)))),
    "mean": (mean, {"of": "amount"}, mean_of),
    "variance": (variance, {"of": "amount"}, variance_of),
    "stddev": (stddev, {"of": "amount"}, deviation_of),
    "min": (minimum, {"of": "amount"}, lambda events, q: float(min(amounts(events))) if amounts(events) else None),
    "max": (maximum, {"of": "amount"}, lambda events, q: float(max(amounts(events))) if amounts(events) else None),
    "last": (last, {"of": "amount"}, latest_amount),
    "last_amounts": (last_k, {"of": "amount", "k": 2}, latest_amounts),
    "last_items": (last_k, {"of": "item_id", "k": 3}, latest_items),
    "top_items": (top_k, {"of": "item_id", "k": 2, "bound": 3}, top_items),
    "distinct": (distinct, {"of": "session_id"}, lambda events, q: len({e.session for e in events})),
    # Of these few sessions no two share a register.
    "approx_distinct": (approx_distinct, {"of": "session_id"}, lambda events, q: len({e.session for e in events})),
    "since": (since_last, {"unit": "days"}, lambda events, q: (q - max(e.ts_ms for e in events)) / DAY if events else None),
}
#: Name → options, size and hop, as the words of the declaration have them.
WINDOWS: dict[str, tuple[dict[str, Any], int, int]] = {
    "1h": ({"window": "1h"}, HOUR, FIVE),
    "1d": ({"window": "1d", "hop": "30min"}, DAY, 30 * MINUTE_MS),
    "3d": ({"window": "3d"}, 3 * DAY, HOUR),
    "30d": ({"window": "30d"}, 30 * DAY, DAY),
    "1s_exact": ({"window": "1s", "tail": "exact"}, 1_000, 1),
    "1h_exact": ({"window": "1h", "tail": "exact"}, HOUR, 1),
    "2d_exact": ({"window": "2d", "tail": "exact"}, 2 * DAY, 1),
    "7d_exact": ({"window": "7d", "tail": "exact"}, 7 * DAY, 1),
    "30d_exact": ({"window": "30d", "tail": "exact"}, 30 * DAY, 1),
    "ever": ({}, 10**15, 1),
}


def group_of(*windows: str) -> FeatureGroup:
    """Every aggregation over each of the windows."""
    features = [
        make(f"{name}_{window}", **of, **WINDOWS[window][0]) for window in windows for name, (make, of, _) in ORACLES.items()
    ]
    return FeatureGroup(name="proof", entity="user_id", source=user_events, features=tuple(features))


def brute_force(windows: tuple[str, ...], events: list[Event], q_ms: int) -> list[Value]:
    """One pass per feature over all events."""
    found = []
    for window in windows:
        _, size_ms, hop_ms = WINDOWS[window]
        inside = [e for e in events if (q_ms - size_ms) // hop_ms * hop_ms <= e.ts_ms < q_ms]
        found += [oracle(inside, q_ms) for _, _, oracle in ORACLES.values()]
    return found


def series_of(group: FeatureGroup, events: list[Event]) -> list[Series]:
    columns: dict[str, list[Any]] = {
        "1": [1 for _ in events],
        "CASE WHEN `session_id` IS NOT NULL THEN xxhash64(`session_id`) END": [
            int.from_bytes(blake2b(bytes([e.session]), digest_size=8).digest(), signed=True) for e in events
        ],
        "CAST(`amount` * 1000000 AS BIGINT)": [e.amount for e in events],
        "`item_id`": [e.item for e in events],
    }
    result = []
    for one in group.inputs:
        column, kind = columns[one.sql], object if one.text else np.int64
        valid = np.array([v is not None for v in column], dtype=bool)
        values = np.array([v if v is not None else "" if one.text else 0 for v in column], dtype=kind)
        result.append(Series(np.array([e.ts_ms for e in events], dtype=np.int64), values, valid))
    return result


def view_of(group: FeatureGroup, events: list[Event], batch_end_ms: int) -> packed.BatchValue:
    """Batch: the events before batch_end, in tiles, and those of the exact spans by the instant, in a view, through its bytes."""

    def pieces(chosen: list[Event], step_ms: int) -> tuple[list[int], list[list[Any]]]:
        series = series_of(group, chosen)
        lo, hi = runs(series[0].ts_ms // step_ms)
        return (series[0].ts_ms[lo] // step_ms * step_ms).tolist(), fold_ranges(group, series, lo, hi)

    before = [e for e in events if e.ts_ms < batch_end_ms]
    spans = [exact_span_ms(group, window, batch_end_ms) for window in group.exact_windows]
    instants = pieces([e for e in before if any(a <= e.ts_ms < b for a, b in spans)], 1)
    newest_ms = before[-1].ts_ms if before else None
    view = build_view(group, batch_end_ms, *pieces(before, group.tile_ms), newest_ms, *instants)
    return packed.decode_batch(packed.encode(view), group.fingerprint)


def tiles_of(group: FeatureGroup, events: list[Event]) -> list[packed.TileValue]:
    """Speed: every event, also those before batch_end, in packed tiles."""
    if not events:
        return []
    series = series_of(group, events)
    tiles = fold_tile_values(group, series, *runs(series[0].ts_ms // group.tile_ms))
    return [packed.decode_tile(packed.encode(tile), group.fingerprint) for tile in tiles]


def trained(group: FeatureGroup, events: list[Event], q_ms: int) -> list[Value]:
    """The training set's fold over the window of each feature."""
    series = series_of(group, events)
    found = []
    for index, feature in enumerate(group.features):
        start = -(2**62) if feature.window is None else floor_ms(q_ms - feature.window.size_ms, feature.window.hop_ms)
        bounds = np.searchsorted(series[0].ts_ms, [start, q_ms])
        partial = feature.aggregation.fold(series[group.input_of[index]], bounds[:1], bounds[1:])[0]
        found.append(feature.aggregation.finalize(partial, q_ms, group.scale_of(index)))
    return found


def every_layer_agrees(windows: tuple[str, ...], events: list[Event], batch_end_ms: int, q_ms: int) -> Merged:
    group, events = group_of(*windows), sorted(events, key=lambda e: e.ts_ms)
    expected = dict(zip(group.feature_names, brute_force(windows, events, q_ms), strict=True))

    def named(values: list[Value]) -> dict[str, Value]:
        return dict(zip(group.feature_names, values, strict=True))

    merged = merge(group, view_of(group, events, batch_end_ms), tiles_of(group, events), q_ms)
    assert named(merged.values) == expected
    assert named(merge(group, None, tiles_of(group, events), q_ms).values) == expected
    assert named(trained(group, events, q_ms)) == expected
    return merged


BASE = 1_700_000_000_000 // DAY_MS * DAY_MS
STEPS = (0, 1, -1, FIVE, HOUR, DAY, 7 * DAY, 30 * DAY, 2 * DAY, 12 * FIVE)

instants = st.builds(
    lambda day, step, jitter: BASE + day * DAY_MS // 4 + step + jitter,
    st.integers(-140, 12), st.sampled_from(STEPS), st.sampled_from((0, 0, 1, -1, 299_999, 300_000)),
) | st.integers(BASE - 33 * DAY_MS, BASE + 3 * DAY_MS)  # fmt: skip
items = st.none() | st.sampled_from(["", "a", "b", "ü:ü", "\U0001f986", "\uffff"])
event = st.builds(Event, instants, st.none() | st.integers(-(10**9), 10**9), st.integers(0, 4), items)


@given(
    events=st.lists(event, max_size=40),
    batch_end_ms=instants,
    ahead_ms=st.integers(0, BUFFER_MS) | st.sampled_from((0, 1, BUFFER_MS)),
)
@example(events=[Event(BASE, 5, 1, "a")], batch_end_ms=BASE, ahead_ms=0)
@example(events=[Event(BASE, 5, 1, "a")], batch_end_ms=BASE, ahead_ms=1)
def test_every_layer_says_what_brute_force_says(events: list[Event], batch_end_ms: int, ahead_ms: int) -> None:
    q_ms = batch_end_ms + ahead_ms
    merged = every_layer_agrees(tuple(WINDOWS), events, batch_end_ms, q_ms)
    assert merged.degraded == ()
    assert merged.newest_event_ms == max((e.ts_ms for e in events if e.ts_ms < q_ms), default=None)


@given(
    seed=st.integers(0, 2**32), size=st.integers(1, 300), span_ms=st.sampled_from((2_000, FIVE, HOUR, DAY, 9 * DAY)),
    reach=st.sampled_from((0, 1_000, HOUR, 2 * DAY, 7 * DAY)), ahead=st.sampled_from((0, 1)) | st.floats(0, 1),
)  # fmt: skip
def test_a_window_may_begin_anywhere_in_a_long_tail(seed: int, size: int, span_ms: int, reach: int, ahead: float) -> None:
    """Many events around where windows begin, in the view's tail and in speed tiles, and some beside each beginning and the cut."""
    source = random.Random(seed)
    batch_end_ms = BASE + source.randrange(DAY)
    q_ms = batch_end_ms + int(ahead * min(span_ms, BUFFER_MS))
    events = [
        Event(q_ms - reach + source.randrange(-span_ms, span_ms) // 7 * 7, source.randrange(10**6), source.randrange(5), source.choice("abcd"))
        for _ in range(size)
    ]  # fmt: skip
    windows = ("1h", "1s_exact", "1h_exact", "2d_exact", "7d_exact")
    corners = [batch_end_ms, *(q_ms - WINDOWS[window][1] for window in windows)]
    events += [Event(ts_ms + beside, 1, 0, "a") for ts_ms in corners for beside in (-1, 0)]
    every_layer_agrees(windows, events, batch_end_ms, q_ms)


def test_an_exact_window_that_begins_in_a_tile_without_a_log_says_so() -> None:
    group = group_of("1h_exact")
    many = [Event(BASE + ts_ms, 1, 0, "a") for ts_ms in range(packed.LOG_BOUND + 1)]
    for events, degraded in ((many, True), (many[:-1], False)):
        within = merge(group, None, tiles_of(group, events), BASE + HOUR + 500, BASE - 1)
        assert bool(within.degraded) is degraded
        assert (within.values[0] == len(events) - 500) is not degraded
        for whole_ms in (BASE + HOUR, BASE + HOUR + FIVE):
            assert not merge(group, None, tiles_of(group, events), whole_ms, BASE - 1).degraded


def test_an_exact_tail_of_too_many_instants_is_kept_by_the_tile_and_says_so() -> None:
    group, step_ms = FeatureGroup("g", "user_id", user_events, (count("n", **WINDOWS["1h_exact"][0]),)), 10
    for size in (packed.TAIL_BOUND, packed.TAIL_BOUND + 1):
        events = [Event(BASE + 123_456 - (size - n) * step_ms, None, 0, None) for n in range(size)]
        view = view_of(group, events, BASE + 123_456)
        within = merge(group, view, [], BASE + HOUR + 55)
        assert bool(within.degraded) is (size > packed.TAIL_BOUND)
        since = BASE if within.degraded else BASE + 55
        assert within.values == [sum(e.ts_ms >= since for e in events)]
        # Where the window begins with a tile, or after batch_end, nothing is missing.
        for q_ms in (BASE + HOUR, BASE + 123_456 + HOUR + 1):
            merged = merge(group, view, [], q_ms)
            assert (merged.values, merged.degraded) == ([sum(e.ts_ms >= q_ms - HOUR for e in events)], ())


@pytest.mark.parametrize("window", ["2d_exact", "30d_exact"])
def test_an_exact_tail_of_sets_grows_with_its_events_not_with_their_square(window: str) -> None:
    """A suffix of distinct hashes at each instant would be a thousand lists of a thousand hashes."""
    events = [Event(BASE - 2 * DAY + n * 1_000, n, n % 256, str(n)) for n in range(1_000)]
    if window == "30d_exact":
        events = [e._replace(ts_ms=e.ts_ms - 28 * DAY) for e in events]
    group = FeatureGroup("g", "user_id", user_events, (distinct("d", of="session_id", **WINDOWS[window][0]),))
    view = view_of(group, events, BASE)
    assert len(view.features[0].hop_starts_ms) == 1_000
    assert len(packed.encode(view)) < 1_000 * 25 + 1_000 / packed.STRIDE * 256 * 9


@given(events=st.lists(event, min_size=1, max_size=30), batch_end_ms=instants)
def test_an_answer_beyond_the_buffer_says_so(events: list[Event], batch_end_ms: int) -> None:
    group = group_of("1h", "7d_exact")
    view = view_of(group, sorted(events, key=lambda e: e.ts_ms), batch_end_ms)
    assert merge(group, view, [], batch_end_ms + BUFFER_MS + 1).degraded
