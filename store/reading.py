"""The online store as a request reads it: everything of every entity in one round trip, decoded once.

Gives `features.merge` its parts, of the version of the group that was published last: an older declaration is served until the newer
one is there. A decoding is kept by the very bytes that it is of, so that neither a new publication nor a tile
that grew can ever meet an old decoding.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import redis

from features.declaration import FeatureGroup
from features.declaration.versions import published_group
from features.errors import PackedValueError
from features.packed import FORMAT, BatchValue, TileValue, batch_field, decode_batch, decode_tile, tile_prefix
from infra.settings import Settings
from store.clients import async_store, meta_key

OUT_OF_REACH = "the online store cannot be reached"
#: Requests in one round trip: as many as are merged well within a deadline, for the next one is under way meanwhile.
_SHARED = 32
_FORMAT = str(FORMAT).encode()
NOT_OURS = "the online store holds something else under the entity's key"
UNREADABLE = "a stored value cannot be read"
OTHER_VERSION = "the online store holds a version of the declaration that cannot be read any more"


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
    """One read: the parts of each entity, in their order, the group's batch_end, and the version of the group that they are of."""

    parts: list[Parts]
    batch_end_ms: int | None
    group: FeatureGroup


class _Waiting(NamedTuple):
    group: FeatureGroup
    ids: Sequence[int | str]
    reading: asyncio.Future[Reading]


class OnlineStore:
    """Reads the online store within its deadline. A store that does not answer gives empty parts that say so, never an error.

    One round trip is under way at a time; requests that come meanwhile share the next. So a burst of callers costs few round trips
    and one connection, and a store that stalls costs each of them its deadline once.
    """

    def __init__(self, settings: Settings) -> None:
        self._client = async_store(settings)
        self._deadline_seconds = settings.store_timeout_seconds
        self._waiting: deque[_Waiting] = deque()
        self._flying = False
        self._tasks: set[asyncio.Task[None]] = set()
        #: Group and fingerprint → the declaration of what is published.
        self._versions: dict[tuple[str, bytes], FeatureGroup] = {}

    async def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        """Everything that is stored of the entities, as one consistent cut each."""
        mine = _Waiting(group, ids, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if not self._flying:
            await self._fly()
        return await mine.reading

    async def _fly(self) -> None:
        """One round trip for those who wait, and after it the next for those who have come."""
        self._flying = True
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _SHARED))]
        try:
            async with asyncio.timeout(self._deadline_seconds):
                readings = await self._round_trip(taken)
        except (redis.RedisError, TimeoutError, OSError):
            # Whoever came meanwhile has waited for the same silence.
            taken += self._waiting
            self._waiting.clear()
            readings = [Reading([Parts(faults=(OUT_OF_REACH,))] * len(one.ids), None, one.group) for one in taken]
        except Exception as error:  # noqa: BLE001  # a fault of ours: those who share the round trip must hear of it, too
            for one in taken:
                if not one.reading.done():
                    one.reading.set_exception(error)
            return
        finally:
            self._flying = bool(self._waiting)
            if self._flying:
                task = asyncio.create_task(self._fly())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        for one, reading in zip(taken, readings, strict=True):
            if not one.reading.done():  # its caller has gone
                one.reading.set_result(reading)

    async def _round_trip(self, taken: Sequence[_Waiting]) -> list[Reading]:
        pipeline = self._client.pipeline(transaction=False)
        for group, ids, _ in taken:
            pipeline.hmget(meta_key(group.name), "batch_end_ms", "fingerprint", "format")
            for one in ids:
                pipeline.hgetall(group.key(one))
        answers = iter(await pipeline.execute(raise_on_error=False))
        readings = []
        for group, ids, _ in taken:
            meta = next(answers)
            batch_end, fingerprint, written = (None, None, None) if isinstance(meta, Exception) else meta
            served = await self._version(group, fingerprint)
            readable = fingerprint is None or (fingerprint == served.fingerprint.encode() and written == _FORMAT)
            parts = [parts_of(fields, served.fingerprint) for fields in islice(answers, len(ids))]
            if not readable:
                parts = [replace(one, faults=(*one.faults, OTHER_VERSION)) for one in parts]
            readings.append(Reading(parts, int(batch_end) if readable and batch_end is not None else None, served))
        return readings

    async def _version(self, declared: FeatureGroup, fingerprint: bytes | None) -> FeatureGroup:
        """The declaration of what is published; it is read once per version."""
        if fingerprint is None or fingerprint == declared.fingerprint.encode():
            return declared
        if (known := self._versions.get((declared.name, fingerprint))) is None:
            now, text = await self._client.hmget(meta_key(declared.name), "fingerprint", "declaration")
            known = self._versions[declared.name, now] = published_group(declared, now, text)  # now may be a newer one already
        return known

    async def reachable(self) -> bool:
        """Whether the store answers now."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return bool(await self._client.ping())
        except (redis.RedisError, TimeoutError, OSError):
            return False

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.aclose()


def parts_of(fields: dict[bytes, bytes] | Exception, fingerprint: str) -> Parts:
    """What an entity's hash holds, or what reading it has come to."""
    if isinstance(fields, Exception):
        return Parts(faults=(NOT_OURS,))
    batch: BatchValue | None = None
    tiles: list[TileValue] = []
    faults: tuple[str, ...] = ()
    batch_name, tile_names = batch_field(fingerprint), tile_prefix(fingerprint)
    for name, data in fields.items():
        try:
            if name == batch_name:
                batch = _decoded_batch(data, fingerprint)
            elif name.startswith(tile_names):
                tiles.append(_decoded_tile(data, fingerprint))
        except PackedValueError:
            faults = (UNREADABLE,)
    return Parts(batch, tiles, faults)


@lru_cache(maxsize=16_384)
def _decoded_batch(data: bytes, fingerprint: str) -> BatchValue:
    return decode_batch(data, fingerprint)


# Most tiles are past and never change. About 0.7 KB each.
@lru_cache(maxsize=65_536)
def _decoded_tile(data: bytes, fingerprint: str) -> TileValue:
    return decode_tile(data, fingerprint)
