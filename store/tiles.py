"""Speed tiles: writes them into the online store, reads the open ones, and notices when the store has lost some.

All tiles of an entity and a version are one value (`features.speed_value`). A script replaces the tiles that are written and drops the expired ones.
A tile is written by its absolute value, so writing it twice changes nothing. The same step writes the offsets of the events that are in the value
(`Folded`), so neither is written without the other. The speed layer folds an entity's next events into the stored tiles.

After the tiles of its part of a micro-batch, a task writes its mark, the number of the micro-batch, into each bucket and hence to each primary of a
cluster. A server that loses acknowledged writes (an older file after a crash, a failover to a replica that lagged) loses the latest ones, with their
marks. Then a mark is less than the last committed micro-batch, or does not follow the previous mark, and the stream is read again under a new token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import msgspec

from features.declaration import FeatureGroup
from features.history import history_field
from features.instants import now_ms
from features.speed_value import SPEED_FORMAT, folded_field, speed_field, speed_head
from features.windows import HOUR_MS
from store.keys import Buckets, meta_key, tiles_field, version_of
from store.protocol import Opening, OpenTiles, Tiles, Writing
from store.scripts import Script

#: Entities per round trip to the store, and entities per call of a script on a single server. Half of the time of a call does not depend on its
#: entities. But other clients wait until a call, and the calls of a round trip that have arrived, are done.
PIPELINE_LENGTH, _ENTITIES_PER_CALL = 128, 16
#: The longest speed value, in bytes. A longer one loses its oldest tiles, and its head records the end of the latest lost tile.
LONGEST_VALUE = 4 * 1_024 * 1_024
#: Lua functions on a speed value (`features.speed_value`). `entry` returns start, expiry and length of the tile at `place`, counted from 0. `write`
#: sets fields and their expiry, if the server supports the expiry of fields (Valkey 9, Redis 7.4).
SPEED_LUA = """
local HEAD, ENTRY, FORMAT = 19, 12, %d
local function entry(index, place)
  local high, low, expiry, size = struct.unpack('>hIHI', index, place * ENTRY + 1)
  return high * 4294967296 + low, expiry, size
end
local function is_speed(value)
  return #value >= HEAD and string.byte(value) == FORMAT and #value >= HEAD + select(3, struct.unpack('>hII', value, 10)) * ENTRY + 5
end
local function parts(value)
  local high, low, n = struct.unpack('>hII', value, 10)
  return high * 4294967296 + low, n, string.sub(value, HEAD + 1, HEAD + n * ENTRY), string.sub(value, HEAD + n * ENTRY + 6)
end
local function whole(head, dropped, n, index, tiles)
  local high = math.floor(dropped / 4294967296)
  return head .. struct.pack('>hII', high, dropped - high * 4294967296, n) .. index .. string.char(221) .. struct.pack('>I', n) .. tiles
end
-- The keys of a group are the store's own: what has another type there goes, so that it is in nobody's way.
local function own(key, reply)
  if type(reply) ~= 'table' or not reply.err then return reply end
  redis.call(string.find(reply.err, 'WRONGTYPE') and 'DEL' or 'HLEN', key) -- HLEN meets the same error and raises it
