"""The editor of speed values, against a dictionary of tiles."""

from __future__ import annotations

import random
from datetime import date

import pytest

from features.declaration import FeatureGroup, count
from features.instants import day_start_ms
from features.packed import TileValue
from features.speed_editor import Editor
from features.speed_tiles import decode_speed
from features.speed_value import NONE_DROPPED_MS, pack_tile
from features.windows import DAY_MS
from tests.declarations import item_features, user_features
from tests.features.test_merge_equals_brute_force import BASE
from tests.pure import tiles_of

TILE_MS, HOUR = user_features.tile_ms, 500_000
FIRST_MS = BASE // TILE_MS * TILE_MS


def tile(start_ms: int, number: int) -> TileValue:
    event = {"user_id": 1, "session_id": "s", "event_type": "VIEW", "amount": number, "ts_ms": start_ms + number}
    [value] = tiles_of(user_features, [event])
    return value


def tiles_from(editor: Editor, value: bytes | None, first_ms: int, closed_ms: int | None = None) -> dict[int, bytes]:
    folded, tiles = editor.folded_and_tiles(value, first_ms, closed_ms)
    assert folded == editor.folded(value)
    return tiles


def dropped_ms(value: bytes) -> int:
    return decode_speed(value, user_features).dropped_ms


@pytest.mark.parametrize("seed", range(20))
def test_a_value_holds_what_was_written_last_whatever_the_order(seed: int) -> None:
    source, expected, value, folded = random.Random(seed), dict[int, TileValue](), None, b""
    editor = Editor(user_features, HOUR, ttl_seconds=3_600)
    for _ in range(40):
        starts_ms = sorted({FIRST_MS + source.randrange(-15, 15) * TILE_MS for _ in range(source.choice((0, 1, 1, 2, 5)))})
        new = {start_ms: tile(start_ms, source.randrange(1_000)) for start_ms in starts_ms}
        expected |= new
        closed_ms = FIRST_MS + source.randrange(-15, 15) * TILE_MS if source.random() < 0.2 else NONE_DROPPED_MS
        last_ms = min(starts_ms, default=2**60)
        expected = {start_ms: known for start_ms, known in expected.items() if start_ms >= min(closed_ms, last_ms)}
        its_folded = source.choice([None, b"", source.randbytes(source.choice((1, 12, 300)))])
        value = editor.put(value, [(ms, pack_tile(user_features, ms, known)) for ms, known in new.items()], its_folded, closed_ms)
        folded = folded if its_folded is None else its_folded
        assert (value is None) == (not expected and not folded)
        assert editor.folded(value) == folded
        if value is not None:
            assert [(known.first_ms, known) for known in decode_speed(value, user_features)] == [
                (known.first_ms, known) for _, known in sorted(expected.items())
            ]
            assert dropped_ms(value) == NONE_DROPPED_MS
        packed = {start_ms: pack_tile(user_features, start_ms, known) for start_ms, known in expected.items()}
        since_ms, before_ms = (FIRST_MS + source.randrange(-16, 16) * TILE_MS for _ in range(2))
        assert tiles_from(editor, value, since_ms) == {ms: data for ms, data in packed.items() if ms >= since_ms}
        assert tiles_from(editor, value, since_ms, before_ms) == {
            ms: data for ms, data in packed.items() if ms >= since_ms or ms < before_ms
        }


def written(editor: Editor, value: bytes | None, place: int, **options: bool) -> bytes:
    start_ms = FIRST_MS + place * TILE_MS
    changed = editor.put(value, [(start_ms, pack_tile(user_features, start_ms, tile(start_ms, place)))], **options)
    assert changed is not None
    return changed


@pytest.mark.parametrize("hour", [HOUR, 2**16 - 2, 7 * 2**16])
def test_tiles_that_have_expired_or_are_too_much_go_and_the_value_says_so(hour: int) -> None:
    value = written(Editor(user_features, hour, 3_600), None, 0)
    value = written(Editor(user_features, hour + 2, 3_600), value, 1)
    assert dropped_ms(value) == NONE_DROPPED_MS, "a tile stays for its whole last hour"
    value = written(Editor(user_features, hour + 3, 3_600), value, 2)
    assert dropped_ms(value) == FIRST_MS + TILE_MS
    value = written(Editor(user_features, hour + 4, 3_600, longest=20), value, 3)
    assert dropped_ms(value) == FIRST_MS + 3 * TILE_MS
    assert [known.first_ms for known in decode_speed(value, user_features)] == [FIRST_MS + 3 * TILE_MS + 3]
    for later in (1, 2**15 - 1):
        grown = written(Editor(user_features, hour + later), written(Editor(user_features, hour), None, 0), 1)
        assert dropped_ms(grown) == NONE_DROPPED_MS, "without a time to live"


def test_a_tile_that_is_too_long_is_lost_and_the_value_says_so() -> None:
    editor = Editor(user_features, HOUR, longest=70_000)
    first, second = ((FIRST_MS + place * TILE_MS, bytes(size)) for place, size in ((0, 69_999), (1, 70_001)))
    value = editor.put(None, [(FIRST_MS - TILE_MS, b"1"), first, second])
    assert tiles_from(editor, value, FIRST_MS - TILE_MS) == {FIRST_MS - TILE_MS: b"1", first[0]: first[1]}
    value = editor.put(value, [(second[0] + TILE_MS, b"2")])
    assert value is not None
    assert tiles_from(editor, value, FIRST_MS) == {first[0]: first[1], second[0] + TILE_MS: b"2"}
    assert value[9:15] == (second[0] + TILE_MS).to_bytes(6, "big")
    alone = editor.put(None, [second])
    assert alone is not None
    without = decode_speed(alone, user_features)
    assert (list(without), bool(without), without.dropped_ms) == ([], True, second[0] + TILE_MS)
    value = written(editor, alone, 0)
    assert dropped_ms(value) == second[0] + TILE_MS


@pytest.mark.parametrize("start_ms", [day_start_ms(date(1, 1, 2)), day_start_ms(date(9999, 12, 31)) + DAY_MS - 1_000])
def test_the_shortest_tiles_have_their_place_at_all_times(start_ms: int) -> None:
    group = FeatureGroup("users", "user_id", user_features.source, (count("number", window="1min", hop="1s"),))
    editor = Editor(group, HOUR)
    assert tiles_from(editor, editor.put(None, [(start_ms, b"1")]), start_ms) == {start_ms: b"1"}


@pytest.mark.parametrize("cut", [5, 18, 28])
def test_a_value_that_cannot_be_read_or_is_of_another_version_counts_as_none(cut: int) -> None:
    editor = Editor(user_features, HOUR)
    alone = written(editor, None, 0)
    assert written(editor, alone[:cut], 0) == alone
    assert tiles_from(Editor(item_features, HOUR), alone, 0) == {}
    assert Editor(item_features, HOUR).folded(editor.put(None, [], b"a")) == b""
    assert written(editor, Editor(item_features).put(None, [(FIRST_MS, b"\x90")]), 0) == alone
