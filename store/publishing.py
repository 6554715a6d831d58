"""Publishing: writes the batch view of a group into the online store. An older value never replaces a newer one.

The stamps of a version's views order them: by batch_end, then by the time at which the view was built (`store.keys.stamp`). A publication

1. begins: it is refused if the store has a later view of the version; otherwise it records its beginning (`begun:{version}`);
2. puts views: one step per entity replaces its view, unless the store has a newer one, and removes the tiles that the view covers. Then the entity is
   recorded as known, with the stamp. If its key was lost since it became known, its speed tiles were lost with the key: the record also has the time
   before which tiles may be missing (`store.keys.known_stamp`), until a view covers that time;
3. ends: known entities whose stamp is older than that of the published view are removed, because they are no longer in the view. The group's hash
   moves, forwards only. The values of versions that nobody reads any more are removed.

Several publications may run at the same time, and each may be killed at any point. Values that an older publication writes after a newer one has
ended are removed by the older publication when it ends. If it was killed before, an answer from such a value is degraded (`store.reading`), and the
next publication removes the value.

Fields of `braid/published/{group}`:

    batch_end_ms, fingerprint, declaration (its text), format, published_at_ms, newest_event_ms, entities
    token               in Kappa: the stream of tiles that is served instead of views
    before              the version that was served before this one
    end:{version}       the stamp of the last publication of a version that the store has values of
    begun:{version}     the time at which its last publication began, in ms
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec

from features.declaration import FeatureGroup
from features.declaration.entity import SEPARATOR, escaped
from features.declaration.versions import group_text
from features.history import HISTORY_FORMAT, history_field
from features.instants import now_ms
from features.packed import FORMAT, batch_field
from features.speed_value import SPEED_FORMAT, speed_field
from infra.errors import NotReadyError
from store.keys import (
    Buckets,
    batch_end_of,
    known_stamp,
    lost_until_of,
    meta_key,
    stamp,
    stamp_field,
    tiles_field,
    version_of,
)
from store.protocol import Published, View
from store.scripts import Script
from store.tiles import ENTITY_LUA, fields_of

#: The number of entities in one round trip.
CHUNK = 1_000
#: The published format of a group that is served from histories instead of batch views.
STREAM_FORMAT = f"history {HISTORY_FORMAT}"
#: A first publication of a version that began more than a day ago and has not ended counts as abandoned.
_ABANDONED_MS = 86_400_000

#: A Lua function on a speed value (`features.speed_value`): `prune` removes the tiles that end before a view does.
_PRUNE = (
    ENTITY_LUA
    + """
local HEAD, ENTRY, FORMAT = 19, 10, %d
local function time_and_tiles(value)
  if #value < HEAD or string.byte(value) ~= FORMAT then return -1, 0 end
  local high, low, n = struct.unpack('>hII', value, 10)
  return high * 4294967296 + low, #value >= HEAD + n * ENTRY and n or 0
end
local function prune(key, field, tile_ms, end_ms)
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if name == 'batch' or string.sub(name, 1, 2) == 't:' or name == 'folded' .. string.sub(field, 6) then
      redis.call('HDEL', key, name) -- of a former layout
    end
  end
  local value = redis.call('HGET', key, field)
  if not value then return end
  local dropped_ms, n = time_and_tiles(value)
  local skip, skipped = 0, 0
  while skip < n do
    local high, low, _, long, size = struct.unpack('>bIHBH', value, HEAD + skip * ENTRY + 1)
    if (high * 4294967296 + low + 1) * tile_ms > end_ms then break end
    skip, skipped = skip + 1, skipped + long * 65536 + size
  end
  if skip == n and dropped_ms <= end_ms then
    redis.call('HDEL', key, field)
  elseif skip > 0 then
    local left, tiles = redis.pcall('HPTTL', key, 'FIELDS', 1, field), HEAD + n * ENTRY
    local index = string.sub(value, HEAD + skip * ENTRY + 1, tiles)
    local rest = string.sub(value, 1, HEAD - 4) .. struct.pack('>I', n - skip) .. index .. string.sub(value, tiles + skipped + 1)
    write(key, tonumber(left[1] or 0), {field, rest})
  end
