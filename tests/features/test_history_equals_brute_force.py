"""Kappa without a stream: an entity's history, however its events came into it, and its open tiles say what brute force says."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features import packed
from features.aggregations import Series
from features.declaration import FeatureGroup, count
from features.history import History, decode_history, fold_histories, pack_history, roll, unpack_history
from features.merge import EVER_MS, Merged, merge
from features.merge_many import ManyMerge
from features.open_tile import join_tile
from features.packed import HistoryView
from features.speed_value import pack_tile
from features.tiles import fold_tile_values, runs
from features.windows import floor_ms
from tests.features.test_merge_equals_brute_force import (
    BASE,
    DAY,
    FIVE,
    HOUR,
    SOURCE,
    WINDOWS,
    Event,
    event,
    group_of,
    instants,
    rows,
)
from tests.oracle import oracle
from tests.pure import series_of, speed_tiles_of, unpacked

GROUP = group_of("1h", "1d", "30d", "1s_exact", "1h_exact", "7d_exact", "ever")


class Entity:
    """An entity as a store keeps it: its history and its tiles, packed."""

    def __init__(self, group: FeatureGroup) -> None:
        self.group, self.tiles = group, dict[int, bytes]()
        self.history: bytes | None = None

    @property
    def until_ms(self) -> int:
        return unpack_history(self.history, self.group).until_ms if self.history else EVER_MS

    def take(self, events: list[Event], closed_ms: int) -> None:
        """A micro-batch: the tiles that are closed by now join the history, and so do events that come behind its end."""
        group, stored = self.group, unpack_history(self.history, self.group) if self.history else None
        closed = {start_ms: self.tiles.pop(start_ms) for start_ms in list(self.tiles) if start_ms < closed_ms}
        until_ms = max(self.until_ms, closed_ms if closed else self.until_ms)
        if closed:
            stored = roll(group, stored, closed, until_ms)
        behind = {}
        if events:
            series = series_of(group, rows(events))
            for tile in fold_tile_values(group, series, *runs(series[0].ts_ms // group.tile_ms)):
                start_ms = floor_ms(tile.first_ms, group.tile_ms)
                if start_ms < until_ms:
                    behind[start_ms] = pack_tile(group, start_ms, tile)
                elif start_ms in self.tiles:
                    self.tiles[start_ms] = join_tile(group, start_ms, self.tiles[start_ms], tile)
                else:
                    self.tiles[start_ms] = pack_tile(group, start_ms, tile)
        if behind:
            stored = roll(group, stored, behind, until_ms)
        self.history = pack_history(group, stored) if stored else None

    def merged(self, q_ms: int, since_ms: int | None = None) -> Merged:
        view = decode_history(self.history, self.group) if self.history else None
        tiles = speed_tiles_of(self.group, [unpacked(self.group, start_ms, data) for start_ms, data in self.tiles.items()])
        result = merge(self.group, view, tiles, q_ms, EVER_MS, since_ms)
        assert ManyMerge(self.group, q_ms, EVER_MS, since_ms)(view, tiles) == result
        return result


def folded(group: FeatureGroup, events: list[Event], until_ms: int) -> History | None:
    """The history of the events before `until_ms`, made at once."""
    before = rows([each for each in events if each.ts_ms < until_ms])
    if not before:
        return None
    [history] = fold_histories(group, series_of(group, before), np.zeros(len(before), np.int64), until_ms)
    return history


def values(group: FeatureGroup, merged: Merged) -> dict[str, object]:
    return dict(zip(group.feature_names, merged.values, strict=True))


@settings(max_examples=60)
@given(
    events=st.lists(event, max_size=40), cuts=st.lists(instants, max_size=4), ahead_ms=st.sampled_from((0, 1, FIVE, HOUR, DAY, 9 * DAY, 45 * DAY)),
    shuffle=st.randoms(use_true_random=False),
)  # fmt: skip
def test_histories_and_open_tiles_say_what_brute_force_says_at_any_age(
    events: list[Event], cuts: list[int], ahead_ms: int, shuffle: random.Random
) -> None:
    group, entity = GROUP, Entity(GROUP)
    left = shuffle.sample(events, len(events))
    for closed_ms in sorted(cuts):
        size = shuffle.randrange(len(left) + 1)
        taken, left = left[:size], left[size:]
        entity.take(taken, floor_ms(closed_ms, group.tile_ms))
    entity.take(left, EVER_MS)
    q_ms = max([entity.until_ms, *cuts[-1:], BASE]) + ahead_ms
    merged = entity.merged(q_ms)
    assert values(group, merged) == oracle(group, rows(events), 1, q_ms)
    assert (merged.degraded, merged.batch_end_ms) == ((), None)
    assert merged.newest_event_ms == max((each.ts_ms for each in events if each.ts_ms < q_ms), default=None)


@settings(max_examples=30)
@given(events=st.lists(event, min_size=1, max_size=8), until_ms=instants, ahead_ms=st.sampled_from((0, FIVE, DAY, 45 * DAY)))
def test_a_history_is_the_same_from_all_events_at_once_and_from_tile_after_tile(
    events: list[Event], until_ms: int, ahead_ms: int
) -> None:
    group = GROUP
    until_ms = floor_ms(until_ms, group.tile_ms)
    entity = Entity(group)
    for each in sorted(events, key=lambda each: each.ts_ms):
        entity.take([each], min(until_ms, floor_ms(each.ts_ms, group.tile_ms)))
    entity.take([], until_ms)
    history = folded(group, events, until_ms)
    if history is None:
        assert entity.history is None
    else:
        assert entity.until_ms == history.until_ms
        assert entity.history == pack_history(group, history)
        other = Entity(group)
        other.history, other.tiles = pack_history(group, history), entity.tiles
        assert other.merged(max(until_ms, BASE) + ahead_ms) == entity.merged(max(until_ms, BASE) + ahead_ms)


def test_an_entity_of_many_is_folded_as_it_is_alone() -> None:
    group, source, until_ms = group_of("1h", "30d", "7d_exact", "ever"), random.Random(7), BASE
    entities = [
        [Event(BASE - source.randrange(1, 40 * DAY), source.randrange(10**6), source.randrange(5), source.choice("abc")) for _ in range(n)]
        for n in (1, 30, 4)
    ]  # fmt: skip
    per_entity = [series_of(group, rows(events)) for events in entities]
    whole = [Series(*map(np.concatenate, zip(*of_input, strict=True))) for of_input in zip(*per_entity, strict=True)]
    histories = fold_histories(group, whole, np.repeat([0, 1, 2], [1, 30, 4]), until_ms)
    assert [pack_history(group, history) for history in histories] == [
        pack_history(group, folded(group, events, until_ms)) for events in entities
    ]


def test_only_the_windows_that_reach_before_what_the_stream_has_read_are_marked() -> None:
    group = group_of("1h", "3d", "ever")
    entity = Entity(group)
    entity.take([Event(BASE + hour * HOUR, 1, 1, "a") for hour in range(-90, 30)], EVER_MS)
    entity.take([], BASE + DAY)

    def marked(since_ms: int | None) -> set[str]:
        merged = entity.merged(BASE + 30 * HOUR, since_ms)
        return {group.feature_names[index].rpartition("_")[2] for index in merged.degraded_features}

    assert marked(None) == set()
    assert marked(BASE - 100 * DAY) == {"ever"}
    assert marked(BASE) == {"3d", "ever"}, "what the history lacks is no less missing than what tiles lack"
    assert marked(BASE + 30 * HOUR) == {"1h", "3d", "ever"}


def test_a_tile_without_a_log_stays_whole_in_the_history_until_no_exact_window_reaches_it() -> None:
    group = group_of("1h", "1h_exact", "ever")
    many = [Event(BASE + ts_ms, 1, 0, "a") for ts_ms in range(packed.LOG_BOUND + 1)]
    entity = Entity(group)
    entity.take([*many, Event(BASE + HOUR, 1, 0, "a")], EVER_MS)
    entity.take([], BASE + FIVE)
    whole = entity.merged(BASE + HOUR + 1)
    assert {group.feature_names[index].split("_", 1)[1] for index in whole.degraded_features} >= {"1h_exact"}
    assert not any(not group.feature_names[index].endswith("_1h_exact") for index in whole.degraded_features)
    aligned = entity.merged(BASE + HOUR)
    assert values(group, aligned) == oracle(group, rows([*many, Event(BASE + HOUR, 1, 0, "a")]), 1, BASE + HOUR)
    assert not aligned.degraded
    entity.take([Event(BASE + 3 * HOUR, 1, 0, "a")], BASE + 2 * HOUR)
    later = entity.merged(BASE + 3 * HOUR + 1)
    assert not later.degraded


def test_an_exact_window_of_too_many_instants_is_kept_by_the_tile_and_says_so() -> None:
    group = FeatureGroup("g", "user_id", SOURCE, (count("n", **WINDOWS["1h_exact"]),))
    for size in (packed.TAIL_BOUND, packed.TAIL_BOUND + 1):
        events = [Event(BASE + 123_456 - (size - n) * 10, None, 0, None) for n in range(size)]
        history = folded(group, events, BASE + FIVE)
        assert history
        view = decode_history(pack_history(group, history), group)
        assert isinstance(view, HistoryView)
        assert bool(merge(group, view, [], BASE + HOUR + 55, EVER_MS).degraded) is (size > packed.TAIL_BOUND)
        at_a_tile = merge(group, view, [], BASE + HOUR, EVER_MS)
        assert (at_a_tile.values, at_a_tile.degraded) == ([sum(each.ts_ms >= BASE for each in events)], ())
