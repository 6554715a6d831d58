"""The memory of the stream in the online store: which events it has seen, and hence which messages are copies.

The memory of a checkpoint is a hash per bucket. A field is the first 18 bits of the hash of an event id. Its value has a record of 32 bytes for
each event with these bits: the hash, the micro-batch in which the event was seen first, and the time and the place at which its message arrived
(arrival_ms, partition, offset). The store forgets an event when another event of the same field arrives more than `remember_ms` later in another
micro-batch. Events of the same micro-batch are not forgotten, because one task may be hours ahead of another. When a micro-batch is made again, a
message finds its own record by its partition and offset, so it is no copy of itself.

Several tasks of a micro-batch call the script at the same time. If a message arrived earlier than the recorded message of the same micro-batch, it
replaces the record, and the field `later` names the replaced message. The tasks that write tiles begin when all these tasks have ended, and skip the
messages that `later` names.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from store.keys import Buckets, high_water_key
from store.protocol import Messages
from store.scripts import Script

#: Messages per call of the script, so that the server answers other clients between two calls.
_MESSAGES = 256
#: The memory of a checkpoint expires after a day without use, which is longer than a speed layer should be stopped.
_KEPT_SECONDS = 86_400
#: The highest times of events are kept for so many micro-batches, more than a checkpoint can go back, and for so many seconds without use.
_MICRO_BATCHES, _HIGH_WATER_SECONDS = 100, 30 * 86_400
_LATER = b"later"
#: With fewer bits the values are longer, and each message copies one. With more bits a slow stream remembers events for longer, at least one per field.
_FIELD_BITS = 18
_ROW = np.dtype([("field", ">u4"), ("event", ">i8"), ("arrival_ms", ">i8"), ("partition", ">i4"), ("offset", ">i8")])
_PLACE = struct.Struct(">iq")
_LOOK = Script(
    """
-- key: a bucket; micro-batch (4 bytes), remember_ms, seconds to keep, messages (field 4, event 8, arrival_ms 8, partition 4, offset 8);
-- gives a byte per message: 1 for the first of its event, 0 for a copy
local RECORD, MESSAGE = 32, 32
local batch, remember_ms, rows, answer = ARGV[1], tonumber(ARGV[2]), ARGV[4], {}
local sub, find, unpacked = string.sub, string.find, struct.unpack
local function number(high, low) return high * 4294967296 + low end
local function before(a, b)
  local a_high, a_low, a_partition, a_offset_high, a_offset = unpacked('>iIiiI', a)
  local b_high, b_low, b_partition, b_offset_high, b_offset = unpacked('>iIiiI', b)
  local a_ms, b_ms = number(a_high, a_low), number(b_high, b_low)
  if a_ms ~= b_ms then return a_ms < b_ms end
  if a_partition ~= b_partition then return a_partition < b_partition end
  return number(a_offset_high, a_offset) < number(b_offset_high, b_offset)
end
local function position(records, event)
  local at = find(records, event, 1, true)
  while at and (at - 1) % RECORD ~= 0 do at = find(records, event, at + 1, true) end
  return at