end
""".replace("%d", str(SPEED_FORMAT))
)
_REPLACE = Script(
    _PRUNE
    + """
-- key: an entity; stamp field, stamp, batch field, value, speed field, tile_ms
-- Gives whether the entity had a view.
local present = own(KEYS[1], redis.pcall('HGET', KEYS[1], ARGV[1]))
local had_view = present and 1 or 0
if not present or present <= ARGV[2] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
  present = ARGV[2]
end
prune(KEYS[1], ARGV[5], tonumber(ARGV[6]), tonumber(string.sub(present, 1, 15)))
return had_view
"""
)
_REMOVE = Script(
    _PRUNE
    + """
-- key: an entity; stamp field, stamp, batch field, speed field, tile_ms
local present = own(KEYS[1], redis.pcall('HGET', KEYS[1], ARGV[1]))
if present and present >= ARGV[2] then return 0 end
local removed = redis.call('HDEL', KEYS[1], ARGV[1], ARGV[3])
prune(KEYS[1], ARGV[4], tonumber(ARGV[5]), tonumber(string.sub(ARGV[2], 1, 15)))
return removed
"""
)
_KNOW = Script(
    """
-- key: known entities; stamp, ids
for index = 2, #ARGV do
  local present = redis.call('HGET', KEYS[1], ARGV[index])
  if not present or present < ARGV[1] then redis.call('HSET', KEYS[1], ARGV[index], ARGV[1]) end
end
"""
)
_FORGET = Script(
    """
-- key: known entities; stamp, ids
for index = 2, #ARGV do
  local present = redis.call('HGET', KEYS[1], ARGV[index])
  if present and present < ARGV[1] then redis.call('HDEL', KEYS[1], ARGV[index]) end
end
"""
)
_MOVE = Script(
    """
-- key: what is published; the fingerprint that was served at the beginning, its own, end field, stamp, fields and values.
-- Gives the stamp that was published until then, which stays where it is the later one; nothing where another version is served.
local served = redis.call('HGET', KEYS[1], 'fingerprint')
if served and served ~= ARGV[1] and served ~= ARGV[2] then return false end
local present = redis.call('HGET', KEYS[1], ARGV[3])
if present and present > ARGV[4] then return present end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4], unpack(ARGV, 5))
if served and served ~= ARGV[2] then redis.call('HSET', KEYS[1], 'before', string.sub(served, 1, 8)) end
return present or ''
"""
)
_CLEAN = Script(
    ENTITY_LUA
    + """
