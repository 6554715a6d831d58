"""The online store as a request reads it: everything of every entity in one round trip, decoded once.

Gives `serving.merge` its parts. The decoding of a batch value is kept by its own bytes, so that a new publication can never meet
an old decoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import redis

from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import BATCH_FIELD, TILE_PREFIX, BatchValue, TileValue, decode_batch, decode_tile
from infra.redis import async_store, meta_key
from infra.settings import Settings

OUT_OF_REACH = "the online store cannot be reached"
OTHER_VERSION = "a stored value is of another version of the declaration"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the store knows of one entity; `faults` says why that may not be all."""

    batch: BatchValue | None = None
    tiles: list[TileValue] = field(default_factory=list)
    faults: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether either layer has ever seen the entity."""
        return self.batch is not None or bool(self.tiles)


@dataclass(frozen=True, slots=True)
class Reading:
    """One read: the parts of each entity, in their order, and the group's batch_end."""

    parts: list[Parts]
    batch_end_ms: int | None


class OnlineStore:
    """Reads the online store within its deadline. A store that does not answer gives empty parts that say so, never an error."""

    def __init__(self, settings: Settings) -> None:
        self._client = async_store(settings)
        self._deadline_seconds = settings.store_timeout_seconds

    async def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        """Everything that is stored of the entities, as one consistent cut each."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hmget(meta_key(group.name), "batch_end_ms", "fingerprint")
        for one in ids:
            pipeline.hgetall(group.key(one))
        try:
            async with asyncio.timeout(self._deadline_seconds):
                (batch_end, fingerprint), *hashes = await pipeline.execute()
        except (redis.RedisError, TimeoutError, OSError):
            return Reading([Parts(faults=(OUT_OF_REACH,))] * len(ids), None)
        published = batch_end is not None and fingerprint == group.fingerprint.encode()
        return Reading([_parts(fields, group.fingerprint) for fields in hashes], int(batch_end) if published else None)

    async def reachable(self) -> bool:
        """Whether the store answers now."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return bool(await self._client.ping())
        except (redis.RedisError, TimeoutError, OSError):
            return False


def _parts(fields: dict[bytes, bytes], fingerprint: str) -> Parts:
    batch: BatchValue | None = None
    tiles: list[TileValue] = []
    faults: tuple[str, ...] = ()
    for name, data in fields.items():
        try:
            if name == BATCH_FIELD:
                batch = _decoded_batch(data, fingerprint)
            elif name.startswith(TILE_PREFIX):
                tiles.append(decode_tile(data, fingerprint))
        except PackedValueError:
            faults = (OTHER_VERSION,)
    return Parts(batch, tiles, faults)


@lru_cache(maxsize=65_536)
def _decoded_batch(data: bytes, fingerprint: str) -> BatchValue:
    return decode_batch(data, fingerprint)
