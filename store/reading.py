"""The online store as it is read: everything of every entity in one round trip, decoded once.

Gives `features.merge` its parts, of the version of the group that was published last: an older declaration is served until the newer one
is there. What was decoded is kept (`store.decoded`). What the store can be seen to lack stands in the faults of the parts:

- a known entity without a view has lost it (`LOST`); an entity that no publication knows is a new one, and exact;
- a view older than what is published is of an entity that has left the view, or was lost since (`LEFT`);
- speed tiles that went with a key, whose view was published again since, may be missing until a view covers their time (`LOST_TILES`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from features.declaration import FeatureGroup
from features.declaration.versions import published_group
from features.errors import PackedValueError
from features.history import HISTORY_FORMAT, decode_history, history_field
from features.merge import EVER_MS
from features.packed import FORMAT, BatchValue, TileValue, batch_field, decode_batch
from features.speed_tiles import SpeedTiles, decode_speed
from features.speed_value import speed_field
from infra.deadlines import Deadline
from infra.settings import Settings
from store.decoded import DecodedValues, Fields
from store.errors import CLIENT_ERRORS, reason_of
from store.keys import Buckets, batch_end_of, lost_until_of, meta_key, tiles_field, version_of
from store.protocol import ALWAYS_MS, NEVER_MS, Parts, Reading
from store.publishing import STREAM_FORMAT
from store.tiles import read_tiles
from store.wire import Command, HashReads, reading_client

#: Requests in one round trip: as many as are merged well within a deadline, for the next one is under way meanwhile.
_SHARED = 32
#: How often a read is made again because another version was published in between.
ATTEMPTS = 3
_FORMATS = {False: str(FORMAT).encode(), True: STREAM_FORMAT.encode()}
UNREADABLE = "a stored value cannot be read"
OTHER_VERSION = "the online store holds a version of the declaration that cannot be read any more"
OTHER_ARCHITECTURE = "what is published is of another architecture than BRAID_ARCHITECTURE"
LOST = "the online store has lost the entity's batch view"
LOST_TILES = "the online store has lost speed tiles of the entity"
LEFT = "the entity's batch view is older than the one that was published"

_NOTHING = Parts()

#: The groups that are asked for, each with its entities.
Wanted = Sequence[tuple[FeatureGroup, Sequence[int | str]]]


class ServedVersion(NamedTuple):
    """A version of a group that is served, and where the store has what a read asks for.

    Attributes:
        fingerprint: Of the version.
        group: Its declaration; the declared one where it cannot be read any more.
        meta: The command for what is published of the group.
        known: The keys of the entities that a publication knows, by bucket.
        fields: Of an entity: the batch view or the history, and the speed value.
    """

    fingerprint: bytes
    group: FeatureGroup
    meta: Command
    known: Sequence[str]
    fields: tuple[bytes, bytes]


class _State(NamedTuple):
    """A group as it is published: the served version, its batch_end, since when its tiles are complete, and what is wrong with all of it."""

    group: FeatureGroup
    end_ms: int | None
    since_ms: int
    faults: tuple[str, ...]


class Versions:
    """The version of each group that is served, as far as it is known; the keys that a read asks for depend on it.

    Args:
        buckets: How known entities are spread.
        kappa: Whether histories stand in the place of batch views.
    """

    def __init__(self, buckets: Buckets, kappa: bool = False) -> None:
        self.buckets, self.kappa = buckets, kappa
        self._fingerprints: dict[str, bytes] = {}
        self._known: dict[tuple[str, bytes], FeatureGroup] = {}
        self._served: dict[str, tuple[FeatureGroup, ServedVersion]] = {}
        self._states: dict[str, tuple[FeatureGroup, Any, _State]] = {}

    def served(self, declared: FeatureGroup) -> ServedVersion:
        """The version that was served last; before the first answer, the declared one."""
        known = self._served.get(declared.name)
        if known is None or known[0] is not declared:
            known = self._served[declared.name] = declared, self._served_of(declared)
        return known[1]

    def _served_of(self, declared: FeatureGroup) -> ServedVersion:
        fingerprint = self._fingerprints.get(declared.name, declared.fingerprint.encode())
        group = self._known.get((declared.name, fingerprint), declared)
        version, view_field = version_of(fingerprint.decode()), history_field if self.kappa else batch_field
        return ServedVersion(
            fingerprint,
            group,
            ("HMGET", meta_key(declared.name), "batch_end_ms", "fingerprint", "format", tiles_field(version)),
            self.buckets.known_keys(declared.name, version),
            (view_field(group.fingerprint), speed_field(group.fingerprint)),
        )

    def is_known(self, declared: FeatureGroup, fingerprint: bytes) -> bool:
        """Whether the declaration of a version is here."""
        return fingerprint == declared.fingerprint.encode() or (declared.name, fingerprint) in self._known

    def serve(self, declared: FeatureGroup, fingerprint: bytes | None, text: bytes | None = None) -> None:
        """From now on a version is served; its text is needed where it is not known."""
        served = fingerprint or declared.fingerprint.encode()
        if not self.is_known(declared, served):
            self._known[declared.name, served] = published_group(declared, served, text)
        self._fingerprints[declared.name] = served
        self._served.clear()
        self._states.clear()

    def state(self, declared: FeatureGroup, meta: Any) -> _State:
        """The state of a group by the answer to `ServedVersion.meta`, which is mostly the answer to the request before."""
        known = self._states.get(declared.name)
        if known is None or known[0] is not declared or known[1] != meta:
            known = self._states[declared.name] = declared, meta, self._state_of(declared, meta)
        return known[2]

    def _state_of(self, declared: FeatureGroup, meta: Any) -> _State:
        group = self.served(declared).group
        if isinstance(meta, Exception):
            return _State(group, None, ALWAYS_MS, (reason_of(meta),))
        batch_end, fingerprint, written, tiles = meta
        stream = read_tiles(tiles) if tiles else None
        since_ms = stream.merge_since_ms if stream else ALWAYS_MS
        if self.kappa and not (stream and stream.history == HISTORY_FORMAT):
            since_ms = NEVER_MS  # without a batch view, what no stream has read is missing
        if fingerprint is not None and (fingerprint != group.fingerprint.encode() or written not in _FORMATS.values()):
            return _State(group, None, since_ms, (OTHER_VERSION,))
        if fingerprint is not None and written != _FORMATS[self.kappa]:
            return _State(group, None, since_ms, (OTHER_ARCHITECTURE,))
        if self.kappa:
            return _State(group, EVER_MS, since_ms, ())
        return _State(group, None if batch_end is None else int(batch_end), since_ms, ())


class Query:
    """One read: its commands, and what their answers mean.

    Args:
        wanted: What is asked for.
        versions: Which versions are served.
    """

    def __init__(self, wanted: Wanted, versions: Versions) -> None:
        self._wanted, self._versions, self._buckets = wanted, versions, versions.buckets
        self._declared = {group.name: group for group, _ in wanted}

    def commands(self) -> list[Command]:
        """The commands, each of one key. Whether an entity is known is asked before its view, for it is written after it."""
        commands: list[Command] = [self._versions.served(declared).meta for declared in self._declared.values()]
        for declared, ids in self._wanted:
            served = self._versions.served(declared)
            for bucket, places in self._buckets.split(ids):
                commands.append(("HMGET", served.known[bucket], *[ids[at] for at in places]))
            commands.append(HashReads([declared.key(entity_id) for entity_id in ids], served.fields))
        return commands

    def changed(self, answers: Sequence[Any]) -> list[tuple[FeatureGroup, bytes | None]]:
        """The groups of which another version is served than was asked for, with its fingerprint; then ask again."""
        changed = []
        for index, declared in enumerate(self._declared.values()):
            meta = answers[index]
            if isinstance(meta, Exception):
                continue
            if (meta[1] or declared.fingerprint.encode()) != self._versions.served(declared).fingerprint:
                changed.append((declared, meta[1]))
        return changed

    def readings(self, answers: Sequence[Any]) -> list[Reading]:
        """What was read, in the order of what is wanted."""
        left = iter(answers)
        state = {name: self._versions.state(declared, next(left)) for name, declared in self._declared.items()}
        readings = []
        for declared, ids in self._wanted:
            group, end_ms, since_ms, faults = state[declared.name]
            began = time.perf_counter()
            stamps: list[Any] = [None] * len(ids)
            for _, places in self._buckets.split(ids):
                answer = next(left)
                for index, at in enumerate(places):
                    stamps[at] = answer if isinstance(answer, Exception) else answer[index]
            rows = zip(ids, islice(left, len(ids)), stamps, strict=True)
            parts = [parts_of(entity_id, values, group, stamp, end_ms, faults) for entity_id, values, stamp in rows]
            readings.append(Reading(parts, end_ms, group, since_ms, time.perf_counter() - began))
        return readings


def parts_of(
    entity_id: int | str,
    values: Sequence[bytes | None] | Exception,
    group: FeatureGroup,
    stamp: bytes | Exception | None = None,
    published_end_ms: int | None = None,
    group_faults: tuple[str, ...] = (),
) -> Parts:
    """What the store has of an entity, or what reading it has come to.

    Args:
        entity_id: The entity.
        values: The packed batch view or history, and the speed value, or the error that came instead.
        group: The version that is served.
        stamp: The stamp of the view that was published of the entity; None where no publication knows the entity.
        published_end_ms: The batch_end of what is published of the group; `EVER_MS` where histories stand in the place of batch views.
        group_faults: What is wrong with the whole group.
    """
    if isinstance(values, Exception):
        return Parts(faults=(reason_of(values), *group_faults))
    parts = (_with_histories if published_end_ms == EVER_MS else _with_views).value(values, group, entity_id)
    faults = group_faults
    if parts.batch is not None:
        if published_end_ms is not None and parts.batch.batch_end_ms < published_end_ms:
            faults = (*faults, LEFT)
        elif isinstance(stamp, bytes) and (lost_until_of(stamp) or EVER_MS) > parts.batch.batch_end_ms:
            faults = (*faults, LOST_TILES)
    elif isinstance(stamp, Exception):
        faults = (*faults, reason_of(stamp))
    # What a publication under way has just written is not missing yet.
    elif stamp and values[0] is None and published_end_ms is not None and batch_end_of(stamp) <= published_end_ms:
        faults = (*faults, LOST)
    return Parts(parts.batch, parts.tiles, (*parts.faults, *faults)) if faults else parts


def _decoded(
    decode_view: Callable[[bytes, FeatureGroup], BatchValue],
    fields: Fields,
    group: FeatureGroup,
    former: tuple[Fields, Parts] | None,
) -> Parts:
    """The parts in the view or history, and the speed value, of an entity. What its former fields had as well is taken over."""
    (view, speed), ((former_view, former_speed), known) = fields, former or ((None, None), _NOTHING)
    batch = known.batch if view == former_view else None
    tiles: Sequence[TileValue] = known.tiles if speed == former_speed else ()
    faults: tuple[str, ...] = ()
    try:
        if view is not None and batch is None:
            batch = decode_view(view, group)
    except PackedValueError:
        faults = (UNREADABLE,)
    try:
        if speed is not None and not tiles:
            tiles = decode_speed(
                speed, group, (former_speed, known.tiles) if former_speed and isinstance(known.tiles, SpeedTiles) else None
            )
    except PackedValueError:
        faults = (UNREADABLE,)
    return Parts(batch, tiles, faults)


_with_views = DecodedValues[Parts](partial(_decoded, lambda data, group: decode_batch(data, group.fingerprint)))
_with_histories = DecodedValues[Parts](partial(_decoded, decode_history))


class _Waiting(NamedTuple):
    wanted: Wanted
    readings: asyncio.Future[list[Reading]]


class OnlineStore:
    """Reads the online store within its deadline (`store.protocol.Reader`). A store that does not answer gives empty parts that say so.

    One round trip is under way at a time; requests that come meanwhile share the next. So a burst of callers costs few round trips
    and one connection, and a store that stalls costs each of them its deadline once.
    """

    def __init__(self, settings: Settings) -> None:
        self._client = reading_client(settings)
        self._deadline_seconds = settings.store_timeout_seconds
        self._versions = Versions(Buckets(settings.redis_cluster), settings.kappa)
        self._waiting: deque[_Waiting] = deque()
        self._flying = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        """Everything that is stored of the entities, as one consistent cut each."""
        [reading] = await self.read_all([(group, ids)])
        return reading

    async def read_all(self, wanted: Wanted) -> list[Reading]:
        """`read` of several groups, in one round trip."""
        mine = _Waiting(wanted, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if not self._flying:
            await self._fly()
        return await mine.readings

    async def _fly(self) -> None:
        """One round trip for those who wait, and after it the next for those who have come."""
        self._flying = True
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _SHARED))]
        try:
            with Deadline(self._deadline_seconds):
                readings = await self._round_trip([group_and_ids for waiting in taken for group_and_ids in waiting.wanted])
        except CLIENT_ERRORS as error:
            # Whoever came meanwhile has waited for the same silence.
            taken += self._waiting
            self._waiting.clear()
            faults = (reason_of(error),)
            wanted = [group_and_ids for waiting in taken for group_and_ids in waiting.wanted]
            readings = [Reading([Parts(faults=faults)] * len(ids), None, group) for group, ids in wanted]
        except Exception as error:  # noqa: BLE001  # a fault of ours: those who share the round trip must hear of it, too
            for waiting in taken:
                if not waiting.readings.done():
                    waiting.readings.set_exception(error)
            return
        finally:
            self._flying = bool(self._waiting)
            if self._flying:
                task = asyncio.create_task(self._fly())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        left = iter(readings)
        for waiting in taken:
            its = list(islice(left, len(waiting.wanted)))
            if not waiting.readings.done():  # its caller has gone
                waiting.readings.set_result(its)

    async def _round_trip(self, wanted: Wanted) -> list[Reading]:
        query = Query(wanted, self._versions)
        for attempt in range(1, ATTEMPTS + 1):
            answers = await self._client.replies(query.commands())
            changed = query.changed(answers)
            if not changed or attempt == ATTEMPTS:
                break
            for declared, fingerprint in changed:
                if fingerprint is None or self._versions.is_known(declared, fingerprint):
                    self._versions.serve(declared, fingerprint)
                else:
                    [version] = await self._client.replies([("HMGET", meta_key(declared.name), "fingerprint", "declaration")])
                    if isinstance(version, Exception):
                        raise version
                    self._versions.serve(declared, *version)
        return query.readings(answers)

    async def fault(self) -> str | None:
        """Why the store does not answer now; None where it does."""
        try:
            with Deadline(self._deadline_seconds):
                [reply] = await self._client.replies([("PING",)])
                return reason_of(reply) if isinstance(reply, Exception) else None
        except CLIENT_ERRORS as error:
            return reason_of(error)

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()
