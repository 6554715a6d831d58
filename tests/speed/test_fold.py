"""The fold of micro-batches, without Spark: new events join the tiles that are there, each event once, however the stream is cut."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.history import decode_history, unpack_history
from features.merge import EVER_MS, merge
from features.open_tile import join_tile
from features.packed import LOG_BOUND, TileValue, decode_log, encode
from features.speed_value import pack_tile
from features.tiles import fold_tile_values, runs
from speed.fold import contributions_of, first_starts, fold_into, roll_into
from store.protocol import OpenTiles
from tests.declarations import user_features
from tests.pure import joined, series_of, unpacked

TILE = 1_795_000_200_000
TILE_MS = user_features.tile_ms
INPUTS = [f"input_{index}" for index in range(len(user_features.inputs))]


def event(
    offset: int, ts_ms: int, amount: int | None = None, user: int = 1, partition: int = 0, session: int = 1
) -> dict[str, Any]:
    bought = None if amount is None else 1
    inputs = dict(zip(INPUTS, (1, amount, session, bought), strict=True))
    return {"entity": str(user), "ts_ms": ts_ms, "kafka_partition": partition, "kafka_offset": offset, **inputs}


class Stream:
    """Tiles and what is folded of each entity, as a store keeps them."""

    def __init__(self) -> None:
        self.tiles: dict[int | str, dict[int, bytes]] = {}
        self.folded: dict[int | str, dict[int, int]] = {}

    def take(self, *events: dict[str, Any], torn_after: int | None = None) -> None:
        """A micro-batch; one that is torn has put some entities and not the others."""
        new = contributions_of(user_features, pa.Table.from_pylist(list(events), SCHEMA), INPUTS)
        tiles, folded = fold_into(
            user_features, new, [self.open(one, start_ms) for one, start_ms in first_starts(user_features, new).items()]
        )
        for entity in list(folded)[:torn_after]:
            self.folded[entity] = folded[entity]
            its = {start_ms: data for one, start_ms, data in tiles if one == entity}
            self.tiles.setdefault(entity, {}).update(its)

    def open(self, entity: int | str, first_ms: int) -> OpenTiles | None:
        if entity not in self.folded:
            return None
        return OpenTiles(
            self.folded[entity], {start_ms: data for start_ms, data in self.tiles[entity].items() if start_ms >= first_ms}
        )

    def tile(self, entity: int | str, start_ms: int = TILE) -> TileValue:
        return unpacked(user_features, start_ms, self.tiles[entity][start_ms])


SCHEMA = pa.schema([
    ("entity", pa.string()), ("ts_ms", pa.int64()), ("kafka_partition", pa.int32()), ("kafka_offset", pa.int64()),
    *((name, pa.int64()) for name in INPUTS),
])  # fmt: skip


def generated(seed: int, n: int = 400) -> list[dict[str, Any]]:
    """Events of three users in two partitions over some tiles, out of order by less than the watermark."""
    rng = random.Random(seed)
    return [
        event(
            offset, TILE + offset * 4_000 - rng.randrange(300_000), rng.choice((None, rng.randrange(10**9))), rng.randrange(3),
            rng.randrange(2), rng.randrange(4),
        )
        for offset in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_tiles_are_the_same_however_the_stream_is_cut_and_wherever_a_micro_batch_is_torn_or_made_again(seed: int) -> None:
    events, whole, cut, rng = generated(seed), Stream(), Stream(), random.Random(seed)
    whole.take(*events)
    while events:
        size = rng.randrange(1, 60)
        micro_batch, events = events[:size], events[size:]
        for torn_after in rng.sample((1, None, 2), rng.randrange(3)):
            cut.take(*rng.sample(micro_batch, len(micro_batch)), torn_after=torn_after)
        cut.take(*micro_batch)
    assert cut.tiles == whole.tiles


class RollingStream(Stream):
    """A stream of which closed tiles join histories."""

    def __init__(self) -> None:
        super().__init__()
        self.histories: dict[int | str, bytes] = {}

    def take_closed(self, closed_ms: int, *events: dict[str, Any], torn_after: int | None = None) -> None:
        """A micro-batch before which no event comes any more that lies before `closed_ms`."""
        new = contributions_of(user_features, pa.Table.from_pylist(list(events), SCHEMA), INPUTS)
        starts = first_starts(user_features, new)
        before = [self.open_with_closed(entity, start_ms, closed_ms) for entity, start_ms in starts.items()]
        rolled = roll_into(user_features, new, before, closed_ms)
        for entity in list(rolled.folded)[:torn_after]:
            self.folded[entity] = rolled.folded[entity]
            tiles = self.tiles.setdefault(entity, {})
            tiles.update({start_ms: data for owner, start_ms, data in rolled.tiles if owner == entity})
            if entity in rolled.histories:
                self.histories[entity] = rolled.histories[entity]
                end_ms = unpack_history(rolled.histories[entity], user_features).until_ms
                self.tiles[entity] = {start_ms: data for start_ms, data in tiles.items() if start_ms >= end_ms}

    def open_with_closed(self, entity: int | str, first_ms: int, closed_ms: int) -> OpenTiles | None:
        state = self.open(entity, min(first_ms, closed_ms))
        return state and OpenTiles(state.offsets, self.tiles[entity], self.histories.get(entity))


@pytest.mark.parametrize("seed", range(3))
def test_histories_and_tiles_merge_to_what_tiles_alone_do_however_the_stream_is_cut_torn_and_read_again(seed: int) -> None:
    events, whole, cut, rng = generated(seed, 700), Stream(), RollingStream(), random.Random(seed)
    whole.take(*events)
    high_ms, left, offset = None, events, 0
    while left:
        size = rng.randrange(1, 60)
        micro_batch, left = left[:size], left[size:]
        closed_ms = EVER_MS if high_ms is None else (high_ms - 300_000 + 1) // TILE_MS * TILE_MS
        for torn_after in rng.sample((1, None, 2), rng.randrange(3)):
            cut.take_closed(closed_ms, *rng.sample(micro_batch, len(micro_batch)), torn_after=torn_after)
        cut.take_closed(closed_ms, *micro_batch)
        high_ms = max(event["ts_ms"] for event in (*micro_batch, {"ts_ms": high_ms or 0}))
        offset += size
        if offset > 350 and not rng.randrange(6):
            # Read again from the start: all is passed over, and the watermark lies back.
            cut.take_closed(EVER_MS, *events[:offset])
    assert cut.histories.keys() == whole.tiles.keys()
    for entity, tiles in whole.tiles.items():
        history = decode_history(cut.histories[entity], user_features)
        assert len(cut.tiles[entity]) < len(tiles)
        for q_ms in (high_ms + 1, high_ms + 3_000_000, high_ms + 9 * 86_400_000):
            expected = merge(user_features, None, [whole.tile(entity, start_ms) for start_ms in tiles], q_ms)
            merged = merge(user_features, history, [cut.tile(entity, start_ms) for start_ms in cut.tiles[entity]], q_ms)
            assert (merged.values, merged.newest_event_ms) == (expected.values, expected.newest_event_ms)


def test_an_event_that_is_not_late_behind_the_end_of_a_history_joins_it() -> None:
    stream = RollingStream()
    stream.take_closed(EVER_MS, event(0, TILE, 5))
    stream.take_closed(TILE + TILE_MS, event(1, TILE + TILE_MS, 7))
    stream.take_closed(EVER_MS, event(2, TILE + 9, 11))
    history = decode_history(stream.histories[1], user_features)
    tiles = [stream.tile(1, start_ms) for start_ms in stream.tiles[1]]
    assert merge(user_features, history, tiles, TILE + 2 * TILE_MS).values[:2] == [3, 0.000023]


def test_a_hot_tile_joins_its_new_events_and_keeps_no_list_of_them() -> None:
    stream = Stream()
    for part in range(20):
        stream.take(*(event(part * 500 + n, TILE + part * 10 + n % 1_500, 1) for n in range(500)))
    assert stream.tile(1).partials[:2] == [10_000, [0, 10_000]]
    assert len(stream.tiles[1][TILE]) < 50_000


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.lists(st.integers(0, 30), min_size=1, max_size=40), st.randoms())
def test_two_tiles_join_to_the_tile_of_all_their_events(a: list[int], b: list[int], rng: random.Random) -> None:
    def tile(instants: list[int], rows: list[dict[str, Any]]) -> TileValue:
        chosen = sorted(rows, key=lambda row: row["ts_ms"])
        series = series_of(user_features, chosen)
        [value] = fold_tile_values(user_features, series, *runs(np.zeros(len(instants))))
        return value

    def rows(instants: list[int]) -> list[dict[str, Any]]:
        return [
            {"event_id": str(n), "user_id": 1, "session_id": rng.choice("abc"), "event_type": rng.choice(("PURCHASE", "VIEW")),
             "amount": rng.choice((None, rng.randrange(10**12))), "ts_ms": TILE + at}
            for n, at in enumerate(instants)
        ]  # fmt: skip

    left, right = rows(a), rows(b)
    known = pack_tile(user_features, TILE, tile(a, left))
    whole = tile(a + b, left + right)
    assert join_tile(user_features, TILE, known, tile(b, right)) == pack_tile(user_features, TILE, whole)
    assert encode(joined(user_features, tile(a, left), tile(b, right))) == encode(whole)


def test_the_log_has_each_instant_in_order_and_none_of_too_many() -> None:
    stream = Stream()
    stream.take(event(0, TILE + 9), event(1, TILE))
    stream.take(event(2, TILE))
    tile = stream.tile(1)
    assert [(ts_ms, partials[0]) for ts_ms, partials in decode_log(tile)] == [(TILE, 2), (TILE + 9, 1)]
    stream.take(*(event(3 + n, TILE + 10 + n) for n in range(LOG_BOUND - 2)))
    tile = stream.tile(1)
    assert len(decode_log(tile)) == LOG_BOUND
    stream.take(event(5_000, TILE + 5_000))
    tile = stream.tile(1)
    assert bytes(tile.log) == b"\xc0"