-- key: an entity; what the fields of a version begin with
for _, name in ipairs(own(KEYS[1], redis.pcall('HKEYS', KEYS[1])) or {}) do
  for _, prefix in ipairs(ARGV) do
    if string.sub(name, 1, #prefix) == prefix then redis.call('HDEL', KEYS[1], name) end
  end
end
"""
)
_LEAVE = Script(
    """
-- key: an entity; what begins the record of what the stream has folded; the field of the value with that record, and the others of the version
redis.call('HDEL', KEYS[1], 'folded' .. string.sub(ARGV[2], 6)) -- of a former layout
local value = redis.call('HGET', KEYS[1], ARGV[2])
local first = value and #value > 2 and #value - 1 - struct.unpack('>H', value, #value - 1) -- of the record, which is before its length
if first and string.sub(value, first, first + #ARGV[1] - 1) ~= ARGV[1] then redis.call('HDEL', KEYS[1], unpack(ARGV, 2)) end
"""
)


def published(client: Any, group: str) -> Published | None:
    """Returns the published metadata of a group; None if nothing was published."""
    fields = {name.decode(): value for name, value in client.hgetall(meta_key(group)).items()}
    if "fingerprint" not in fields:
        return None
    newest = fields.get("newest_event_ms")
    return Published(
        batch_end_ms=int(fields["batch_end_ms"]),
        fingerprint=fields["fingerprint"].decode(),
        declaration=fields.get("declaration"),
        published_at_ms=int(fields.get("published_at_ms", 0)),
        newest_event_ms=int(newest) if newest else None,
        entities=int(fields.get("entities", 0)),
        token=fields["token"].decode() if "token" in fields else None,
        architecture="kappa" if fields.get("format", b"").startswith(b"history") else "lambda",
    )


def begin(client: Any, group: FeatureGroup, view: View) -> View:
    """Begins a publication. Returns the view with the fingerprint of the version that is served at this time.

    Raises:
        NotReadyError: The store has a later view of the version.
    """
    version = version_of(group.fingerprint)
    served, end = client.hmget(meta_key(group.name), "fingerprint", f"end:{version}")
    if end and end > stamp(view.batch_end_ms, view.built_at_ms):
        raise _later(group, view, batch_end_of(end))
    client.hset(meta_key(group.name), f"begun:{version}", now_ms())
    return view._replace(served=served.decode() if served else None)


def put_views(
    client: Any,
    buckets: Buckets,
    group: FeatureGroup,
    view: View,
    ids: Sequence[int | str],
    values: Sequence[bytes],
    newest_tile_ms: Callable[[], int],
) -> None:
    """Writes the views of entities, at most `CHUNK` in one round trip.

    Args:
        client: The client of the store.
        buckets: The buckets of the known entities.
        group: The version of the group.
        view: The view.
        ids: The ids of the entities.
        values: The packed view of each entity.
        newest_tile_ms: Returns a time, in ms, before which all events lie that are in speed tiles by now.
    """
    version, mark = version_of(group.fingerprint), stamp(view.batch_end_ms, view.built_at_ms)
    fixed = stamp_field(version), mark, batch_field(group.fingerprint)
    speed, known = speed_field(group.fingerprint), buckets.known_keys(group.name, version)
    for begun in range(0, len(ids), CHUNK):
        some, their = ids[begun : begun + CHUNK], values[begun : begun + CHUNK]
        places = [(known[bucket], at) for bucket, of_bucket in buckets.split(some) for at in of_bucket]
        stamps = _stamps(client, buckets, known, some)
        had_view = _REPLACE.run(
            client,
            [(group.key(entity_id), *fixed, value, speed, group.tile_ms) for entity_id, value in zip(some, their, strict=True)],
        )
        # Entities become known after their views are written, because a known entity without a view counts as lost.
        entered: dict[tuple[str, bytes], list[int | str]] = {}
        for key, at in places:
            lost_until_ms = _lost_until_ms(stamps[at], bool(had_view[at]), view.batch_end_ms, newest_tile_ms)
            entered.setdefault((key, mark if lost_until_ms is None else known_stamp(mark, lost_until_ms)), []).append(some[at])
        _KNOW.run(client, [(key, its_mark, *entities) for (key, its_mark), entities in entered.items()])


def _stamps(client: Any, buckets: Buckets, known: Sequence[str], ids: Sequence[int | str]) -> list[bytes | None]:
    """Returns the stamps of entities, in the order of the ids; None for an entity that is not known."""
    stamps: list[bytes | None] = [None] * len(ids)
    pipeline = client.pipeline(transaction=False)
    split = list(buckets.split(ids))
    for bucket, places in split:
        pipeline.hmget(known[bucket], [ids[at] for at in places])
    for (_, places), of_bucket in zip(split, pipeline.execute(), strict=True):
        for at, stamp_of_known in zip(places, of_bucket, strict=True):
            stamps[at] = stamp_of_known
    return stamps


def _lost_until_ms(
    stamp_of_known: bytes | None, had_view: bool, batch_end_ms: int, newest_tile_ms: Callable[[], int]
) -> int | None:
    """Returns the time, in ms, before which speed tiles of an entity with a new view may be missing; None if none is missing."""
    if stamp_of_known is None:
        return None
    lost_until_ms = lost_until_of(stamp_of_known) if had_view else newest_tile_ms()
    return lost_until_ms if lost_until_ms is not None and lost_until_ms > batch_end_ms else None


def end(client: Any, buckets: Buckets, group: FeatureGroup, view: View, entities: int, newest_event_ms: int | None) -> int:
    """Ends a publication. Returns the number of entities that were removed because they are no longer in the view.

    Raises:
        NotReadyError: A later view, or another version, was published meanwhile.
    """
    version, mark = version_of(group.fingerprint), stamp(view.batch_end_ms, view.built_at_ms)
    there = client.hget(meta_key(group.name), f"end:{version}")
    removed = _sweep(client, buckets, group, max(mark, there or b""))
    fields = {
        "batch_end_ms": view.batch_end_ms, "fingerprint": group.fingerprint, "declaration": group_text(group), "format": FORMAT,
        "published_at_ms": now_ms(), "newest_event_ms": "" if newest_event_ms is None else newest_event_ms, "entities": entities,
    }  # fmt: skip
    served = view.served or group.fingerprint
    pairs = [part for pair in fields.items() for part in pair]
    [moved] = _MOVE.run(client, [(meta_key(group.name), served, group.fingerprint, f"end:{version}", mark, *pairs)])
    if moved is None:
        # The written values disturb nobody, and a later publication removes them.
        client.hset(meta_key(group.name), f"begun:{version}", now_ms())
        raise NotReadyError(
            f"While this view of {group.name} was published, another version of the group was.",
            "To go back to this version, run `braid backfill` again.",
        )
    if moved != (there or b""):
        # Another publication has ended since `there` was read. The values that the older of the two wrote during the newer one's sweep still exist.
        removed += _sweep(client, buckets, group, max(mark, moved))
    if moved > mark:
        raise _later(group, view, batch_end_of(moved))
    _remove_dead_versions(client, buckets, group)
    return removed


def serve_stream(
    client: Any, buckets: Buckets, group: FeatureGroup, as_of_ms: int, entities: int, token: str | None = None
) -> None:
    """Records that a version is served from histories and tiles, and removes the values of versions that nobody reads any more.

    It also removes the values of entities of which the stream `token` has folded no event: all their events were deleted before the stream began.

    Only the one process that writes the histories calls this function, so no stamps are compared. No stamp is written, so that a batch view of any
    batch_end can replace the histories later.
    """
    key, version = meta_key(group.name), version_of(group.fingerprint)
    served = client.hget(key, "fingerprint")
    fields = {
        "batch_end_ms": as_of_ms, "fingerprint": group.fingerprint, "declaration": group_text(group), "format": STREAM_FORMAT,
        "published_at_ms": now_ms(), "newest_event_ms": as_of_ms or "", "entities": entities, f"begun:{version}": now_ms(),
    }  # fmt: skip
    if served and served.decode() != group.fingerprint:
        fields["before"] = version_of(served.decode())
    if token is not None:
        fields["token"] = token
    client.hset(key, mapping=fields)
    if token is not None:
        _remove_left(client, group, token)
    _remove_dead_versions(client, buckets, group, of_streams=True)


def _remove_left(client: Any, group: FeatureGroup, token: str) -> None:
    """Removes the values of a version that a stream of tiles other than `token` has written."""
    begins = msgspec.msgpack.encode((token, {}))[:-1]  # `store.tiles` writes the token, then the offsets
    keys = client.scan_iter(match=f"{group.key('')}*", count=CHUNK)
    while some := list(islice(keys, CHUNK)):
        _LEAVE.run(client, [(key, begins, *fields_of(group)) for key in some])


def drop(client: Any, buckets: Buckets, group: FeatureGroup, ids: Sequence[int | str]) -> int:
    """Removes all values of entities, of every version. Returns the number of entities that the store had."""
    versions = {version_of(group.fingerprint), *_versions(client, group.name)}
    removed = 0
    for begun in range(0, len(ids), CHUNK):
        some = ids[begun : begun + CHUNK]
        for version in versions:
            keys = buckets.known_keys(group.name, version)
            pipeline = client.pipeline(transaction=False)
            for bucket, places in buckets.split(some):
                pipeline.hdel(keys[bucket], *(some[at] for at in places))
            pipeline.execute()
        pipeline = client.pipeline(transaction=False)
        for entity_id in some:
            pipeline.delete(group.key(entity_id))
        removed += sum(pipeline.execute())
    return removed


def ids_of_part(client: Any, buckets: Buckets, group: FeatureGroup, column: str, value: int | str) -> list[int | str]:
    """Returns the sorted ids of the entities whose `column` has a value.

    The function scans the keys of entities, which the stream writes as well, and reads the known entities, whose keys may be lost.
    """
    place, part = group.entity_names.index(column), escaped(value)
    known = [
        key
        for version in {version_of(group.fingerprint), *_versions(client, group.name)}
        for key in buckets.known_keys(group.name, version)
    ]
    ids = {key.decode().removeprefix(group.key("")) for key in client.scan_iter(match=f"{group.key('')}*", count=CHUNK)}
    ids |= {entity_id.decode() for key in known for some in _known(client, key) for entity_id in some}
    return sorted(entity_id for entity_id in ids if entity_id.split(SEPARATOR)[place : place + 1] == [part])


def _later(group: FeatureGroup, view: View, known_end_ms: int) -> NotReadyError:
    return NotReadyError(
        f"The online store has {group.name} as of {known_end_ms} ms, later than this view's {view.batch_end_ms} ms.",
        "Backfill to a later time; going back would hide events.",
    )


def _sweep(client: Any, buckets: Buckets, group: FeatureGroup, mark: bytes) -> int:
    """Removes the known entities whose stamp is older than `mark`. Returns the number of entities whose views were removed.

    An entity is removed, then it is no longer known, then it is removed once more. If an older publication writes the entity in between, that
    publication also makes it known again, and removes it when it ends.
    """
    version = version_of(group.fingerprint)
    arguments = (
        stamp_field(version),
        mark,
        batch_field(group.fingerprint),
        speed_field(group.fingerprint),
        group.tile_ms,
    )
    removed = 0
    for key in buckets.known_keys(group.name, version):
        for some in _known(client, key, mark):
            calls = [(f"{group.name}:{entity_id.decode()}", *arguments) for entity_id in some]
            gone = _REMOVE.run(client, calls)
            _FORGET.run(client, [(key, mark, *some)])
            _REMOVE.run(client, calls)
            removed += sum(fields > 0 for fields in gone)
    return removed


def _known(client: Any, key: str, before: bytes | None = None) -> Iterator[list[bytes]]:
    """Yields the known entities of a bucket in chunks: those whose stamp is less than `before`, or all."""
    cursor = None
    while cursor != 0:
        cursor, stamps = client.hscan(key, cursor or 0, count=CHUNK)
        chosen = [name for name, value in stamps.items() if before is None or value < before]
        if chosen:
            yield chosen


def _versions(client: Any, group: str) -> dict[str, int | None]:
    """Returns the versions of which the store has values: version → the time, in ms, at which its first publication began; None if one has ended."""
    names = {name.decode(): value for name, value in client.hgetall(meta_key(group)).items()}
    begun = {name.removeprefix("begun:"): int(value) for name, value in names.items() if name.startswith("begun:")}
    ended = {name.removeprefix("end:") for name in names if name.startswith("end:")}
    return {version: None if version in ended else at_ms for version, at_ms in begun.items()}


def _remove_dead_versions(client: Any, buckets: Buckets, group: FeatureGroup, of_streams: bool = False) -> None:
    """Removes the values of versions that are neither served, nor the previous version, nor being published for the first time.

    The stream of tiles of such a version is removed as well, so a speed layer that goes back to the version reads the topic again.

    Args:
        client: The client of the store.
        buckets: The buckets of the known entities.
        group: The version that is served.
        of_streams: Whether the versions are served from streams. A stream records no known entities, so all keys of the group are scanned. No version
            counts as being published.
    """
    before = client.hget(meta_key(group.name), "before")
    alive = {version_of(group.fingerprint), before.decode() if before else ""}
    long_ago_ms = now_ms() - _ABANDONED_MS
    for version, begun_ms in _versions(client, group.name).items():
        if version in alive or (begun_ms is not None and begun_ms > long_ago_ms and not of_streams):
            continue
        prefixes = stamp_field(version), batch_field(version), speed_field(version), history_field(version)
        own, theirs = (buckets.known_keys(group.name, name) for name in (version_of(group.fingerprint), version))
        for key in (*theirs, *own):
            for some in _known(client, key):
                _CLEAN.run(client, [(f"{group.name}:{entity_id.decode()}", *prefixes) for entity_id in some])
        keys_of_group = client.scan_iter(match=f"{group.key('')}*", count=CHUNK) if of_streams else iter(())
        while some := list(islice(keys_of_group, CHUNK)):
            _CLEAN.run(client, [(key, *prefixes) for key in some])
        for key in theirs:
            client.unlink(key)
        client.hdel(meta_key(group.name), tiles_field(version), f"begun:{version}", f"end:{version}")
