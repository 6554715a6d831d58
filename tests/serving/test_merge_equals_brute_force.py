"""The product's sentence, for random events: brute force = view + speed tiles merged = tiles alone (Kappa) = training-set fold.

Duplicates and late events are decided before this point, by ingest; here: any batch_end, any q, events on every boundary.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from features import packed
from features.aggregations import Series, Value
from features.declaration import FeatureGroup, count, distinct, last, maximum, mean, minimum, since_last, total
from features.definitions import user_events
from features.tiles import fold_ranges, fold_tile_values, runs
from features.view import build_view
from features.windows import BUFFER_MS, DAY_MS, HOUR_MS, MINUTE_MS, floor_ms
from serving.merge import merge

GROUP = FeatureGroup(
    name="proof",
    entity="user_id",
    source=user_events,
    features=(
        count("n_1h", window="1h"),
        total("sum_1h", of="amount", window="1h"),
        distinct("distinct_1h", of="session_id", window="1h"),
        count("n_7d", window="7d"),
        mean("mean_30d", of="amount", window="30d"),
        minimum("min_7d", of="amount", window="7d"),
        maximum("max_3d", of="amount", window="3d"),
        last("last_2d", of="amount", window="2d"),
        last("last_ever", of="amount"),
        distinct("distinct_1d", of="session_id", window="1d", hop="1h"),
        since_last("since", unit="days"),
    ),
)
MICROS = 1_000_000
BASE = 1_700_000_000_000 // DAY_MS * DAY_MS
STEPS = (0, 1, -1, 5 * MINUTE_MS, HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS, 2 * DAY_MS, 12 * 5 * MINUTE_MS)

instants = st.builds(
    lambda day, step, jitter: BASE + day * DAY_MS // 4 + step + jitter,
    st.integers(-140, 12), st.sampled_from(STEPS), st.sampled_from((0, 0, 1, -1, 299_999, 300_000)),
) | st.integers(BASE - 33 * DAY_MS, BASE + 3 * DAY_MS)  # fmt: skip
event = st.tuples(instants, st.none() | st.integers(-(10**9), 10**9), st.integers(0, 4))


def brute_force(events: list[tuple[int, int | None, int]], q_ms: int) -> list[Value]:
    """The definition, read aloud: one pass per feature over all events, in fractions."""

    def inside(size_ms: int, hop_ms: int) -> list[tuple[int, int | None, int]]:
        return [e for e in events if (q_ms - size_ms) // hop_ms * hop_ms <= e[0] < q_ms]

    def amounts(chosen: list[tuple[int, int | None, int]]) -> list[int]:
        return [amount for _, amount, _ in chosen if amount is not None]

    def latest(chosen: list[tuple[int, int | None, int]]) -> Value:
        filled = [(ts, amount) for ts, amount, _ in chosen if amount is not None]
        return max(filled)[1] / MICROS if filled else None

    five, hour, day = 5 * MINUTE_MS, HOUR_MS, DAY_MS
    past = [e for e in events if e[0] < q_ms]
    month, week, three = amounts(inside(30 * day, day)), amounts(inside(7 * day, hour)), amounts(inside(3 * day, hour))
    return [
        len(inside(hour, five)),
        sum(amounts(inside(hour, five))) / MICROS,
        len({session for _, _, session in inside(hour, five)}),
        len(inside(7 * day, hour)),
        float(Fraction(sum(month), len(month) * MICROS)) if month else None,
        min(week) / MICROS if week else None,
        max(three) / MICROS if three else None,
        latest(inside(2 * day, hour)),
        latest(past),
        len({session for _, _, session in inside(day, hour)}),
        (q_ms - max(ts for ts, _, _ in past)) / day if past else None,
    ]


def series_of(events: list[tuple[int, int | None, int]]) -> list[Series]:
    ts_ms = np.array([ts for ts, _, _ in events], dtype=np.int64)
    columns = {
        "1": [1 for _ in events],
        "CASE WHEN `session_id` IS NOT NULL THEN xxhash64(`session_id`) END": [session * 77_777 for _, _, session in events],
        "CAST(`amount` * 1000000 AS BIGINT)": [amount for _, amount, _ in events],
    }
    result = []
    for one in GROUP.inputs:
        column = columns[one.sql]
        valid = np.array([v is not None for v in column], dtype=bool)
        result.append(Series(ts_ms, np.array([v or 0 for v in column], dtype=np.int64), valid))
    return result


def view_of(events: list[tuple[int, int | None, int]], batch_end_ms: int) -> packed.BatchValue:
    """Batch: the events before batch_end, in tiles, in a view, through its bytes."""
    before = [e for e in events if e[0] < batch_end_ms]
    series = series_of(before)
    lo, hi = runs(series[0].ts_ms // GROUP.tile_ms)
    starts = (series[0].ts_ms[lo] // GROUP.tile_ms * GROUP.tile_ms).tolist() if before else []
    view = build_view(GROUP, batch_end_ms, starts, fold_ranges(GROUP, series, lo, hi), before[-1][0] if before else None)
    return packed.decode_batch(packed.encode(view), GROUP.fingerprint)


def tiles_of(events: list[tuple[int, int | None, int]]) -> list[packed.TileValue]:
    """Speed: every event, also those before batch_end, in packed tiles."""
    series = series_of(events)
    lo, hi = runs(series[0].ts_ms // GROUP.tile_ms) if events else (np.empty(0, np.int64), np.empty(0, np.int64))
    return [
        packed.decode_tile(packed.encode(tile), GROUP.fingerprint)
        for tile in (fold_tile_values(GROUP, series, lo, hi) if events else [])
    ]


@given(
    events=st.lists(event, max_size=40),
    batch_end_ms=instants,
    ahead_ms=st.integers(0, BUFFER_MS) | st.sampled_from((0, 1, BUFFER_MS)),
)
@example(events=[(BASE, 5, 1)], batch_end_ms=BASE, ahead_ms=0)
@example(events=[(BASE, 5, 1)], batch_end_ms=BASE, ahead_ms=1)
def test_every_layer_says_what_brute_force_says(
    events: list[tuple[int, int | None, int]], batch_end_ms: int, ahead_ms: int
) -> None:
    events = sorted(events, key=lambda e: (e[0], e[2]))
    q_ms = batch_end_ms + ahead_ms
    expected = brute_force(events, q_ms)

    merged = merge(GROUP, view_of(events, batch_end_ms), tiles_of(events), q_ms)
    assert merged.values == expected
    assert merged.degraded == ()
    past = [ts for ts, _, _ in events if ts < q_ms]
    assert merged.newest_event_ms == (max(past) if past else None)

    kappa = merge(GROUP, None, tiles_of(events), q_ms)
    assert kappa.values == expected

    series = series_of(events)
    trained = []
    for index, feature in enumerate(GROUP.features):
        start = -(2**62) if feature.window is None else floor_ms(q_ms - feature.window.size_ms, feature.window.hop_ms)
        bounds = np.searchsorted(series[0].ts_ms, [start, q_ms])
        partial = feature.aggregation.fold(series[GROUP.input_of[index]], bounds[:1], bounds[1:])[0]
        trained.append(feature.aggregation.finalize(partial, q_ms, GROUP.scale_of(index)))
    assert trained == expected


@given(events=st.lists(event, min_size=1, max_size=30), batch_end_ms=instants)
def test_an_answer_beyond_the_buffer_says_so(events: list[tuple[int, int | None, int]], batch_end_ms: int) -> None:
    merged = merge(GROUP, view_of(sorted(events, key=lambda e: e[0]), batch_end_ms), [], batch_end_ms + BUFFER_MS + 1)
    assert merged.degraded
