"""Speed tiles into the online store, and what says whether it has all of them.

A tile is written by its absolute value, so that writing it twice changes nothing. After the tiles of its part of a micro-batch, a task writes
its mark: the number of the micro-batch, in each bucket, hence on each primary of a cluster. A server that loses what it had acknowledged (an
older file after a crash, a failover to a replica that lagged) loses the latest writes, the marks among them: then a mark lies behind what Spark
has committed, or does not follow upon the one before, and the stream is read again under another token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import redis

from features.declaration import FeatureGroup
from features.packed import tile_prefix
from store.keys import Buckets, meta_key, tiles_field, version_of
from store.protocol import Mark, Tiles
from store.scripts import Script

#: Tiles per round trip to the store.
PIPELINE_LENGTH = 1_000
_BROKEN = b"broken"
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


def put_tiles(
    client: Any,
    buckets: Buckets,
    group: FeatureGroup,
    tiles: Sequence[tuple[int | str, int, bytes]],
    ttl_seconds: int,
    mark: Mark | None,
) -> None:
    """Writes tiles (entity, start in ms, packed value), and after them the mark."""
    command, prefix = expiring_command(client), tile_prefix(group.fingerprint)
    fields: dict[str, dict[bytes, bytes]] = {}
    for entity, start_ms, value in tiles:
        fields.setdefault(group.key(entity), {})[prefix + str(start_ms).encode()] = value
    pipeline, queued = client.pipeline(transaction=False), 0
    for key, values in fields.items():
        _queue(pipeline, command, key, values, ttl_seconds)
        queued += len(values)
        if queued >= PIPELINE_LENGTH:
            pipeline.execute()
            queued = 0
    if queued:
        pipeline.execute()
    if mark is not None:
        _MARK.run(client, [(key, mark.task, mark.batch_id) for key in buckets.mark_keys(mark.token)])


def has_tiles_of(client: Any, buckets: Buckets, token: str, tasks: int | None, batch_id: int) -> bool:
    """Whether every bucket has the marks of all tasks (None for those that there are), up to `batch_id` at least."""
    pipeline = client.pipeline(transaction=False)
    for key in buckets.mark_keys(token):
        pipeline.hgetall(key)
    for marks in pipeline.execute():
        if _BROKEN in marks or len(marks) < (tasks or 1) or min(map(int, marks.values())) < batch_id:
            return False
    return True


def tiles_of(client: Any, group: str) -> dict[str, Tiles]:
    """Version → its stream of tiles."""
    prefix = tiles_field("")
    fields = {name.decode(): text for name, text in client.hgetall(meta_key(group)).items()}
    return {name.removeprefix(prefix): read_tiles(text) for name, text in fields.items() if name.startswith(prefix)}


def read_tiles(text: bytes) -> Tiles:
    """What `set_tiles` wrote."""
    return Tiles(**json.loads(text))


def set_tiles(client: Any, buckets: Buckets, group: FeatureGroup, tiles: Tiles) -> None:
    """Writes since when the tiles of a version are complete; removes the marks of another token."""
    key, field = meta_key(group.name), tiles_field(version_of(group.fingerprint))
    before = client.hget(key, field)
    client.hset(key, field, json.dumps(asdict(tiles)))
    if before and (token := read_tiles(before).token) != tiles.token:
        for marks in buckets.mark_keys(token):
            client.delete(marks)


def expiring_command(client: Any) -> str | None:
    """The server's command by which a field of a hash expires, or None before Redis 7.4.

    HSETEX (Valkey 9, Redis 8) writes and expires in one, HPEXPIRE expires what was written. Without either, publishing a view
    prunes the tiles that it covers.
    """
    return _expiring_command(client)


@cache
def _expiring_command(client: Any) -> str | None:
    for command in ("HSETEX", "HPEXPIRE"):
        try:
            client.execute_command(command, "braid/none", "x")  # with a key, by which a cluster's client finds a server
        except redis.ConnectionError:
            raise
        except redis.RedisError as error:
            if "number of arguments" in str(error).lower():
                return command
    return None


def _queue(pipeline: Any, command: str | None, key: str, values: dict[bytes, bytes], ttl_seconds: int) -> None:
    """One entity's tiles, with their expiry where the server knows it for fields."""
    pairs = [part for pair in values.items() for part in pair]
    if command == "HSETEX":
        pipeline.execute_command("HSETEX", key, "EX", ttl_seconds, "FIELDS", len(values), *pairs)
        return
    pipeline.execute_command("HSET", key, *pairs)
    if command == "HPEXPIRE":
        pipeline.execute_command("HPEXPIRE", key, ttl_seconds * 1_000, "FIELDS", len(values), *values)