end
local function write(key, ttl_ms, values)
  redis.call('HSET', key, unpack(values))
  local fields = {}
  for at = 1, #values, 2 do fields[#fields + 1] = values[at] end
  local answer = ttl_ms > 0 and redis.pcall('HPEXPIRE', key, ttl_ms, 'FIELDS', #fields, unpack(fields))
  if type(answer) == 'table' and answer.err and not string.find(answer.err, 'nknown') then return answer end
end
""".replace("%d", str(SPEED_FORMAT))
_PUT = Script(
    SPEED_LUA
    + """
-- keys: entities; field, format and fingerprint, tile_ms, seconds until a tile expires (0: never), longest value, hour, field of what is folded, field of
-- the history; for each entity the text of what is folded ('' for none), the history ('' for none), whether nothing that is there counts, the number of
-- tiles; starts and tiles, ascending
local field, head, tile_ms, ttl, longest, hour = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- An hour is told from the hours of half the range before it, so the latest of those after it stands for none.
local expiry = (hour + (ttl > 0 and math.ceil(ttl / 3600) + 1 or 32767)) % 65536
local function put(key, folded, history, fresh, from, to)
  local value, folded_before = unpack(own(key, redis.pcall('HMGET', key, field, ARGV[7])) or {})
  -- Without a history tiles and what is folded are there together. Alone, the other one was lost, and with it events of these tiles or of earlier ones.
  local lost = folded ~= '' and ttl > 0 and (not folded_before) ~= (not value)
  if fresh == '1' then
    redis.call('HDEL', key, field, ARGV[7], ARGV[8])
    value = nil
  end
  local closed = -140737488355328
  if history ~= '' then
    local high, low = struct.unpack('>hI', history, 10)
    closed = high * 4294967296 + low
  end
  local dropped, n, index, tiles = -140737488355328, 0, '', ''
  if value and is_speed(value) and string.sub(value, 1, #head) == head then dropped, n, index, tiles = parts(value) end
  if lost and from < to then dropped = math.max(dropped, tonumber(ARGV[to - 1]) + tile_ms) end

  -- Tiles from the first new one on are taken off: usually none, or the one that is replaced.
  local first, stay, bytes, after = from < to and tonumber(ARGV[from]) or 140737488355327, n, #tiles, {}
  while stay > 0 do
    local start, _, size = entry(index, stay - 1)
    if start < first then break end
    stay = stay - 1
    after[#after + 1] = {start, string.sub(index, stay * ENTRY + 1, (stay + 1) * ENTRY), string.sub(tiles, bytes - size + 1, bytes)}
    bytes = bytes - size
  end
  -- The oldest go: what the history has, what has expired, and what makes the value too long.
  local total, skip, skipped = #tiles, 0, 0
  for at = from + 1, to, 2 do total = total + #ARGV[at] end
  while skip < stay do
    local start, expires, size = entry(index, skip)
    if start >= closed then
      if (expires - hour) % 65536 < 32768 and total <= longest then break end
      dropped = math.max(dropped, start + tile_ms)
    end
    skip, skipped, total = skip + 1, skipped + size, total - size
  end
  local count, indices, values = stay - skip, {string.sub(index, skip * ENTRY + 1, stay * ENTRY)}, {string.sub(tiles, skipped + 1, bytes)}
  local function add(its_index, its_value)
    count, indices[#indices + 1], values[#values + 1] = count + 1, its_index, its_value
  end
  local place = #after
  for at = from, to - 1, 2 do
    local start, tile = tonumber(ARGV[at]), ARGV[at + 1]
    while place > 0 and after[place][1] < start do
      add(after[place][2], after[place][3])
      place = place - 1
    end
    if place > 0 and after[place][1] == start then place = place - 1 end
    local high = math.floor(start / 4294967296)
    add(struct.pack('>hIHI', high, start - high * 4294967296, expiry, #tile), tile)
  end
  for left = place, 1, -1 do add(after[left][2], after[left][3]) end
  local written = folded ~= '' and {ARGV[7], folded} or {}
  if count > 0 then
    written[#written + 1] = field
    written[#written + 1] = whole(head, dropped, count, table.concat(indices), table.concat(values))
  elseif value then
    redis.call('HDEL', key, field)
  end
  if history ~= '' then redis.call('HSET', key, ARGV[8], history) end
  if #written > 0 then return write(key, ttl * 1000, written) end
end

local at = 9
for _, key in ipairs(KEYS) do
  local last = at + 3 + 2 * tonumber(ARGV[at + 3])
  local refused = put(key, ARGV[at], ARGV[at + 1], ARGV[at + 2], at + 4, last)
  if refused then return refused end
  at = last + 1
end
"""
)
_OPEN = Script(
    SPEED_LUA
    + """
-- keys: entities; field, format and fingerprint, field of what is folded, of an architecture with histories the field of the history and before when a
-- tile is closed ('' and '' of another); for each entity the start of the first tile. Gives for each what is folded, the history or '', then starts and tiles
local function open(key, first)
  local folded, value, history = unpack(own(key, redis.pcall('HMGET', key, ARGV[3], ARGV[1], ARGV[4])) or {})
  if not folded then return {} end
  local found, head = {folded, ''}, ARGV[2]
  local needed = false
  if history then
    local high, low = struct.unpack('>hI', history, 10)
    needed = first < high * 4294967296 + low
  end
  if value and is_speed(value) and string.sub(value, 1, #head) == head then
    local _, n, index, tiles = parts(value)
    local bytes, closed, place = 0, tonumber(ARGV[5]) or -140737488355328, 0
    needed = needed or (n > 0 and entry(index, 0) < closed)
    while place < n do
      local start, _, size = entry(index, place)
      if start >= closed or start >= first then break end
      found[#found + 1], found[#found + 2] = string.format('%.0f', start), string.sub(tiles, bytes + 1, bytes + size)
      place, bytes = place + 1, bytes + size
    end
    bytes = #tiles
    for place = n - 1, 0, -1 do
      local start, _, size = entry(index, place)
      if start < first then break end
      found[#found + 1], found[#found + 2] = string.format('%.0f', start), string.sub(tiles, bytes - size + 1, bytes)
      bytes = bytes - size
    end
  end
  if history and needed then found[2] = history end
  return found
end

local opened = {}
for place, key in ipairs(KEYS) do opened[place] = open(key, tonumber(ARGV[5 + place])) end
return opened
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


def put_tiles(client: Any, buckets: Buckets, writings: Sequence[Writing]) -> None:
    """Writes tiles, histories and offsets, those of one entity in one step, and after all of them the marks."""
    _run(client, _PUT, [call for writing in writings for call in _put_calls(writing, _entities_per_call(buckets))])
    marks = [writing.mark for writing in writings if writing.mark]
    _MARK.run(client, [(key, mark.task, mark.batch_id) for mark in marks for key in buckets.mark_keys(mark.token)])


def _put_calls(writing: Writing, at_once: int) -> Iterator[Sequence[Any]]:
    """Yields the calls of `_PUT`, each with at most `at_once` entities."""
    group, folded, histories = writing.group, writing.folded, writing.histories
    # The clock of the writer: the server's TIME needs a permission of its own, and an hour more or less does not matter.
    hour = now_ms() // HOUR_MS
    ttl_seconds = 0 if histories is not None else writing.ttl_seconds
    shared = (
        speed_field(group.fingerprint), speed_head(group), group.tile_ms, ttl_seconds, LONGEST_VALUE, hour, folded_field(group.fingerprint),
        history_field(group.fingerprint),
    )  # fmt: skip
    packed, fresh = histories or {}, set(folded.fresh) if folded else ()
    entities: dict[int | str, dict[int, bytes]] = {entity: {} for entity in packed}
    for entity, start_ms, value in writing.tiles:
        entities.setdefault(entity, {})[start_ms] = value
    items = list(entities.items())
    for begun in range(0, len(items), at_once):
        some = items[begun : begun + at_once]
        arguments: list[Any] = []
        for entity, values in some:
            text = _encoder.encode((folded.token, folded.offsets[entity])) if folded else b""
            arguments += text, packed.get(entity, b""), int(entity in fresh), len(values)
            for tile in sorted(values.items()):
                arguments += tile
        yield [group.key(entity) for entity, _ in some], *shared, *arguments


def _entities_per_call(buckets: Buckets) -> int:
    """Returns how many entities may share a call of a script: one on a cluster, where entities are on several servers."""
    return _ENTITIES_PER_CALL if len(buckets.names) == 1 else 1


def open_tiles(client: Any, buckets: Buckets, openings: Sequence[Opening]) -> list[list[OpenTiles | None]]:
    """Returns the open tiles of the entities of each opening, as `store.protocol.Store.open_tiles` describes them."""
    calls = [call for opening in openings for call in _open_calls(opening, _entities_per_call(buckets))]
    answers = chain.from_iterable(_run(client, _OPEN, calls))
    return [[_opened(next(answers), opening.token) for _ in opening.first_ms] for opening in openings]


def _open_calls(opening: Opening, at_once: int) -> Iterator[Sequence[Any]]:
    """Yields the calls of `_OPEN`, each with at most `at_once` entities."""
    group = opening.group
    field, head, beside = speed_field(group.fingerprint), speed_head(group), folded_field(group.fingerprint)
    closed = ("", "") if opening.closed_ms is None else (history_field(group.fingerprint), opening.closed_ms)
    firsts = list(opening.first_ms.items())
    for begun in range(0, len(firsts), at_once):
        some = firsts[begun : begun + at_once]
        yield [group.key(entity) for entity, _ in some], field, head, beside, *closed, *[start_ms for _, start_ms in some]


def _opened(answer: Sequence[bytes], token: str) -> OpenTiles | None:
    if not answer:
        return None
    its_token, offsets = _decoder.decode(answer[0])
    if its_token != token:
        return OpenTiles({}, {}, of_another=True)
    return OpenTiles(offsets, dict(zip(map(int, answer[2::2]), answer[3::2], strict=True)), answer[1] or None)


def _run(client: Any, script: Script, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """Returns the results of calls. A round trip has as many calls as have about `PIPELINE_LENGTH` entities together."""
    length = PIPELINE_LENGTH // max((len(keys) for keys, *_ in calls), default=1)
    return [result for begun in range(0, len(calls), length) for result in script.run(client, calls[begun : begun + length])]


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
