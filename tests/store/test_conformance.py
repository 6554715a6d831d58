"""What every online store must do, on each back end: Valkey, another Redis, and a cluster of six processes."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import redis

from features.declaration import FeatureGroup, count
from features.history import HISTORY_FORMAT, decode_history, pack_history, roll
from features.merge import EVER_MS
from features.packed import FORMAT, BatchValue, FeatureView, TileValue, batch_field, decode_tile, encode, encode_log
from features.speed_tiles import SpeedTiles
from features.speed_value import pack_tile, speed_field
from infra.errors import NotReadyError
from infra.settings import Settings
from store.clients import store
from store.errors import NOT_OURS, StoreError
from store.keys import version_of
from store.protocol import (
    ALWAYS_MS,
    NEVER_MS,
    Folded,
    Mark,
    Messages,
    Opening,
    OpenTiles,
    Parts,
    Tiles,
    View,
    Writing,
    published_version,
)
from store.publishing import CHUNK
from store.reading import LEFT, LOST, LOST_TILES, OTHER_ARCHITECTURE, OTHER_VERSION, UNREADABLE, OnlineStore
from store.server import RedisStore
from tests.declarations import item_features, user_features
from tests.pure import speed_value, unpacked

from .conftest import Servers

B = 1_780_000_200_000
HOUR = 3_600_000
TTL = 3 * 86_400
TILE_MS = user_features.tile_ms
OTHER = replace(user_features, features=(count("views_1d", where="event_type = 'VIEW'", window="1d"), *user_features.features))
THIRD = replace(user_features, features=(count("carts_1d", where="event_type = 'CART'", window="1d"), *user_features.features))


def value(end_ms: int, number: int, group: FeatureGroup = user_features) -> bytes:
    """A batch value whose features all are `number`."""
    return encode(BatchValue(FORMAT, group.fingerprint, end_ms, end_ms - 1, [FeatureView(number, [], []) for _ in group.features]))


def packed_tile(start_ms: int, number: int = 1, group: FeatureGroup = user_features) -> bytes:
    return pack_tile(group, start_ms, tile(start_ms, number, group))


def tile(start_ms: int, number: int = 1, group: FeatureGroup = user_features) -> TileValue:
    partials = [feature.aggregation.lift(start_ms, 1) for feature in group.features]
    return TileValue(FORMAT, group.fingerprint, start_ms, start_ms, [number, *partials[1:]], encode_log([]))


def publish(
    online: RedisStore, end_ms: int, numbers: dict[int, int], group: FeatureGroup = user_features, built_ms: int = 1
) -> int:
    view = online.begin_publication(group, View(end_ms, built_ms))
    online.put_views(group, view, list(numbers), [value(end_ms, number, group) for number in numbers.values()])
    return online.end_publication(group, view, len(numbers), end_ms - 1)


def parts(online: RedisStore, entity: int, group: FeatureGroup = user_features) -> Parts:
    return online.read(group, [entity]).parts[0]


def collapsed(found: Parts) -> tuple[int, int] | None:
    """The batch_end and the number of a view."""
    return None if found.batch is None else (found.batch.batch_end_ms, found.batch.features[0].collapsed)


def tiles_of(found: Parts) -> list[int]:
    return sorted(one.first_ms for one in found.tiles)


def test_what_is_published_is_read_with_the_tiles_since(online: RedisStore) -> None:
    assert online.published("user_features") is None
    numbers = {entity: entity * 2 for entity in range(2_500)}
    assert publish(online, B, numbers) == 0
    starts = [B, B + TILE_MS]
    online.put_tiles(user_features, [(7, start, packed_tile(start)) for start in starts], TTL)
    found = online.published("user_features")
    assert found is not None
    assert (found.batch_end_ms, found.entities, found.newest_event_ms) == (B, 2_500, B - 1)
    assert published_version(online, user_features) == user_features
    reading = online.read(user_features, [7, 2_499, 9_999])
    assert (reading.batch_end_ms, reading.group, reading.complete_since_ms) == (B, user_features, ALWAYS_MS)
    assert [collapsed(one) for one in reading.parts] == [(B, 14), (B, 4_998), None]
    assert tiles_of(reading.parts[0]) == starts
    assert [one.faults for one in reading.parts] == [(), (), ()]
    assert [one.known for one in reading.parts] == [True, True, False]


def test_tiles_that_a_view_covers_go_with_its_publication_and_others_stay(online: RedisStore) -> None:
    last = B // TILE_MS * TILE_MS
    starts = [last - 2 * TILE_MS, last - TILE_MS, last, last + TILE_MS]
    online.put_tiles(user_features, [(1, start, packed_tile(start)) for start in starts], TTL)
    online.put_tiles(OTHER, [(1, starts[0], packed_tile(starts[0], group=OTHER))], TTL)
    publish(online, B, {1: 1})
    assert tiles_of(parts(online, 1)) == [start for start in starts if start + TILE_MS > B]
    publish(online, B, {1: 2}, OTHER)
    assert tiles_of(parts(online, 1, OTHER)) == []


def test_a_tile_is_absolute_and_expires_where_the_server_can(online: RedisStore, servers: Servers) -> None:
    for number in (1, 2, 2):
        online.put_tiles(user_features, [(1, B, packed_tile(B, number))], TTL)
    [found] = parts(online, 1).tiles
    assert found.partials[0] == 2
    client = store(servers.settings)
    if servers.settings.redis_cluster or "valkey_version" in client.info("server"):
        key = user_features.key(1)
        [left] = client.execute_command("HPTTL", key, "FIELDS", 1, next(iter(client.hgetall(key))))
        assert 0 < left <= TTL * 1_000


def test_the_tiles_of_an_entity_are_one_value_whatever_the_order_of_their_writing(online: RedisStore, servers: Servers) -> None:
    source, expected, starts = random.Random(1), dict[int, int](), [B - 5 * TILE_MS + n * TILE_MS for n in range(40)]
    for _ in range(60):
        written = {source.choice(starts): source.randrange(1_000) for _ in range(source.choice((1, 1, 2, 7)))}
        online.put_tiles(user_features, [(1, start, packed_tile(start, number)) for start, number in written.items()], TTL)
        expected |= written
    assert {one.first_ms: one.partials[0] for one in parts(online, 1).tiles} == expected
    assert [one.first_ms for one in parts(online, 1).tiles] == sorted(expected)
    packed = store(servers.settings).hget(user_features.key(1), speed_field(user_features.fingerprint))
    tiles = [decode_tile(encode(tile(start, number)), user_features.fingerprint) for start, number in expected.items()]
    assert without_expiry(packed, len(expected)) == speed_value(user_features, tiles)
    publish(online, B + 3 * TILE_MS, {1: 1})
    assert tiles_of(parts(online, 1)) == sorted(start for start in expected if start + TILE_MS > B + 3 * TILE_MS)


def without_expiry(value: bytes, tiles: int) -> bytes:
    at = [19 + 10 * index + 5 for index in range(tiles)]
    return b"".join(bytes(1) if place in at or place - 1 in at else value[place : place + 1] for place in range(len(value)))


def test_what_has_expired_goes_with_the_next_writing_and_the_value_says_so(online: RedisStore, servers: Servers) -> None:
    key, field = user_features.key(1), speed_field(user_features.fingerprint)
    online.put_tiles(user_features, [(1, B + n * TILE_MS, packed_tile(B + n * TILE_MS)) for n in range(3)], TTL)
    value = bytearray(store(servers.settings).hget(key, field))
    hour = int(time.time()) // 3_600
    for index in range(2):
        value[19 + 10 * index + 5 : 19 + 10 * index + 7] = ((hour - 1) % 65_536).to_bytes(2, "big")
    store(servers.settings).hset(key, field, bytes(value))
    online.put_tiles(user_features, [(1, B + 2 * TILE_MS, packed_tile(B + 2 * TILE_MS, 5))], TTL)
    [left] = parts(online, 1).tiles
    assert (left.first_ms, left.partials[0]) == (B + 2 * TILE_MS, 5)
    assert parts(online, 1).tiles.dropped_ms == B + 2 * TILE_MS  # type: ignore[attr-defined]


def test_a_value_that_would_be_too_long_loses_its_oldest_tiles_and_says_so(
    online: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.tiles.LONGEST_VALUE", 300)
    for n in range(60):
        online.put_tiles(user_features, [(1, B + n * TILE_MS, packed_tile(B + n * TILE_MS))], TTL)
    left = parts(online, 1).tiles
    assert 5 < len(left) < 55
    assert left.dropped_ms == left[0].first_ms  # type: ignore[attr-defined]
    assert left[-1].first_ms == B + 59 * TILE_MS


def test_an_older_view_never_replaces_a_newer_one(online: RedisStore) -> None:
    older = online.begin_publication(user_features, View(B, 1))
    publish(online, B + HOUR, {1: 2, 2: 2})
    online.put_tiles(user_features, [(1, B + HOUR, packed_tile(B + HOUR))], TTL)
    online.put_views(user_features, older, [1, 3], [value(B, 1), value(B, 1)])
    with pytest.raises(NotReadyError, match="later than this view's"):
        online.end_publication(user_features, older, 2, None)
    assert [collapsed(parts(online, entity)) for entity in (1, 2, 3)] == [(B + HOUR, 2), (B + HOUR, 2), None]
    assert tiles_of(parts(online, 1)) == [B + HOUR]
    assert parts(online, 3).faults == ()
    found = online.published("user_features")
    assert found is not None
    assert (found.batch_end_ms, found.entities) == (B + HOUR, 2)
    with pytest.raises(NotReadyError, match="later than this view's"):
        online.begin_publication(user_features, View(B, 9))


def test_of_two_views_of_one_batch_end_the_one_that_was_built_later_counts(online: RedisStore) -> None:
    older = online.begin_publication(user_features, View(B, 1))
    publish(online, B, {1: 2, 2: 2}, built_ms=2)
    online.put_views(user_features, older, [1, 3], [value(B, 1), value(B, 1)])
    with pytest.raises(NotReadyError):
        online.end_publication(user_features, older, 2, None)
    assert [collapsed(parts(online, entity)) for entity in (1, 2, 3)] == [(B, 2), (B, 2), None]
    assert publish(online, B, {1: 3}, built_ms=3) == 1, "repaired days: batch_end stays, and 2 has left the view"
    assert [collapsed(parts(online, entity)) for entity in (1, 2)] == [(B, 3), None]


def test_who_has_left_the_view_is_removed_and_who_has_only_tiles_stays(online: RedisStore, servers: Servers) -> None:
    publish(online, B, dict.fromkeys(range(1_200), 1))
    online.put_tiles(user_features, [(entity, B, packed_tile(B)) for entity in (5, 6, 5_000)], TTL)
    online.put_tiles(user_features, [(6, B + HOUR, packed_tile(B + HOUR))], TTL)
    assert publish(online, B + HOUR, dict.fromkeys(range(600, 1_200), 2)) == 600
    assert store(servers.settings).exists(user_features.key(5)) == 0, "its tiles lie before batch_end"
    assert (collapsed(parts(online, 6)), tiles_of(parts(online, 6)), parts(online, 6).faults) == (None, [B + HOUR], ())
    assert tiles_of(parts(online, 5_000)) == [B], "no publication has known it; its tiles expire by themselves"
    assert all(collapsed(one) == (B + HOUR, 2) for one in online.read(user_features, list(range(600, 1_200))).parts)
    # It comes back as somebody new.
    publish(online, B + 2 * HOUR, dict.fromkeys([5, *range(600, 1_200)], 3))
    assert (collapsed(parts(online, 5)), parts(online, 5).faults) == ((B + 2 * HOUR, 3), ())


def test_an_entity_whose_view_is_lost_is_told_apart_from_a_new_one(online: RedisStore, servers: Servers) -> None:
    publish(online, B, {1: 1, 2: 2})
    store(servers.settings).delete(user_features.key(1))
    online.put_tiles(user_features, [(entity, B, packed_tile(B)) for entity in (1, 2, 3)], TTL)
    online.set_progress({"online:user_features": {"newest_event_ms": B}})
    assert [one.faults for one in online.read(user_features, [1, 2, 3, 4]).parts] == [(LOST,), (), (), ()]
    publish(online, B + HOUR, {1: 1, 2: 2, 3: 3})
    assert [one.faults for one in online.read(user_features, [1, 2, 3, 4]).parts] == [(), (), (), ()]


@pytest.mark.parametrize("loss", ["deleted", "another type"])
def test_tiles_that_went_with_a_key_are_missing_until_a_view_covers_their_time(
    online: RedisStore, servers: Servers, loss: str
) -> None:
    def faults_after(end_ms: int, built_ms: int = 1) -> list[tuple[str, ...]]:
        publish(online, end_ms, {1: 1, 2: 2, 3: 3}, built_ms=built_ms)
        return [entity.faults for entity in online.read(user_features, [1, 2, 3]).parts]

    publish(online, B, {1: 1, 2: 2})
    online.put_tiles(user_features, [(entity, B + HOUR, packed_tile(B + HOUR)) for entity in (1, 2, 3)], TTL)
    online.set_progress({"online:user_features": {"newest_event_ms": B + HOUR}})
    client = store(servers.settings)
    client.delete(user_features.key(1))
    if loss == "another type":
        client.set(user_features.key(1), "a text")
        assert parts(online, 1).faults == (NOT_OURS,)
    assert faults_after(B, 2) == [(LOST_TILES,), (), ()]
    assert faults_after(B, 3) == [(LOST_TILES,), (), ()]
    assert faults_after(B + TILE_MS) == [(LOST_TILES,), (), ()]
    online.put_tiles(user_features, [(1, B + 2 * HOUR, packed_tile(B + 2 * HOUR))], TTL)
    assert (tiles_of(parts(online, 1)), parts(online, 1).faults) == ([B + 2 * HOUR], (LOST_TILES,))
    assert faults_after(B + HOUR + TILE_MS) == [(), (), ()]


def test_the_tiles_of_a_lost_key_may_be_ahead_of_what_a_stream_with_a_backlog_has_reported(
    online: RedisStore, servers: Servers
) -> None:
    publish(online, B, {1: 1, 2: 2})
    online.put_tiles(user_features, [(1, B + HOUR, packed_tile(B + HOUR))], TTL)
    online.set_progress({"online:user_features": {"newest_event_ms": B, "lag": 400_000}})
    store(servers.settings).delete(user_features.key(1))
    publish(online, B, {1: 1, 2: 2}, built_ms=2)
    publish(online, B + TILE_MS, {1: 1, 2: 2})
    assert [entity.faults for entity in online.read(user_features, [1, 2]).parts] == [(LOST_TILES,), ()]


def test_a_publication_under_way_makes_nobody_look_lost(online: RedisStore, servers: Servers) -> None:
    publish(online, B, {1: 1})
    online.put_tiles(user_features, [(2, B, packed_tile(B))], TTL)
    view = online.begin_publication(user_features, View(B + HOUR, 1))
    online.put_views(user_features, view, [1, 2], [value(B + HOUR, 1), value(B + HOUR, 2)])
    store(servers.settings).hdel(user_features.key(2), batch_field(user_features.fingerprint))
    assert parts(online, 2).faults == (), "as of the published batch_end it is new"
    online.end_publication(user_features, view, 2, None)
    assert parts(online, 2).faults == (LOST,)


def test_a_view_that_a_killed_publication_left_behind_says_that_it_may_be_wrong(online: RedisStore) -> None:
    older = online.begin_publication(user_features, View(B, 1))
    publish(online, B + HOUR, {1: 2})
    online.put_views(user_features, older, [3], [value(B, 1)])
    # Killed here.
    assert parts(online, 3).faults == (LEFT,)
    publish(online, B + 2 * HOUR, {1: 3})
    assert (collapsed(parts(online, 3)), parts(online, 3).faults) == (None, ())


def test_two_publishers_at_once_leave_the_newer_view_whatever_the_order(servers: Servers) -> None:
    ids = list(range(3 * CHUNK))
    online = RedisStore(servers.settings)
    for trial in range(6):
        store(servers.settings).flushall()
        online.put_tiles(user_features, [(entity, B, packed_tile(B)) for entity in ids[::50]], TTL)
        together = threading.Barrier(2)

        def run(end_ms: int, number: int, gone: int, seed: int, together: threading.Barrier = together) -> str:
            mine, rng = RedisStore(servers.settings), random.Random(seed)
            here = [entity for entity in ids if entity % 10 != gone]
            rng.shuffle(here)
            view = mine.begin_publication(user_features, View(end_ms, 1))
            together.wait(60)
            for start in range(0, len(here), 300):
                some = here[start : start + 300]
                mine.put_views(user_features, view, some, [value(end_ms, number)] * len(some))
            try:
                mine.end_publication(user_features, view, len(here), None)
            except NotReadyError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(2) as pool:
            old = pool.submit(run, B, 1, 1, trial)
            new = pool.submit(run, B + HOUR, 2, 2, trial + 100)
            assert new.result() == ""
            assert old.result() in ("", old.result()), "it ends well, or says that it came too late"
        reading = online.read(user_features, ids)
        assert reading.batch_end_ms == B + HOUR
        for entity, found in zip(ids, reading.parts, strict=True):
            right = None if entity % 10 == 2 else (B + HOUR, 2)
            assert (collapsed(found), found.faults) == (right, ()), entity
            assert tiles_of(found) == [], "tiles before batch_end"


def test_an_older_version_is_served_until_the_newer_is_published_and_what_is_older_than_both_goes(
    online: RedisStore, servers: Servers
) -> None:
    publish(online, B, {1: 1, 2: 1})
    online.put_tiles(user_features, [(1, B, packed_tile(B))], TTL)
    online.set_tiles(user_features, Tiles("a"))
    view = online.begin_publication(OTHER, View(B, 1))
    online.put_views(OTHER, view, [1, 2], [value(B, 2, OTHER)] * 2)
    online.set_tiles(OTHER, Tiles("b"))
    assert published_version(online, OTHER) == user_features
    assert collapsed(parts(online, 1, OTHER)) == (B, 1)
    online.end_publication(OTHER, view, 2, None)
    assert published_version(online, user_features) == OTHER
    assert (collapsed(parts(online, 1)), parts(online, 1).faults) == ((B, 2), ())
    # A step back, with the values that are still there.
    publish(online, B, {1: 1, 2: 1}, built_ms=2)
    assert published_version(online, OTHER) == user_features
    assert tiles_of(parts(online, 1, OTHER)) == [B]
    publish(online, B, {1: 2, 2: 2}, OTHER, built_ms=2)
    publish(online, B, {1: 3, 2: 3}, THIRD)
    fields = store(servers.settings).hkeys(user_features.key(1))
    versions = {version_of(group.fingerprint) for group in (OTHER, THIRD)}
    assert {name.split(b":")[1].decode() for name in fields} == versions
    assert set(online.tiles("user_features")) == {version_of(OTHER.fingerprint)}, (
        "the first one's stream begins again, if it comes back"
    )
    assert not list(store(servers.settings).scan_iter(f"braid/known/user_features/{version_of(user_features.fingerprint)}*"))


def test_a_publication_of_an_older_version_that_ends_late_does_not_take_the_group_back(online: RedisStore) -> None:
    publish(online, B, {1: 1})
    late = online.begin_publication(user_features, View(B + HOUR, 1))
    publish(online, B, {1: 2}, OTHER)
    online.put_views(user_features, late, [1], [value(B + HOUR, 1)])
    with pytest.raises(NotReadyError, match="another version"):
        online.end_publication(user_features, late, 1, None)
    assert published_version(online, user_features) == OTHER
    publish(online, B + HOUR, {1: 1}, built_ms=2)
    assert published_version(online, OTHER) == user_features


def test_the_name_of_the_content_stays_until_the_content_goes(online: RedisStore, servers: Servers) -> None:
    name = online.generation()
    assert online.generation() == name
    store(servers.settings).flushall()
    assert online.generation() != name


def test_dropped_entities_are_unknown(online: RedisStore, servers: Servers) -> None:
    publish(online, B, {1: 1, 2: 2})
    publish(online, B, {1: 1, 2: 2}, OTHER)
    online.put_tiles(OTHER, [(1, B, packed_tile(B, group=OTHER))], TTL)
    assert online.drop(OTHER, [1, 99]) == 1
    assert store(servers.settings).exists(user_features.key(1)) == 0
    assert (parts(online, 1, OTHER), collapsed(parts(online, 2, OTHER))) == (Parts(), (B, 2))


def test_entities_of_several_columns_are_found_by_the_value_of_one_whichever_layer_knows_them(
    online: RedisStore, servers: Servers
) -> None:
    pairs = FeatureGroup("pairs", ("user_id", "item_id"), user_features.source, user_features.features)
    longer = replace(pairs, name="pairs_too")
    of_batch, of_stream = [(1, "cup"), (1, "a/b*"), (11, "cup"), (2, "1")], [(1, "pot"), (2, "1/cup")]
    ids = [pairs.id_of(entity) for entity in of_batch]
    view = online.begin_publication(pairs, View(B, 1))
    online.put_views(pairs, view, ids, [value(B, 1, pairs)] * len(ids))
    online.end_publication(pairs, view, len(ids), B - 1)
    store(servers.settings).delete(pairs.key("1/cup"))  # an entity that the store has lost is still known
    online.put_tiles(pairs, [(pairs.id_of(entity), B, packed_tile(B, group=pairs)) for entity in of_stream], TTL)
    online.put_tiles(longer, [("1/other", B, packed_tile(B, group=longer))], TTL)

    assert online.ids_of_part(pairs, "user_id", 1) == ["1/a~1b*", "1/cup", "1/pot"]
    assert online.ids_of_part(pairs, "item_id", "cup") == ["1/cup", "11/cup"]
    assert online.ids_of_part(pairs, "item_id", "a/b*") == ["1/a~1b*"]
    online.drop(pairs, online.ids_of_part(pairs, "user_id", 1))
    assert online.ids_of_part(pairs, "user_id", 1) == []
    assert online.ids_of_part(pairs, "user_id", 2) == ["2/1", "2/1~1cup"]
    assert online.ids_of_part(longer, "user_id", 1) == ["1/other"]


def test_a_read_says_since_when_the_tiles_are_complete(online: RedisStore) -> None:
    publish(online, B, {1: 1})
    for tiles, since_ms in ((Tiles("a", B), B), (Tiles("a", None), ALWAYS_MS), (Tiles("b", B, whole=False), NEVER_MS)):
        online.set_tiles(user_features, tiles)
        assert online.tiles("user_features") == {version_of(user_features.fingerprint): tiles}
        assert online.read(user_features, [1]).complete_since_ms == since_ms
    assert online.read(item_features, ["x"]).complete_since_ms == ALWAYS_MS


def test_marks_that_are_missing_or_do_not_follow_tell_of_lost_tiles(online: RedisStore, servers: Servers) -> None:
    client = store(servers.settings)

    def marked(batch_id: int, *tasks: int) -> None:
        for task in tasks:
            online.put_tiles(user_features, [], TTL, Mark("t", task, batch_id))

    assert not online.has_tiles_of("t", 2, 0)
    marked(0, 0, 1)
    marked(1, 0)
    assert online.has_tiles_of("t", 2, 0)
    assert not online.has_tiles_of("t", 2, 1), "one task has not written yet"
    marked(1, 1)
    marked(1, 0, 1)
    assert online.has_tiles_of("t", 2, 1)
    keys = list(client.scan_iter("braid/marks/t/*"))
    saved = {key: client.hgetall(key) for key in keys}
    marked(2, 0, 1)
    # A failover to a replica that lacked the last micro-batch, on one server.
    client.hset(keys[-1], mapping=saved[keys[-1]])
    assert not online.has_tiles_of("t", 2, 2)
    marked(3, 0, 1)
    marked(4, 0, 1)
    assert not online.has_tiles_of("t", 2, 3), "what came later does not hide it"
    online.set_tiles(user_features, Tiles("t"))
    online.set_tiles(user_features, Tiles("u"))
    assert not list(client.scan_iter("braid/marks/t/*"))


def test_several_groups_share_a_round_trip_and_each_has_its_own_tiles_and_marks(online: RedisStore) -> None:
    groups = {user_features: range(1, 1_501), OTHER: range(1_000, 2_200)}
    online.put_all_tiles(
        [
            Writing(
                group, [(entity, B, packed_tile(B, entity, group)) for entity in entities], TTL, Mark(group.name, 0, 0),
                Folded(group.name, {entity: {0: entity} for entity in entities}),
            )
            for group, entities in groups.items()
        ]
    )  # fmt: skip
    assert [online.has_tiles_of(group.name, 1, 0) for group in groups] == [True, True]
    asked = dict.fromkeys((1_500, 1, 2_199, 1_000), B)
    opened = online.open_tiles([Opening(group, group.name, asked) for group in groups])
    for group, its_opened in zip(groups, opened, strict=True):
        for entity, state in zip(asked, its_opened, strict=True):
            if entity not in groups[group]:
                assert state is None
                continue
            assert state is not None
            assert (dict(state.offsets), dict(state.tiles)) == ({0: entity}, {B: packed_tile(B, entity, group)})


def test_entities_that_are_put_together_have_each_its_own_tiles_history_and_offsets(servers: Servers) -> None:
    kappa = servers.settings.model_copy(update={"architecture": "kappa"})
    online, entities, later = RedisStore(kappa), range(1, 51), B + 4 * TILE_MS
    history, before = rolled({B: 3}, B + TILE_MS), {entity: {B: 1} for entity in entities}
    new = {entity: {B + place * TILE_MS: entity for place in range(1, 1 + entity % 4)} for entity in entities}
    with_history, fresh = {entity: history for entity in entities if entity % 4 == 0 or entity % 5 == 0}, list(entities[::3])

    def put(tiles: dict[int, dict[int, int]], offset: int, histories: dict[int | str, bytes], fresh: Collection[int]) -> None:
        packed = [(entity, start, packed_tile(start, n)) for entity, its in tiles.items() for start, n in its.items()]
        online.put_tiles(
            user_features, packed, TTL, None, Folded("k", {entity: {0: offset} for entity in entities}, fresh), histories
        )

    put(before, 1, {}, entities)
    put(new, 2, with_history, fresh)
    [states] = online.open_tiles([Opening(user_features, "k", dict.fromkeys(entities, B), later)])
    for entity, state in zip(entities, states, strict=True):
        assert state is not None
        stays = {} if entity in fresh or entity in with_history else before[entity]
        expected = {start: packed_tile(start, n) for start, n in {**stays, **new[entity]}.items()}
        assert (dict(state.offsets), dict(state.tiles), state.history) == ({0: 2}, expected, with_history.get(entity))


def test_what_is_folded_is_of_a_stream_and_is_kept_and_lost_with_the_tiles(online: RedisStore, servers: Servers) -> None:
    def put(entity: int, offset: int, *starts: int) -> None:
        online.put_tiles(
            user_features,
            [(entity, start, packed_tile(start, offset)) for start in starts],
            TTL,
            folded=Folded("t", {entity: {0: offset}}),
        )

    def opened(entity: int, first_ms: int = B, token: str = "t") -> tuple[dict[int, int], dict[int, int]] | None:
        [[found]] = online.open_tiles([Opening(user_features, token, {entity: first_ms})])
        return found and (
            dict(found.offsets),
            {start: unpacked(user_features, start, data).partials[0] for start, data in found.tiles.items()},
        )

    put(7, 3, B, B + TILE_MS)
    put(7, 5, B + TILE_MS, B + 2 * TILE_MS)
    put(8, 9, B)
    assert opened(7) == ({0: 5}, {B: 3, B + TILE_MS: 5, B + 2 * TILE_MS: 5})
    assert opened(7, B + 2 * TILE_MS) == ({0: 5}, {B + 2 * TILE_MS: 5})
    assert opened(8, B + TILE_MS) == ({0: 9}, {})
    assert opened(9) is None
    [[of_another]] = online.open_tiles([Opening(user_features, "another", {7: B})])
    assert of_another is not None
    nothing = OpenTiles({}, {}, of_another=True, folded=of_another.folded, value=of_another.value)
    assert of_another == nothing, "a stream that is read again folds anew"
    online.put_tiles(user_features, [(10, B, packed_tile(B))], TTL)
    assert opened(10) is None
    ids = dict.fromkeys((8, *range(100, 2600), 7), B)
    [found] = online.open_tiles([Opening(user_features, "t", ids)])
    assert [one is not None for one in found] == [entity in (7, 8) for entity in ids]
    store(servers.settings).delete(user_features.key(7))
    assert opened(7) is None, "a lost tile would be begun anew by its next event, not joined to what is not there"
    publish(online, B + HOUR, {8: 1})
    assert opened(8) is None, "the view has all of its tiles"
    put(8, 11, B + HOUR)
    online.drop(user_features, [8])
    assert opened(8) is None


def test_a_publication_removes_the_fields_of_former_layouts(online: RedisStore, servers: Servers) -> None:
    key, kept = user_features.key(1), speed_field(OTHER.fingerprint)
    former = dict.fromkeys((b"batch", b"t:17", b"folded:" + version_of(user_features.fingerprint).encode()), b"x")
    store(servers.settings).hset(key, mapping={**former, kept: b"x"})
    publish(online, B, {1: 1})
    assert former.keys().isdisjoint(fields := store(servers.settings).hkeys(key))
    assert kept in fields


def test_a_lost_tile_is_known_until_a_view_covers_its_time(online: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.tiles.LONGEST_VALUE", 0)
    online.put_tiles(user_features, [(1, B, packed_tile(B))], TTL, folded=Folded("t", {1: {0: 3}}))

    def dropped_ms() -> int | None:
        tiles = parts(online, 1).tiles
        assert not list(tiles)
        return tiles.dropped_ms if isinstance(tiles, SpeedTiles) else None

    assert (dropped_ms(), parts(online, 1).known) == (B + TILE_MS, True)
    publish(online, B, {1: 1})
    assert dropped_ms() == B + TILE_MS
    publish(online, B + TILE_MS, {1: 1})
    assert dropped_ms() is None


def test_what_a_task_has_read_does_not_replace_what_was_written_since(online: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (B + n * TILE_MS for n in range(3))

    def writing(offset: int, *tiles: tuple[int, int], opened: OpenTiles | None = None) -> Writing:
        packed = [(1, start, packed_tile(start, number)) for start, number in tiles]
        return Writing(user_features, packed, TTL, None, Folded("t", {1: {0: offset}}), None, {1: opened})

    def opened() -> OpenTiles:
        [[state]] = online.open_tiles([Opening(user_features, "t", {1: first})])
        assert state is not None
        return state

    def numbers() -> dict[int, int]:
        return {found.first_ms: found.partials[0] for found in parts(online, 1).tiles}

    for built_ms, longest in enumerate((4_096, 0)):  # what was read is kept in memory until the writing, or is read again
        monkeypatch.setattr("store.tiles._KEPT_BYTES", longest)
        online.drop(user_features, [1])
        online.put_all_tiles([writing(3, (first, 3))])
        state = opened()
        online.put_all_tiles([writing(4, (first, 4), opened=state)])
        online.put_all_tiles([writing(3, (first, 3), opened=state)])
        assert (numbers(), opened().offsets) == ({first: 4}, {0: 4}), "values of one length differ in their ends"
        state = opened()
        online.put_all_tiles([writing(7, (first, 7), (second, 7), opened=state)])
        online.put_all_tiles([writing(5, (first, 5), opened=state)])
        assert (numbers(), opened().offsets) == ({first: 7, second: 7}, {0: 7}), "a task that was late has fewer events"
        online.put_all_tiles([writing(9, (first, 9), (third, 9), opened=state)])
        assert (numbers(), opened().offsets) == ({first: 9, second: 7, third: 9}, {0: 9})
        state = opened()
        publish(online, third, {1: 1}, built_ms=built_ms)
        online.put_all_tiles([writing(11, (third, 11), opened=state)])
        assert numbers() == {third: 11}, "the view has the other tiles"


def test_a_writing_that_somebody_else_undoes_all_the_time_ends(online: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.tiles._ATTEMPTS", 0)
    with pytest.raises(StoreError, match="Another process writes the same entities"):
        online.put_tiles(user_features, [(1, B, packed_tile(B))], TTL)


def test_the_size_grows_with_the_content(online: RedisStore) -> None:
    before = online.size_bytes()
    publish(online, B, {entity: entity for entity in range(2_500)})
    assert online.size_bytes() - before > 2_500 * len(value(B, 1))


def test_progress_and_notes_are_kept_by_name(online: RedisStore) -> None:
    online.set_progress({"online:a": {"offsets": {"0": 3}}, "online:b": {"offsets": {}}})
    online.set_progress({"online:a": {"offsets": {"0": 4}}}, over=["online:b"])
    assert online.progress() == {"online:a": {"offsets": {"0": 4}}}
    online.note("alerts", "x", {"severity": "HIGH"})
    online.note("alerts", "y", {"severity": "WARNING"})
    online.note("alerts", "y", None)
    assert online.notes("alerts") == {"x": {"severity": "HIGH"}}


def reader(settings: Settings, ask: object) -> object:
    async def run() -> object:
        found = OnlineStore(settings)
        try:
            return await ask(found)  # type: ignore[operator]
        finally:
            await found.close()

    return asyncio.run(run())


def test_a_request_reads_several_groups_and_versions_as_the_blocking_store_does(online: RedisStore, servers: Servers) -> None:
    publish(online, B, dict.fromkeys(range(100), 1))
    publish(online, B + HOUR, {"i1": 5}, item_features)  # type: ignore[dict-item]
    online.put_tiles(user_features, [(7, B, packed_tile(B))], TTL)
    store(servers.settings).delete(user_features.key(8))
    store(servers.settings).hset(user_features.key(9), batch_field(user_features.fingerprint), b"torn")
    ids = [*range(100), 1_000]

    async def ask(found: OnlineStore) -> list:
        both = await found.read_all([(user_features, ids), (item_features, ["i1", "i2"])])
        publish(online, B, dict.fromkeys(range(100), 2), OTHER)
        return [*both, await found.read(user_features, ids), await found.fault()]

    users, items, later, fault = reader(servers.settings, ask)  # type: ignore[misc]
    assert [collapsed(one) for one in users.parts] == [None if n in (8, 9) else (B, 1) for n in range(100)] + [None]
    assert {n: one.faults for n, one in enumerate(users.parts) if one.faults} == {8: (LOST,), 9: (UNREADABLE,)}
    assert tiles_of(users.parts[7]) == [B]
    assert (items.batch_end_ms, [collapsed(one) for one in items.parts]) == (B + HOUR, [(B + HOUR, 5), None])
    assert (later.group, [collapsed(one) for one in later.parts]) == (OTHER, [(B, 2)] * 100 + [None])
    assert fault is None
    assert online.read(user_features, ids) == later


def test_a_version_that_cannot_be_read_is_refused_by_name(online: RedisStore, servers: Servers) -> None:
    publish(online, B, {1: 1}, OTHER)
    store(servers.settings).hset("braid/published/user_features", "declaration", "{}")
    assert online.read(user_features, [1]).parts[0].faults == (OTHER_VERSION,)
    found = reader(servers.settings, lambda one: one.read(user_features, [1]))
    assert found.parts[0].faults == (OTHER_VERSION,)  # type: ignore[attr-defined]


def messages(*rows: tuple[int, int, int, int]) -> Messages:
    return Messages(*np.array(rows, np.int64).reshape(-1, 4).T)


def test_the_first_message_of_an_event_counts_whoever_asks_and_however_often(online: RedisStore) -> None:
    rng = random.Random(7)
    events = [rng.randrange(-(2**63), 2**63) for _ in range(1_000)]
    rows = [(event, 1_000 + n, n % 4, n) for n, event in enumerate(events)]
    assert online.first_copies("m", b"0001", messages(*rows), 60_000).all()
    assert online.first_copies("m", b"0001", messages(*rows), 60_000).all(), (
        "a micro-batch that is made again has no copies of itself"
    )
    assert online.first_copies("m", b"0002", messages(*rows), 60_000).all(), (
        "nor under another number, after a checkpoint went back"
    )
    copies = [(event, 2_000 + n, 7, n) for n, event in enumerate(events)]
    assert not online.first_copies("m", b"0002", messages(*copies), 60_000).any()
    assert online.first_copies("other", b"0002", messages(*copies), 60_000).all()
    assert not online.later_copies("m", b"0002")


def test_of_copies_in_one_micro_batch_the_first_to_arrive_counts_whichever_task_asks_first(online: RedisStore) -> None:
    assert online.first_copies("m", b"0001", messages((5, 1_000, 1, 9), (6, 1_000, 1, 10)), 60_000).tolist() == [True, True]
    # Another task has a copy of 5 that arrived before, and one of 6 that arrived after.
    assert online.first_copies("m", b"0001", messages((5, 999, 3, 70_000_000_000), (6, 1_000, 2, 0)), 60_000).tolist() == [
        True,
        False,
    ]
    assert online.later_copies("m", b"0001") == {(1, 9)}
    assert online.first_copies("m", b"0001", messages((5, 1_000, 1, 9)), 60_000).tolist() == [False], "the task is made again"
    # In the next micro-batch nothing takes the place of what has counted.
    assert online.first_copies("m", b"0002", messages((5, 1, 0, 0)), 60_000).tolist() == [False]
    assert online.later_copies("m", b"0002") == set()


def test_an_event_is_forgotten_when_it_is_too_old_to_be_copied(online: RedisStore) -> None:
    events = [(3 << 48) + 16 * n for n in range(50)]  # one field of one bucket
    for n, event in enumerate(events):
        assert online.first_copies("m", b"%04d" % n, messages((event, n * 1_000, 0, n)), 10_000).all()
    assert not online.first_copies("m", b"0050", messages((events[39], 50_000, 1, 0)), 10_000).any()
    assert online.first_copies("m", b"0050", messages((events[38], 50_000, 1, 1)), 10_000).all()
    sizes = [store(online._settings).hgetall(key) for key in store(online._settings).keys("braid/copies/*")]
    assert [len(value) for fields in sizes for value in fields.values()] == [32 * 11]


def test_in_a_backlog_a_task_that_is_ahead_makes_nothing_forgotten_that_another_task_may_have_a_copy_of(online: RedisStore) -> None:
    event, later = (3 << 48) + 1, (3 << 48) + 2  # of one field
    assert online.first_copies("m", b"0001", messages((event, 0, 0, 0), (later, 3_600_000, 0, 1)), 10_000).all()
    assert not online.first_copies("m", b"0001", messages((event, 5_000, 1, 0)), 10_000).any()


def test_the_highest_time_is_that_of_the_micro_batches_before(online: RedisStore) -> None:
    assert online.high_water("q", 3) is None
    for batch_id, ts_ms in ((0, 5_000), (1, 9_000), (1, 8_000), (2, 7_000), (150, 1)):
        online.raise_high_water("q", batch_id, ts_ms)
    assert [online.high_water("q", before) for before in (0, 1, 2, 3)] == [None, 5_000, 9_000, 9_000]
    online.raise_high_water("q", 101, 1)
    assert online.high_water("q", 101) == 7_000, "micro-batches long ago are forgotten"


def rolled(closed: dict[int, int], end_ms: int) -> bytes:
    """A packed history of tiles that are closed: start → number."""
    return pack_history(
        user_features, roll(user_features, None, {start: packed_tile(start, n) for start, n in closed.items()}, end_ms)
    )


def test_a_history_is_put_with_the_tiles_that_are_still_open_and_without_those_that_it_has(servers: Servers) -> None:
    kappa = servers.settings.model_copy(update={"architecture": "kappa"})
    online, first, second = RedisStore(kappa), B, B + TILE_MS
    online.set_tiles(user_features, Tiles("k", topic_id="t", history=HISTORY_FORMAT, begins={0: 7}))
    assert online.tiles("user_features")[version_of(user_features.fingerprint)].begins == {0: 7}

    def put(tiles: dict[int, int], closed: bytes | None = None, fresh: bool = False) -> None:
        packed = [(1, start, packed_tile(start, n)) for start, n in tiles.items()]
        online.put_tiles(
            user_features,
            packed,
            TTL,
            None,
            Folded("k", {1: {0: 9}}, [1] if fresh else []),
            {1: closed} if closed else {},
        )

    def opened(start: int, closed_ms: int) -> tuple[bytes | None, list[int]] | None:
        [[state]] = online.open_tiles([Opening(user_features, "k", {1: start}, closed_ms)])
        return None if state is None else (state.history, sorted(state.tiles))

    assert opened(first, EVER_MS) is None
    put({first: 3, second: 4}, fresh=True)
    assert opened(second, first) == (None, [second])
    assert opened(second, second) == (None, [first, second]), "a closed tile comes with the history that it will join"
    history = rolled({first: 3}, second)
    put({second + TILE_MS: 5}, history)
    assert opened(second, second) == (None, [second, second + TILE_MS])
    assert opened(second, second + TILE_MS) == (history, [second, second + TILE_MS])
    assert opened(first, first)[0] == history, "the start lies before its end"
    stored = online.read(user_features, [1, 2])
    assert (stored.batch_end_ms, stored.complete_since_ms) == (EVER_MS, ALWAYS_MS)
    assert stored.parts[0].batch == decode_history(history, user_features)
    assert (tiles_of(stored.parts[0]), stored.parts[0].tiles.dropped_ms) == ([second, second + TILE_MS], EVER_MS)
    assert not stored.parts[1].known
    client = store(kappa)
    fields = list(client.hgetall(user_features.key(1)))
    assert len(fields) == 2
    if not isinstance(client, redis.Redis) or int(client.info("server")["redis_version"].split(".")[0]) > 7:
        assert client.execute_command("HPTTL", user_features.key(1), "FIELDS", 2, *fields) == [-1] * 2
    # Behind its end there may be no tile left at all.
    put({}, rolled({first: 3, second: 4, second + TILE_MS: 5}, second + 2 * TILE_MS))
    assert tiles_of(online.read(user_features, [1]).parts[0]) == []
    put({first: 1}, fresh=True)
    assert opened(first, EVER_MS) == (None, [first])


def test_what_one_architecture_has_published_the_other_does_not_take_for_its_own(servers: Servers) -> None:
    of_batch, kappa = RedisStore(servers.settings), servers.settings.model_copy(update={"architecture": "kappa"})
    publish(of_batch, B, {1: 1})
    of_stream = RedisStore(kappa)
    assert of_stream.read(user_features, [1]).parts[0].faults == (OTHER_ARCHITECTURE,)
    assert of_stream.read(user_features, [1]).complete_since_ms == NEVER_MS, "no stream has read anything"
    of_stream.set_tiles(user_features, Tiles("k", history=HISTORY_FORMAT, begins={}))
    of_stream.serve_stream(user_features, B, 5)
    assert of_stream.published("user_features").architecture == "kappa"
    assert of_stream.read(user_features, [1]).parts[0] == Parts()
    assert of_batch.read(user_features, [1]).parts[0].faults == (OTHER_ARCHITECTURE,)
    publish(of_batch, B, {1: 2}, built_ms=2)
    assert collapsed(parts(of_batch, 1)) == (B, 2)
    # Beside the served version the one before stays; older ones go, though no batch has made their entities known.
    for number, group in enumerate((user_features, OTHER, THIRD)):
        start, packed = B, packed_tile(B, number, group)
        of_stream.put_tiles(group, [(1, start, packed)], TTL, None, None, {})
        of_stream.serve_stream(group, B, 1)
    fields = {name for name in store(kappa).hgetall(user_features.key(1)) if name.startswith(b"speed:")}
    assert fields == {speed_field(group.fingerprint) for group in (OTHER, THIRD)}


def test_an_entity_whose_events_are_all_gone_has_no_history_when_histories_were_made_anew(servers: Servers) -> None:
    of_stream = RedisStore(servers.settings.model_copy(update={"architecture": "kappa"}))
    history = roll(user_features, None, {}, B)
    for token, entities in (("before", (1, 2)), ("anew", (1,))):
        packed = {entity: pack_history(user_features, history) for entity in entities}
        tiles = [(entity, B, packed_tile(B)) for entity in entities]
        of_stream.put_tiles(user_features, tiles, 0, None, Folded(token, {entity: {} for entity in entities}, entities), packed)
        stream = Tiles(token, history=HISTORY_FORMAT, begins={}, as_of_ms=B, entities=len(entities))
        of_stream.set_tiles(user_features, stream)
        served = of_stream.published("user_features")
        # Up to the same time, as where the newest event was not among the deleted ones.
        assert served is None or not served.is_stream(user_features, stream)
        of_stream.serve_stream(user_features, B, len(entities), token)
        assert of_stream.published("user_features").is_stream(user_features, stream)
        assert [found.known for found in of_stream.read(user_features, [1, 2]).parts] == [True, 2 in entities]
    assert of_stream.holds(user_features, [1, 2]) == 1
