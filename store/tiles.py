"""Speed tiles: writes them into the online store, reads the open ones, and notices when the store has lost some.

All tiles of an entity and a version are one value (`features.speed_value`). The speed layer reads it, folds the next events of the entity into its last
tiles, and writes it back, unless somebody else has written it meanwhile: then it is read again. A tile is written by its absolute value, so writing it
twice changes nothing. The value also has the offsets of the events that are in it (`Folded`), so neither is written or lost without the other.

After the tiles of its part of a micro-batch, a task writes its mark, the number of the micro-batch, into each bucket and hence to each primary of a
cluster. A server that loses acknowledged writes (an older file after a crash, a failover to a replica that lagged) loses the latest ones, with their
marks. Then a mark is less than the last committed micro-batch, or does not follow the previous mark, and the stream is read again under a new token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import msgspec
import redis

from features.declaration import FeatureGroup
from features.history import history_end_ms, history_field
from features.instants import now_ms
from features.speed_editor import LONGEST_VALUE, Editor
from features.speed_value import LENGTH, NONE_DROPPED_MS, speed_field
from features.windows import HOUR_MS
from store.keys import Buckets, meta_key, tiles_field, version_of
from store.protocol import Opening, OpenTiles, Tiles, Writing
from store.scripts import Script

#: Entities per round trip to the store, and entities per call of a script on a single server. Half of the time of a call does not depend on its
#: entities. But other clients wait until a call, and the calls of a round trip that have arrived, are done.
PIPELINE_LENGTH, _ENTITIES_PER_CALL = 128, 16
#: A longer speed value is not kept in memory between its reading and its writing, in bytes.
_KEPT_BYTES = 4_096
#: How often an entity is written before an error, if each time somebody else has written it meanwhile. The only others are a publication, which
#: writes an entity once, and a task that was made again.
_ATTEMPTS = 20
#: Lua functions on an entity. `write` sets fields and their expiry: by one command on Valkey 9 and Redis 8, by two on Redis 7.4. Earlier servers do not
#: support the expiry of fields.
ENTITY_LUA = """
-- The keys of a group are the store's own: what has another type there goes, so that it is in nobody's way.
local function own(key, reply)
  if type(reply) ~= 'table' or not reply.err then return reply end
  redis.call(string.find(reply.err, 'WRONGTYPE') and 'DEL' or 'HLEN', key) -- HLEN meets the same error and raises it
