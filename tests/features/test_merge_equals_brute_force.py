"""The product's sentence, for random events: brute force = view + speed tiles merged = tiles alone (Kappa) = training-set fold.

Every aggregation, with both tails. Duplicates and late events are decided before this point, by ingest; here: any batch_end, any q,
events on every boundary, amounts and points of every size.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features import packed
from features.aggregations import Value
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
from features.merge_many import ManyMerge
from features.sources import Column, ColumnType, EventSource
from features.speed_tiles import SpeedTiles
from features.windows import BUFFER_MS, DAY_MS, HOUR_MS, MINUTE_MS
from tests import pure
from tests.oracle import oracle
from tests.pure import micros, speed_tiles_of, tiles_of, trained, view_of

FIVE, HOUR, DAY = 5 * MINUTE_MS, HOUR_MS, DAY_MS
SOURCE = EventSource(
    "proof", "proof", "proof",
    (
        Column("event_id", required=True), Column("user_id", ColumnType.INT64, required=True), Column("session_id"), Column("item_id"),
        Column("amount", ColumnType.DECIMAL), Column("points", ColumnType.INT64), Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
)  # fmt: skip


class Event(NamedTuple):
    """An event of the one entity; the amount in micro-units."""

    ts_ms: int
    amount: int | None
    session: int
    item: str | None
    points: int | None = None


def rows(events: list[Event]) -> list[pure.Event]:
    """The events in order of time, as the table has them."""
    return [
        {"user_id": 1, "ts_ms": event.ts_ms, "amount": micros(event.amount), "session_id": str(event.session), "item_id": event.item, "points": event.points}
        for event in sorted(events, key=lambda e: e.ts_ms)
    ]  # fmt: skip


MAKERS: dict[str, tuple[Callable[..., Feature], dict[str, Any]]] = {
    "count": (count, {}), "sum": (total, {"of": "amount"}), "points": (total, {"of": "points"}), "mean": (mean, {"of": "amount"}),
    "mean_points": (mean, {"of": "points"}), "variance": (variance, {"of": "amount"}), "variance_points": (variance, {"of": "points"}),
    "stddev": (stddev, {"of": "amount"}), "min": (minimum, {"of": "amount"}), "max": (maximum, {"of": "points"}), "last": (last, {"of": "amount"}),
    "last_amounts": (last_k, {"of": "amount", "k": 2}), "last_items": (last_k, {"of": "item_id", "k": 3}),
    "top_items": (top_k, {"of": "item_id", "k": 2, "bound": 3}), "distinct": (distinct, {"of": "session_id"}),
    # Of these few sessions no two share a register.
    "approx_distinct": (approx_distinct, {"of": "session_id"}), "since": (since_last, {"unit": "days"}),
}  # fmt: skip
WINDOWS: dict[str, dict[str, Any]] = {
    "1h": {"window": "1h"}, "1d": {"window": "1d", "hop": "30min"}, "3d": {"window": "3d"}, "30d": {"window": "30d"},
    "1s_exact": {"window": "1s", "tail": "exact"}, "1h_exact": {"window": "1h", "tail": "exact"}, "2d_exact": {"window": "2d", "tail": "exact"},
    "7d_exact": {"window": "7d", "tail": "exact"}, "30d_exact": {"window": "30d", "tail": "exact"}, "ever": {},
}  # fmt: skip


def group_of(*windows: str, buffer: str = "2d") -> FeatureGroup:
    """Every aggregation over each of the windows."""
    features = [make(f"{name}_{window}", **of, **WINDOWS[window]) for window in windows for name, (make, of) in MAKERS.items()]
    return FeatureGroup(name="proof", entity="user_id", source=SOURCE, features=tuple(features), buffer=buffer)


def every_layer_agrees(group: FeatureGroup, events: list[Event], batch_end_ms: int, q_ms: int) -> Merged:
    """What the layers say, but for what is listed as degraded."""
    expected = oracle(group, rows(events), 1, q_ms)

    def named(values: list[Value]) -> dict[str, Value]:
        return dict(zip(group.feature_names, values, strict=True))

    view, tiles = view_of(group, rows(events), batch_end_ms), tiles_of(group, rows(events))
    merged = merge(group, view, tiles, q_ms)
    many_merges_agree(group, view, tiles, q_ms)
    degraded = {group.feature_names[index] for index in merged.degraded_features}
    assert {k: v for k, v in named(merged.values).items() if k not in degraded} == {
        k: v for k, v in expected.items() if k not in degraded
    }
    assert named(merge(group, None, tiles_of(group, rows(events)), q_ms).values) == expected
    assert named(trained(group, rows(events), q_ms)) == expected
    return merged


def many_merges_agree(group: FeatureGroup, view: packed.BatchValue | None, tiles: Sequence[packed.TileValue], q_ms: int) -> None:
    """The merge of many entities, through the packed speed value, also where it was asked before about another instant or view."""
    speed = speed_tiles_of(group, tiles)
    assert [packed.encode(tile) for tile in speed] == [packed.encode(tile) for tile in tiles]
    end_ms = view.batch_end_ms if view else q_ms - HOUR
    asked = ((q_ms, None), (q_ms, q_ms - 2 * HOUR), (q_ms + FIVE, None))
    for batch in (view, None):
        for instant_ms, since_ms in asked:
            expected = merge(group, batch, tiles, instant_ms, end_ms, since_ms)
            assert ManyMerge(group, instant_ms, end_ms, since_ms)(batch, speed) == expected
    if view:
        assert ManyMerge(group, q_ms)(view, ()) == merge(group, view, [], q_ms)


BASE = 1_700_000_000_000 // DAY_MS * DAY_MS
STEPS = (0, 1, -1, FIVE, HOUR, DAY, 7 * DAY, 30 * DAY, 2 * DAY, 12 * FIVE)

instants = st.builds(
    lambda day, step, jitter: BASE + day * DAY_MS // 4 + step + jitter,
    st.integers(-140, 12), st.sampled_from(STEPS), st.sampled_from((0, 0, 1, -1, 299_999, 300_000)),
) | st.integers(BASE - 33 * DAY_MS, BASE + 3 * DAY_MS)  # fmt: skip
items = st.none() | st.sampled_from(["", "a", "b", "ü:ü", "\U0001f986", "\uffff"])
LARGEST = 10**18 - 1  # of a decimal, in micro-units
amounts = st.none() | st.integers(-(10**9), 10**9) | st.integers(-LARGEST, LARGEST) | st.sampled_from((LARGEST, -LARGEST))
points = st.none() | st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from((2**63 - 1, -(2**63)))
event = st.builds(Event, instants, amounts, st.integers(0, 4), items, points)
EVERY_WINDOW = group_of(*WINDOWS)


@given(
    events=st.lists(event, max_size=40),
    batch_end_ms=instants,
    ahead_ms=st.integers(0, BUFFER_MS) | st.sampled_from((0, 1, BUFFER_MS)),
)
@example(events=[Event(BASE, 5, 1, "a")], batch_end_ms=BASE, ahead_ms=0)
@example(events=[Event(BASE, 5, 1, "a")], batch_end_ms=BASE, ahead_ms=1)
def test_every_layer_says_what_brute_force_says(events: list[Event], batch_end_ms: int, ahead_ms: int) -> None:
    q_ms = batch_end_ms + ahead_ms
    merged = every_layer_agrees(EVERY_WINDOW, events, batch_end_ms, q_ms)
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
    group = group_of(*windows)
    corners = [batch_end_ms, *{q_ms - feature.window.size_ms for feature in group.features if feature.window}]
    events += [Event(ts_ms + beside, 1, 0, "a") for ts_ms in corners for beside in (-1, 0)]
    assert every_layer_agrees(group, events, batch_end_ms, q_ms).degraded == ()


def test_an_exact_window_that_begins_in_a_tile_without_a_log_says_so() -> None:
    group = group_of("1h_exact")
    many = [Event(BASE + ts_ms, 1, 0, "a") for ts_ms in range(packed.LOG_BOUND + 1)]
    for events, degraded in ((many, True), (many[:-1], False)):
        within = merge(group, None, tiles_of(group, rows(events)), BASE + HOUR + 500, BASE - 1)
        assert bool(within.degraded) is degraded
        assert (within.values[0] == len(events) - 500) is not degraded
        for whole_ms in (BASE + HOUR, BASE + HOUR + FIVE):
            assert not merge(group, None, tiles_of(group, rows(events)), whole_ms, BASE - 1).degraded


def test_an_exact_tail_of_too_many_instants_is_kept_by_the_tile_and_says_so() -> None:
    group, step_ms = FeatureGroup("g", "user_id", SOURCE, (count("n", **WINDOWS["1h_exact"]),)), 10
    for size in (packed.TAIL_BOUND, packed.TAIL_BOUND + 1):
        events = [Event(BASE + 123_456 - (size - n) * step_ms, None, 0, None) for n in range(size)]
        view = view_of(group, rows(events), BASE + 123_456)
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
    group = FeatureGroup("g", "user_id", SOURCE, (distinct("d", of="session_id", **WINDOWS[window]),))
    view = view_of(group, rows(events), BASE)
    assert len(view.features[0].hop_starts_ms) == 1_000
    assert len(packed.encode(view)) < 1_000 * 25 + 1_000 / packed.STRIDE * 256 * 9


BUFFERED = {
    buffer: group_of("1h", "1d", "3d", "30d", "1h_exact", "7d_exact", "ever", buffer=buffer) for buffer in ("1h", "2d", "5d")
}


@given(
    events=st.lists(event, max_size=30), batch_end_ms=instants, buffer=st.sampled_from(sorted(BUFFERED)),
    ahead_ms=st.sampled_from((0, 1, -1, FIVE, HOUR, DAY, 3 * DAY, 29 * DAY, 40 * DAY)), jitter_ms=st.integers(0, DAY),
)  # fmt: skip
def test_beyond_the_buffer_every_feature_that_is_not_marked_is_right(
    events: list[Event], batch_end_ms: int, buffer: str, ahead_ms: int, jitter_ms: int
) -> None:
    group = BUFFERED[buffer]
    q_ms = max(batch_end_ms, batch_end_ms + group.buffer_ms + ahead_ms + jitter_ms)
    merged = every_layer_agrees(group, events, batch_end_ms, q_ms)
    marked = {group.feature_names[index] for index in merged.degraded_features}
    if q_ms <= batch_end_ms + group.buffer_ms:
        assert not marked
    assert not {name for name in marked if name.endswith("_ever")}, "all of time never begins in the view"
    # What begins after batch_end needs nothing of the view.
    assert not {f.name for f in group.features if f.name in marked and f.window and f.window.start_ms(q_ms) >= batch_end_ms}


def test_beyond_the_buffer_only_the_windows_that_begin_in_what_is_collapsed_are_marked() -> None:
    group = group_of("1h", "3d", "30d", "7d_exact", "ever")
    batch_end_ms = BASE + 7 * HOUR
    events = [Event(batch_end_ms - 1 - day * DAY, 1, 1, "a", 1) for day in range(40)]

    def marked(ahead_ms: int) -> set[str]:
        merged = every_layer_agrees(group, events, batch_end_ms, batch_end_ms + ahead_ms)
        assert len(merged.degraded) == bool(merged.degraded_features)
        return {
            group.feature_names[index].partition("_")[2]
            for index in merged.degraded_features
            if "count" in group.feature_names[index]
        }

    assert marked(2 * DAY) == set()
    assert marked(2 * DAY + 1) == {"7d_exact"}, "the others' hops have not moved"
    assert marked(2 * DAY + HOUR) == {"3d", "7d_exact"}
    assert marked(2 * DAY + 17 * HOUR) == {"3d", "30d", "7d_exact"}
    assert marked(3 * DAY + HOUR) == {"30d", "7d_exact"}, "three days begin after batch_end"
    assert marked(8 * DAY) == {"30d"}
    assert marked(31 * DAY) == set()


def test_only_the_windows_that_reach_before_the_first_complete_tile_are_marked() -> None:
    group, batch_end_ms = group_of("1h", "3d", "ever"), BASE
    events, q_ms = [Event(BASE + hour * HOUR, 1, 1, "a") for hour in range(-90, 30)], BASE + DAY
    view, tiles = view_of(group, rows(events), batch_end_ms), tiles_of(group, rows(events))

    def marked(complete_since_ms: int | None) -> set[str]:
        merged = merge(group, view, tiles, q_ms, batch_end_ms, complete_since_ms)
        return {group.feature_names[index].rpartition("_")[2] for index in merged.degraded_features}

    assert marked(None) == marked(batch_end_ms) == set()
    assert marked(batch_end_ms + 1) == marked(q_ms - HOUR) == {"3d", "ever"}
    assert marked(q_ms - HOUR + 1) == {"1h", "3d", "ever"}
    assert not merge(group, view, [], batch_end_ms, batch_end_ms, batch_end_ms + 1).degraded, "at batch_end no tile is needed"


def test_the_merge_of_many_reads_no_tile_as_a_whole_wherever_q_is(monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_of("1h", "3d", "1h_exact", "ever")
    events = [Event(BASE - day * DAY - 1, 1, 1, "b") for day in range(40)]
    events += [Event(BASE + seven * 7 * MINUTE_MS + second * 1_000, 1, 1, "a") for seven in range(30) for second in range(12)]
    view, tiles = view_of(group, rows(events), BASE), tiles_of(group, rows(events))
    instants_ms = [
        BASE,
        BASE + 1,
        BASE + 40 * MINUTE_MS,
        BASE + 42 * MINUTE_MS + 5_500,
        events[-1].ts_ms,
        events[-1].ts_ms + 1,
        BASE + 2 * DAY + 2 * HOUR,
    ]
    expected = [merge(group, view, tiles, q_ms) for q_ms in instants_ms]
    assert [each.tiles_merged for each in expected][-1] == 30
    assert expected[-1].reasons, "the batch is later than its buffer"
    speed = speed_tiles_of(group, tiles)
    monkeypatch.delattr(SpeedTiles, "__iter__")  # a tile as a whole costs as much as all else of a request
    monkeypatch.delattr(SpeedTiles, "__getitem__")
    assert [ManyMerge(group, q_ms)(view, speed) for q_ms in instants_ms] == expected


def test_a_tile_without_a_log_blurs_only_the_windows_that_begin_in_it() -> None:
    group = group_of("1h", "1h_exact", "1s_exact", "ever")
    many = [Event(BASE + ts_ms, 1, 0, "a") for ts_ms in range(packed.LOG_BOUND + 1)]
    merged = merge(group, None, tiles_of(group, rows(many)), BASE + HOUR + 500, BASE - 1)
    assert {group.feature_names[index].partition("_")[2] for index in merged.degraded_features} >= {"1h_exact"}
    assert all(group.feature_names[index].endswith("_1h_exact") for index in merged.degraded_features)
    cut = merge(group, None, tiles_of(group, rows(many)), BASE + 500, BASE - 1)
    assert len(cut.degraded_features) == len(group.features), "a tile that q cuts blurs all"


def test_values_that_age_are_those_of_each_instant_while_no_window_moves() -> None:
    group = group_of("1h", "3d", "ever")
    events = [Event(BASE + minute * MINUTE_MS, minute, 1, "a") for minute in range(-90, 90)]
    view, tiles = view_of(group, rows(events), BASE), tiles_of(group, rows(events))
    speed, end_ms = speed_tiles_of(group, tiles), events[-1].ts_ms
    instants_ms = [end_ms + 1, end_ms + 2, end_ms + MINUTE_MS - 1]
    assert len({ManyMerge(group, q_ms)._windows_ms for q_ms in instants_ms}) == 1
    for batch in (view, None):
        expected = [merge(group, batch, tiles, q_ms, BASE) for q_ms in instants_ms]
        assert [ManyMerge(group, q_ms, BASE)(batch, speed) for q_ms in instants_ms] == expected
        assert expected[0] != expected[1]
