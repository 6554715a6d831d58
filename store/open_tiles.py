"""The open tiles of entities: what the speed layer folds the next events into. Of no concern to a request.

Each entity of a stream of tiles has one value, which the stream's own tasks replace. It expires as the tiles do, and is found by the token of the
stream, so that a stream that is read again begins without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from store.keys import open_tiles_key

#: Entities per round trip to the store.
_CHUNK = 1_000


def open_tiles(client: Any, token: str, ids: Sequence[int | str]) -> list[bytes | None]:
    """The values of entities, in the order of the ids; None for none."""
    values: list[bytes | None] = []
    for begun in range(0, len(ids), _CHUNK):
        keys = [open_tiles_key(token, entity_id) for entity_id in ids[begun : begun + _CHUNK]]
        if isinstance(client, redis.RedisCluster):
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(key)
            values += pipeline.execute()
        else:
            values += client.mget(keys)
    return values


def put_open_tiles(client: Any, token: str, values: Sequence[tuple[int | str, bytes]], ttl_seconds: int) -> None:
    """Writes the values of entities."""
    for begun in range(0, len(values), _CHUNK):
        pipeline = client.pipeline(transaction=False)
        for entity_id, value in values[begun : begun + _CHUNK]:
            pipeline.set(open_tiles_key(token, entity_id), value, ex=ttl_seconds)
        pipeline.execute()


def drop_open_tiles(client: Any, tokens: Sequence[str], ids: Sequence[int | str]) -> None:
    """Removes the values of entities in some streams."""
    for begun in range(0, len(ids), _CHUNK):
        pipeline = client.pipeline(transaction=False)
        for entity_id in ids[begun : begun + _CHUNK]:
            for token in tokens:
                pipeline.delete(open_tiles_key(token, entity_id))
        pipeline.execute()
