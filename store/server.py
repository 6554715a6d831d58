"""The implementation of `store.protocol.Store` on Redis or Valkey, one server or a cluster."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import redis

from features.declaration import FeatureGroup
from features.instants import now_ms
from infra.settings import Settings
from store import copies, publishing, tiles
from store.clients import patient_store, reading_store, store
from store.errors import store_errors
from store.keys import GENERATION_KEY, PROGRESS_KEY, Buckets, meta_key, notes_key
from store.protocol import Folded, Mark, Messages, Opening, OpenTiles, Published, Reading, Tiles, View, Writing
from store.reading import ATTEMPTS, Query, Versions
from store.wire import single

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _told(
    method: Callable[Concatenate[RedisStore, _P], _R],
) -> Callable[Concatenate[RedisStore, _P], _R]:
    @wraps(method)
    def call(self: RedisStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with store_errors():
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value,unused-ignore]  # one version of mypy reports the name of the argument as a difference


class RedisStore:
    """The online store. `store.protocol.Store` describes the methods.

    Args:
        settings: The settings with the URL of the store.
        client: The function that makes the client at the first use: `store.clients.store`, `patient_store` or `reading_store`.
    """

    def __init__(self, settings: Settings, client: Callable[[Settings], Any] = store) -> None:
        self._settings, self._connect = settings, client
        self._made: Any = None
        self._buckets = Buckets(settings.redis_cluster)
        self._versions = Versions(self._buckets, settings.kappa)

    @property
    def _client(self) -> Any:
        if self._made is None:
            self._made = self._connect(self._settings)  # the client of a cluster asks it for its servers
        return self._made

    @_told
    def check(self) -> None:
        self._client.ping()

    @_told
    def generation(self) -> str:
        self._client.set(GENERATION_KEY, uuid.uuid4().hex[:12], nx=True)
        return str(self._client.get(GENERATION_KEY).decode())

    @_told
    def published(self, group: str) -> Published | None:
        return publishing.published(self._client, group)

    @_told
    def begin_publication(self, group: FeatureGroup, view: View) -> View:
        return publishing.begin(self._client, group, view)

    @_told
    def put_views(self, group: FeatureGroup, view: View, ids: Sequence[int | str], values: Sequence[bytes]) -> None:
        newest_tile_ms = cache(partial(self._newest_tile_ms, group))  # called for each lost entity
        publishing.put_views(self._client, self._buckets, group, view, ids, values, newest_tile_ms)

    def _newest_tile_ms(self, group: FeatureGroup) -> int:
        """Returns a time, in ms, before which all events lie that are in speed tiles of a group by now."""
        # The time of an event may be ahead of the clock.
        newest_ms = now_ms() + self._settings.future_seconds * 1_000
        streams = [
            entry
            for name, entry in self.progress().items()
            if name.split("@", 1)[0] == f"online:{group.name}" and "newest_event_ms" in entry
        ]
        # A micro-batch under way may be ahead of the reported progress: a little, or in a backlog by any time.
        if not streams or any(entry["newest_event_ms"] is None or entry.get("lag") for entry in streams):
            return newest_ms
        return min(newest_ms, max(entry["newest_event_ms"] for entry in streams) + group.tile_ms)

    @_told
    def end_publication(self, group: FeatureGroup, view: View, entities: int, newest_event_ms: int | None) -> int:
        return publishing.end(self._client, self._buckets, group, view, entities, newest_event_ms)

    @_told
    def drop(self, group: FeatureGroup, ids: Sequence[int | str]) -> int:
        return publishing.drop(self._client, self._buckets, group, ids)

    @_told
    def ids_of_part(self, group: FeatureGroup, column: str, value: int | str) -> list[int | str]:
        return publishing.ids_of_part(self._client, self._buckets, group, column, value)

    @_told
    def put_tiles(
        self,
        group: FeatureGroup,
        values: Sequence[tuple[int | str, int, bytes]],
        ttl_seconds: int,
        mark: Mark | None = None,
        folded: Folded | None = None,
        histories: Mapping[int | str, bytes] | None = None,
    ) -> None:
        self.put_all_tiles([Writing(group, values, ttl_seconds, mark, folded, histories)])

    @_told
    def put_all_tiles(self, writings: Sequence[Writing]) -> None:
        tiles.put_tiles(self._client, self._buckets, writings)

    @_told
    def first_copies(self, memory: str, batch: bytes, messages: Messages, remember_ms: int) -> npt.NDArray[np.bool_]:
        return copies.first_copies(self._client, self._buckets, memory, batch, messages, remember_ms)

    @_told
    def later_copies(self, memory: str, batch: bytes) -> set[tuple[int, int]]:
        return copies.later_copies(self._client, self._buckets, memory, batch)

    @_told
    def high_water(self, query: str, before: int) -> int | None:
        return copies.high_water(self._client, query, before)

    @_told
    def raise_high_water(self, query: str, batch_id: int, ts_ms: int) -> None:
        copies.raise_high_water(self._client, query, batch_id, ts_ms)

    @_told
    def open_tiles(self, openings: Sequence[Opening]) -> list[list[OpenTiles | None]]:
        return tiles.open_tiles(self._client, self._buckets, openings)

    @_told
    def serve_stream(self, group: FeatureGroup, as_of_ms: int, entities: int, token: str | None = None) -> None:
        publishing.serve_stream(self._client, self._buckets, group, as_of_ms, entities, token)

    @_told
    def tiles(self, group: str) -> dict[str, Tiles]:
        return tiles.tiles_of(self._client, group)

    @_told
    def set_tiles(self, group: FeatureGroup, stream: Tiles) -> None:
        tiles.set_tiles(self._client, self._buckets, group, stream)

    @_told
    def has_tiles_of(self, token: str, tasks: int, batch_id: int) -> bool:
        return tiles.has_tiles_of(self._client, self._buckets, token, tasks, batch_id)

    @_told
    def holds(self, group: FeatureGroup, ids: Sequence[int | str]) -> int:
        return sum(self._client.exists(group.key(entity_id)) for entity_id in ids)

    @_told
    def evicting_policies(self) -> set[str]:
        return {
            server["maxmemory_policy"]
            for server in self._memory()
            if server["maxmemory"] and server["maxmemory_policy"] != "noeviction"
        }

    @_told
    def size_bytes(self) -> int:
        return sum(int(server["used_memory_dataset"]) for server in self._memory())

    def _memory(self) -> list[dict[str, Any]]:
        """Returns the section `memory` of INFO of the server, or of each primary of a cluster."""
        clustered = isinstance(self._client, redis.RedisCluster)
        answer = self._client.info("memory", **({"target_nodes": redis.RedisCluster.PRIMARIES} if clustered else {}))
        return [answer] if "maxmemory" in answer else list(answer.values())

    @_told
    def progress(self) -> dict[str, dict[str, Any]]:
        return _entries(self._client.hgetall(PROGRESS_KEY))

    @_told
    def set_progress(self, entries: Mapping[str, Mapping[str, Any]], over: Sequence[str] = ()) -> None:
        if over:
            self._client.hdel(PROGRESS_KEY, *over)
        if entries:
            self._client.hset(PROGRESS_KEY, mapping={name: json.dumps(entry) for name, entry in entries.items()})

    @_told
    def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        query = Query([(group, ids)], self._versions)
        for attempt in range(1, ATTEMPTS + 1):
            pipeline = self._client.pipeline(transaction=False)
            for command in single(query.commands()):
                pipeline.execute_command(*command)
            answers = pipeline.execute(raise_on_error=False)
            if not query.changed(answers) or attempt == ATTEMPTS:
                break
            self._versions.serve(group, *self._client.hmget(meta_key(group.name), "fingerprint", "declaration"))
        [reading] = query.readings(answers)
        return reading

    @_told
    def notes(self, kind: str) -> dict[str, dict[str, Any]]:
        return _entries(dict(sorted(self._client.hgetall(notes_key(kind)).items())))

    @_told
    def note(self, kind: str, key: str, value: Mapping[str, Any] | None) -> None:
        if value is None:
            self._client.hdel(notes_key(kind), key)
        else:
            self._client.hset(notes_key(kind), key, json.dumps(value))


def open_store(settings: Settings) -> RedisStore:
    """Returns the store of the settings, which connects at the first use."""
    return RedisStore(settings)


def writing_store(settings: Settings) -> RedisStore:
    """Returns the store for processes that write for a long time: one client per process, which retries for as long as a failover takes."""
    return RedisStore(settings, patient_store)


def store_to_read(settings: Settings) -> RedisStore:
    """Returns the store, connected as the read-only user. Serving uses it outside of requests."""
    return RedisStore(settings, reading_store)


def reached_store(settings: Settings) -> RedisStore:
    """Returns the store after it has answered once.

    Raises:
        StoreError: The store does not answer.
    """
    reached = open_store(settings)
    reached.check()
    return reached


def _entries(fields: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    return {name.decode(): json.loads(value) for name, value in fields.items()}