end
local function failed(answer) return type(answer) == 'table' and answer.err and not string.find(answer.err, 'nknown') and answer end
local function write(key, ttl_ms, values)
  local answer = ttl_ms > 0 and redis.pcall('HSETEX', key, 'PX', ttl_ms, 'FIELDS', #values / 2, unpack(values))
  if type(answer) == 'number' or failed(answer) then return failed(answer) end
  redis.call('HSET', key, unpack(values))
  local fields = {}
  for at = 1, #values, 2 do fields[#fields + 1] = values[at] end
  return ttl_ms > 0 and failed(redis.pcall('HPEXPIRE', key, ttl_ms, 'FIELDS', #fields, unpack(fields)))
end
"""
_READ = Script(
    ENTITY_LUA
    + """
-- keys: entities; field of the value, of an architecture with histories the field of the history and the number of the first tile that is open; then
-- for each entity the start of the first tile. Gives for each the value, and the history if it is needed: it ends after the start, or a closed tile
-- joins it
local found, with_history = {}, ARGV[2] ~= nil
for place, key in ipairs(KEYS) do
  local fields = own(key, redis.pcall('HMGET', key, unpack(ARGV, 1, with_history and 2 or 1))) or {}
  local value, history = unpack(fields)
  if history then
    local high, low = struct.unpack('>hI', history, 10)
    local needed = tonumber(ARGV[3 + place]) < high * 4294967296 + low
    if not needed and value and #value >= 24 and struct.unpack('>I', value, 16) > 0 then
      high, low = struct.unpack('>bI', value, 20) -- the number of the first tile
      needed = high * 4294967296 + low < tonumber(ARGV[3])
    end
    if not needed then fields[2] = false end
  end
  found[place] = fields
end
return found
"""
)
_PUT = Script(
    ENTITY_LUA
    + """
-- keys: entities; field of the value, of the history, ms until the value expires (0: never); for each entity the length of the value as it was read and
-- its end, then value and history as they shall be ('' of the value: none, of the history: as it is, '-' of the history: none). Gives the places of the
-- entities that somebody else has written since
local refused, field, history_field, ttl_ms = {}, ARGV[1], ARGV[2], tonumber(ARGV[3])
for place, key in ipairs(KEYS) do
  local at = 4 * place
  local length, last, value, history = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local present = own(key, redis.pcall('HGET', key, field)) or ''
  if #present ~= length or string.sub(present, length - #last + 1) ~= last then
    refused[#refused + 1] = place
  else
    if history == '-' then
      redis.call('HDEL', key, history_field)
    elseif history ~= '' then
      redis.call('HSET', key, history_field, history)
    end
    if value ~= '' then
      local error = write(key, ttl_ms, {field, value})
      if error then return error end
    elseif length > 0 then
      redis.call('HDEL', key, field)
    end
  end
end
return refused
"""
)
_BROKEN = b"broken"
_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(tuple[str, dict[int, int]])
_MARK = Script(
    """
-- key: marks; task, micro-batch
local present, batch = redis.call('HGET', KEYS[1], ARGV[1]), tonumber(ARGV[2])
if tonumber(present or -1) < batch - 1 then
  redis.call('HSET', KEYS[1], 'broken', batch)
else
  -- A lower number is a task's that was tried again, but for the first: then a checkpoint was deleted, and the numbers begin again.
  redis.call('HSET', KEYS[1], ARGV[1], batch == 0 and 0 or math.max(batch, tonumber(present or -1)))
end
"""
)


class _Item:
    """An entity to be written.

    Attributes:
        entity: Its id.
        tiles: Its tiles, ascending: start in ms, packed tile.
        folded: The record of what is folded, as it was read last; None before the first reading.
        value: The value, as it was read last; None for none, and before the first reading.
        read: Whether `value` was read.
    """

    __slots__ = ("entity", "folded", "read", "tiles", "value")

    def __init__(self, entity: int | str, tiles: list[tuple[int, bytes]]) -> None:
        self.entity, self.tiles = entity, tiles
        self.folded: bytes | None = None
        self.value: bytes | None = None
        self.read = False


class _Put:
    """A writing under way.

    Args:
        writing: The writing.
        hour: The hours since 1970. The clock is the writer's: the server's TIME needs a permission of its own, and an hour does not matter.
    """

    def __init__(self, writing: Writing, hour: int) -> None:
        self.group, self.folded, self.fresh = writing.group, writing.folded, set(writing.folded.fresh) if writing.folded else ()
        self.histories, self.ttl_seconds = writing.histories or {}, 0 if writing.histories is not None else writing.ttl_seconds
        self.fields = fields_of(writing.group)
        self.editor = Editor(writing.group, hour, self.ttl_seconds, LONGEST_VALUE)
        tiles: dict[int | str, list[tuple[int, bytes]]] = {entity: [] for entity in self.histories}
        for entity, start_ms, tile in writing.tiles:
            tiles.setdefault(entity, []).append((start_ms, tile))
        self.items = [_Item(entity, its_tiles) for entity, its_tiles in tiles.items()]
        opened = writing.opened
        for item in self.items:
            if len(item.tiles) > 1:
                item.tiles = sorted(dict(item.tiles).items())
            if item.entity in opened:
                state = opened[item.entity]
                item.folded = state.folded if state else b""
                item.value = state.value if state else None
                item.read = state is None or state.value is not None

    def take(self, item: _Item, value: bytes | None) -> bool:
        """Takes what an entity has now. Returns whether it still has to be written."""
        folded = self.editor.folded(value)
        changed = item.folded is not None and item.folded != folded
        item.folded, item.value, item.read = folded, value, True
        return not (changed and self._has_all(item.entity, folded))

    def _has_all(self, entity: int | str, folded: bytes) -> bool:
        """Returns whether the stored tiles of an entity have all events of this writing: another task has written them."""
        if self.folded is None or not folded:
            return False
        token, offsets = _decoder.decode(folded)
        mine = self.folded.offsets[entity]
        return token == self.folded.token and all(offsets.get(partition, -1) >= offset for partition, offset in mine.items())

    def call(self, items: Sequence[_Item]) -> Sequence[Any]:
        """Returns the call of `_PUT` for entities."""
        arguments: list[Any] = []
        for item in items:
            entity, value = item.entity, item.value
            folded = _encoder.encode((self.folded.token, self.folded.offsets[entity])) if self.folded else None
            history = self.histories.get(entity, b"")
            closed_ms = history_end_ms(history) if history else NONE_DROPPED_MS
            is_fresh = entity in self.fresh
            whole = self.editor.put(None if is_fresh else value, item.tiles, folded, closed_ms)
            last = value[-LENGTH.size - len(item.folded or b"") :] if value else b""
            arguments += len(value or b""), last, whole or b"", history or (b"-" if is_fresh else b"")
        return [self.group.key(item.entity) for item in items], *self.fields, self.ttl_seconds * 1_000, *arguments


def put_tiles(client: Any, buckets: Buckets, writings: Sequence[Writing]) -> None:
    """Writes tiles, histories and offsets, those of one entity in one step, and after all of them the marks."""
    hour, at_once = now_ms() // HOUR_MS, _entities_per_call(buckets)
    left = [(put, item) for put in (_Put(writing, hour) for writing in writings) for item in put.items]
    for _ in range(_ATTEMPTS):
        refused = []
        for begun in range(0, len(left), PIPELINE_LENGTH):
            parts = _parts(_read(client, at_once, left[begun : begun + PIPELINE_LENGTH]), at_once)
            answers = _PUT.run(client, [put.call(items) for put, items in parts])
            refused += [(put, items[place - 1]) for (put, items), places in zip(parts, answers, strict=True) for place in places]
        for _, item in refused:
            item.read = False
        if not (left := refused):
            break
    else:
        raise redis.WatchError
    marks = [writing.mark for writing in writings if writing.mark]
    _MARK.run(client, [(key, mark.task, mark.batch_id) for mark in marks for key in buckets.mark_keys(mark.token)])


def _read(client: Any, at_once: int, some: Sequence[tuple[_Put, _Item]]) -> list[tuple[_Put, _Item]]:
    """Reads the entities that were not read yet. Returns those of `some` that have to be written."""
    parts = _parts([pair for pair in some if not pair[1].read], at_once)
    calls = [([put.group.key(item.entity) for item in items], put.fields[0]) for put, items in parts]
    over = set()
    for (put, items), answers in zip(parts, _READ.run(client, calls), strict=True):
        for item, answer in zip(items, answers, strict=True):
            if not put.take(item, answer[0] if answer else None):
                over.add(id(item))
    return [pair for pair in some if id(pair[1]) not in over]


def _parts(pairs: Sequence[tuple[_Put, _Item]], at_once: int) -> list[tuple[_Put, list[_Item]]]:
    """Splits entities into parts of one writing with at most `at_once` entities."""
    of_put = [(put, [item for _, item in some]) for put, some in groupby(pairs, key=itemgetter(0))]
    return [(put, items[begun : begun + at_once]) for put, items in of_put for begun in range(0, len(items), at_once)]


def fields_of(group: FeatureGroup) -> tuple[bytes, bytes]:
    """Returns the fields of the speed value and of the history of a version."""
    return speed_field(group.fingerprint), history_field(group.fingerprint)


def _entities_per_call(buckets: Buckets) -> int:
    """Returns how many entities may share a call of a script: one on a cluster, where entities are on several servers."""
    return _ENTITIES_PER_CALL if len(buckets.names) == 1 else 1


def open_tiles(client: Any, buckets: Buckets, openings: Sequence[Opening]) -> list[list[OpenTiles | None]]:
    """Returns the open tiles of the entities of each opening, as `store.protocol.Store.open_tiles` describes them."""
    at_once = _entities_per_call(buckets)
    calls = [call for opening in openings for call in _open_calls(opening, at_once)]
    length = PIPELINE_LENGTH // at_once
    answers = chain.from_iterable(
        answer for begun in range(0, len(calls), length) for answer in _READ.run(client, calls[begun : begun + length])
    )
    states = []
    for opening in openings:
        editor = Editor(opening.group)
        states.append([_opened(next(answers), opening, editor, first_ms) for first_ms in opening.first_ms.values()])
    return states


def _open_calls(opening: Opening, at_once: int) -> Iterator[Sequence[Any]]:
    """Yields the calls of `_READ`, each with at most `at_once` entities."""
    group, closed_ms = opening.group, opening.closed_ms
    speed, history = fields_of(group)
    firsts = list(opening.first_ms.items())
    for begun in range(0, len(firsts), at_once):
        some = firsts[begun : begun + at_once]
        with_history = () if closed_ms is None else (history, -(-closed_ms // group.tile_ms), *[first_ms for _, first_ms in some])
        yield [group.key(entity) for entity, _ in some], speed, *with_history


def _opened(answer: Sequence[bytes | None], opening: Opening, editor: Editor, first_ms: int) -> OpenTiles | None:
    value, *history = answer or (None,)
    folded, tiles = editor.folded_and_tiles(value, first_ms, opening.closed_ms)
    if not folded:
        return None
    token, offsets = _decoder.decode(folded)
    short = value if value is not None and len(value) <= _KEPT_BYTES else None
    if token != opening.token:
        return OpenTiles({}, {}, None, True, folded, short)
    return OpenTiles(offsets, tiles, history[0] if history else None, False, folded, short)


def has_tiles_of(client: Any, buckets: Buckets, token: str, tasks: int, batch_id: int) -> bool:
    """Returns whether every bucket has an unbroken sequence of marks of all tasks, up to the micro-batch `batch_id` at least."""
    pipeline = client.pipeline(transaction=False)
    for key in buckets.mark_keys(token):
        pipeline.hgetall(key)
    for marks in pipeline.execute():
        if _BROKEN in marks or len(marks) < tasks or min(map(int, marks.values())) < batch_id:
            return False
    return True


def tiles_of(client: Any, group: str) -> dict[str, Tiles]:
    """Returns the streams of tiles of a group: version → its stream."""
    prefix = tiles_field("")
    fields = {name.decode(): text for name, text in client.hgetall(meta_key(group)).items()}
    return {name.removeprefix(prefix): read_tiles(text) for name, text in fields.items() if name.startswith(prefix)}


def read_tiles(text: bytes) -> Tiles:
    """Returns the stream of tiles in a text that `set_tiles` wrote."""
    fields = json.loads(text)
    if begins := fields.get("begins"):
        fields["begins"] = {int(partition): offset for partition, offset in begins.items()}
    return Tiles(**fields)


def set_tiles(client: Any, buckets: Buckets, group: FeatureGroup, tiles: Tiles) -> None:
    """Writes the stream of tiles of a version. If its token differs from the stored one, removes the marks of the stored token."""
    key, field = meta_key(group.name), tiles_field(version_of(group.fingerprint))
    before = client.hget(key, field)
    client.hset(key, field, json.dumps(asdict(tiles)))
    if before and (token := read_tiles(before).token) != tiles.token:
        for marks in buckets.mark_keys(token):
            client.delete(marks)