end
-- One command reads the records of all messages, and one writes those that change: most of the time of a command is its call.
local fields, records_of, changed = {}, {}, {}
for at = 1, #rows, MESSAGE do
  local field = sub(rows, at, at + 3)
  if not records_of[field] then fields[#fields + 1], records_of[field] = field, '' end
end
for place, records in ipairs(redis.call('HMGET', KEYS[1], unpack(fields))) do records_of[fields[place]] = records or '' end
local function set(field, records)
  if not changed[field] then changed[#changed + 1], changed[field] = field, true end
  records_of[field] = records
end
for at = 1, #rows, MESSAGE do
  local field, event, arrival = sub(rows, at, at + 3), sub(rows, at + 4, at + 11), sub(rows, at + 12, at + MESSAGE - 1)
  local records = records_of[field]
  local seen, first = records ~= '' and position(records, event), '\\1'
  if not seen then
    if records ~= '' then
      local keep, before_ms = 1, number(unpacked('>iI', arrival)) - remember_ms
      while keep < #records and sub(records, keep + 8, keep + 11) ~= batch and number(unpacked('>iI', records, keep + 12)) < before_ms do
        keep = keep + RECORD
      end
      if keep > 1 then records = sub(records, keep) end
    end
    set(field, records .. event .. batch .. arrival)
  else
    local other = sub(records, seen + 12, seen + RECORD - 1)
    if sub(other, 9) ~= sub(arrival, 9) then
      if sub(records, seen + 8, seen + 11) == batch and before(arrival, other) then
        set(field, sub(records, 1, seen + 11) .. arrival .. sub(records, seen + RECORD))
        local later = redis.call('HGET', KEYS[1], 'later') or ''
        redis.call('HSET', KEYS[1], 'later', (sub(later, 1, 4) == batch and later or batch) .. sub(other, 9))
      else
        first = '\\0'
      end
    end
  end
  answer[#answer + 1] = first
end
local written = {}
for _, field in ipairs(changed) do written[#written + 1], written[#written + 2] = field, records_of[field] end
if #written > 0 then redis.call('HSET', KEYS[1], unpack(written)) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return table.concat(answer)
"""
)
_RAISE = Script(
    """
-- key: the highest times of a query; micro-batch, time, micro-batches to keep, seconds to keep
local batch, before = tonumber(ARGV[1]), redis.call('HGET', KEYS[1], ARGV[1])
if not before or tonumber(before) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
redis.call('HDEL', KEYS[1], string.format('%.0f', batch - tonumber(ARGV[3])))
redis.call('EXPIRE', KEYS[1], ARGV[4])
"""
)


def first_copies(
    client: Any, buckets: Buckets, memory: str, batch: bytes, messages: Messages, remember_ms: int
) -> npt.NDArray[np.bool_]:
    """Returns per message whether it is the first of its event among those that the memory knows, and remembers the event.

    Args:
        client: The client of the store.
        buckets: The buckets of the memory.
        memory: The name of the memory.
        batch: A name of 4 bytes for the micro-batch.
        messages: The messages, in any order.
        remember_ms: The shortest time, in ms, for which an event is remembered after the arrival of its message.
    """
    rows = np.empty(len(messages.event), _ROW)
    rows["field"] = messages.event.view(np.uint64) >> np.uint64(64 - _FIELD_BITS)
    for column in fields(messages):
        rows[column.name] = getattr(messages, column.name)
    calls, places = [], []
    for bucket, key in enumerate(keys := buckets.copies_keys(memory)):
        mine = np.flatnonzero(messages.event % len(keys) == bucket)
        for begun in range(0, len(mine), _MESSAGES):
            places.append(mine[begun : begun + _MESSAGES])
            calls.append((key, batch, remember_ms, _KEPT_SECONDS, rows[places[-1]].tobytes()))
    first = np.zeros(len(rows), np.bool_)
    for chosen, answer in zip(places, _LOOK.run(client, calls) if calls else (), strict=True):
        first[chosen] = np.frombuffer(answer, np.bool_)
    return first


def later_copies(client: Any, buckets: Buckets, memory: str, batch: bytes) -> set[tuple[int, int]]:
    """Returns the places (partition, offset) of a micro-batch's messages that counted as the first until an earlier message replaced them."""
    pipeline = client.pipeline(transaction=False)
    for key in buckets.copies_keys(memory):
        pipeline.hget(key, _LATER)
    named = (answer[4:] for answer in pipeline.execute() if answer and answer.startswith(batch))
    return {place for places in named for place in _PLACE.iter_unpack(places)}


def high_water(client: Any, query: str, before: int) -> int | None:
    """Returns the highest time of an event in the micro-batches of a query before the micro-batch `before`, in ms; None if none is recorded."""
    highest: Mapping[bytes, bytes] = client.hgetall(high_water_key(query))
    return max((int(ts_ms) for batch_id, ts_ms in highest.items() if int(batch_id) < before), default=None)


def raise_high_water(client: Any, query: str, batch_id: int, ts_ms: int) -> None:
    """Records the highest time of an event, in ms, in a part of a micro-batch. A higher time of the same micro-batch stays."""
    _RAISE.run(client, [(high_water_key(query), batch_id, ts_ms, _MICRO_BATCHES, _HIGH_WATER_SECONDS)])
