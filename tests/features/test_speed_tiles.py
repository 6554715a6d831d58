"""A speed value that grows: what is taken over of the former value's decoding, pieces and sums is what decoding the value alone gives."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from features import packed, speed_tiles
from features.declaration import FeatureGroup, count
from features.errors import PackedValueError
from features.merge_many import ManyMerge
from features.packed import TileValue
from features.speed_tiles import SpeedTiles, decode_speed
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from tests.declarations import user_events, user_features
from tests.features.test_merge_equals_brute_force import BASE, EVERY_WINDOW, Event, group_of, rows
from tests.pure import speed_value, tiles_of, view_of

FIVE = 5 * MINUTE_MS


def agree(group: FeatureGroup, grown: SpeedTiles, fresh: SpeedTiles, view: packed.BatchValue | None, q_ms: int) -> None:
    assert grown == fresh
    assert (grown.last_ms, grown.dropped_ms) == (fresh.last_ms, fresh.dropped_ms)
    assert [packed.encode(tile) for tile in grown] == [packed.encode(tile) for tile in fresh]
    merge_at_q = ManyMerge(group, q_ms, BASE)
    assert merge_at_q(view, grown) == merge_at_q(view, fresh)


@pytest.mark.parametrize("seed", range(5))
def test_a_value_that_grows_is_decoded_cut_and_merged_as_if_it_was_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_tiles, "_FEW_PIECES", 2)
    monkeypatch.setattr(speed_tiles, "_FEW_TILES", 0)
    source, group = random.Random(seed), EVERY_WINDOW if seed % 3 else group_of("1h", "1d", "3d", "ever")
    span = source.choice((2 * HOUR_MS, DAY_MS))
    times = sorted(BASE + source.randrange(span) for _ in range(45))
    arriving = [Event(ms, source.randrange(-(10**9), 10**9), source.randrange(5), source.choice("ab"), 1) for ms in times]
    for at in range(0, len(arriving), 7):  # some come late, as far as into the first tile
        arriving.insert(source.randrange(at, len(arriving)), arriving.pop(at))
    view = view_of(group, rows([Event(BASE - HOUR_MS, 10**6, 1, "a", 1)]), BASE + source.choice((0, HOUR_MS + 1)))
    former: tuple[bytes, SpeedTiles] | None = None
    dropped, taken_over = 0, list[int]()
    of_later = speed_tiles.Pieces.of_later

    def counted(self: speed_tiles.Pieces, first_ms: int, end_ms: int) -> speed_tiles.Pieces:
        pieces = of_later(self, first_ms, end_ms)
        taken_over.append(len(pieces._sums))
        return pieces

    monkeypatch.setattr(speed_tiles.Pieces, "of_later", counted)
    for come in range(1, len(arriving) + 1):
        tiles = tiles_of(group, rows(arriving[:come]))
        dropped += come > 15 and not source.randrange(5) and len(tiles) > dropped + 3
        data = speed_value(group, tiles[dropped:], dropped)
        grown, fresh = decode_speed(data, group, former), decode_speed(data, group)
        # In the order of a hot entity's requests: about now, and now and then about a moment before.
        windows_move = source.choice((0, 0, 1, FIVE))
        instants = [grown.last_ms + 1 + windows_move, grown.last_ms, BASE + source.randrange(span)]
        for q_ms in source.sample(instants, 3):
            agree(group, grown, fresh, view if seed % 2 else None, max(q_ms, view.batch_end_ms))
        if source.randrange(6):
            former = data, grown
    assert len(taken_over) > 15, "most values begin with the pieces of the former one"
    assert sum(map(bool, taken_over)) > 5, "and with its sums"


@pytest.fixture
def threads_that_alternate() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(2e-4)
    yield
    sys.setswitchinterval(interval)


def test_threads_that_merge_the_same_value_at_other_instants_do_not_mix(threads_that_alternate: None) -> None:
    # An exact window begins elsewhere at each instant, the others only at each hop: these are taken over from the former merge.
    windows = [count("exact", window="1h", tail="exact"), *(count(f"last_{hours}h", window=f"{hours}h") for hours in range(1, 9))]
    group = FeatureGroup("counts", "user_id", user_events, tuple(windows))
    events = rows([Event(BASE + minute * MINUTE_MS, None, 1, "a") for minute in range(-60, 180)])
    tiles, view = tiles_of(group, events), view_of(group, events, BASE)
    shared = decode_speed(speed_value(group, tiles), group)
    hop_ms = BASE + 4 * HOUR_MS
    asked = [range(hop_ms, hop_ms + 50), range(hop_ms - 50, hop_ms)]
    alone = {
        q_ms: ManyMerge(group, q_ms, BASE)(view, decode_speed(speed_value(group, tiles), group)).values
        for of in asked
        for q_ms in of
    }

    def wrong(instants_ms: range) -> int:
        return sum(ManyMerge(group, q_ms, BASE)(view, shared).values != alone[q_ms] for _ in range(20) for q_ms in instants_ms)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(wrong, asked)) == [0, 0]


def test_of_a_hot_entity_only_the_last_tiles_are_decoded_and_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [Event(BASE + minute * MINUTE_MS + 7, 10**6, minute % 5, "a", 1) for minute in range(24 * 60)]
    group = group_of("1d", "ever")
    tiles = tiles_of(group, rows(events))
    former = speed_value(group, tiles[:-1])
    known = decode_speed(former, group)
    q_ms = BASE + DAY_MS
    ManyMerge(group, q_ms, BASE)(None, known)
    looked_at: list[int] = []
    between = speed_tiles.Pieces._between

    def counted(self: speed_tiles.Pieces, column: speed_tiles.Column, first: int, end: int | None) -> object:
        looked_at.append((len(self.entries) if end is None else end) - first)
        return between(self, column, first, end)

    monkeypatch.setattr(speed_tiles.Pieces, "_between", counted)
    monkeypatch.setattr(speed_tiles, "_FEW_PIECES", 2)
    decoder = speed_tiles._decoder
    decoded: list[int] = []

    class Decoder:
        def decode(self, data: bytes) -> list[list[object]]:
            decoded.append(len(data))
            return decoder.decode(data)

    monkeypatch.setattr(speed_tiles, "_decoder", Decoder())
    for last in (len(tiles) - 1, len(tiles)):
        data = speed_value(group, tiles[:last] if last < len(tiles) else tiles)
        grown = decode_speed(data, group, (former, known))
        looked_at.clear()
        ManyMerge(group, q_ms, BASE)(None, grown)
        former, known = data, grown
    assert max(decoded) < len(former) / 20
    # The first merge of a value that has grown looks at each piece once, each later one at those of its last tiles.
    assert max(looked_at) <= 2


def of(start_ms: int, *after_ms: int) -> TileValue:
    [tile] = tiles_of(
        user_features, [{"user_id": 1, "ts_ms": start_ms + ms, "event_type": "VIEW", "session_id": "a"} for ms in after_ms]
    )
    return tile


@pytest.mark.parametrize("cut", [0, 5, 18, 19, 30, 60, -1])
def test_a_value_that_cannot_be_read_is_refused_whatever_was_known(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_tiles, "_FEW_TILES", 0)
    good = speed_value(user_features, [of(BASE, 1), of(BASE + FIVE, 1, 2)])
    known = good, decode_speed(good, user_features)
    with pytest.raises(PackedValueError):
        decode_speed(good[:cut], user_features, known)


def test_nothing_is_taken_from_a_value_of_other_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_tiles, "_FEW_TILES", 0)
    former = speed_value(user_features, [of(BASE + n * FIVE, 1) for n in range(4)])
    known = former, decode_speed(former, user_features)
    for tiles in (
        [of(BASE + n * FIVE, 1) for n in range(9, 12)],
        [of(BASE + n * FIVE, 2) for n in range(4)],
        [of(BASE - FIVE, 1), *(of(BASE + n * FIVE, 1) for n in range(4))],
        [of(BASE + FIVE, 1)],
    ):
        data = speed_value(user_features, tiles)
        assert decode_speed(data, user_features, known) == decode_speed(data, user_features)
