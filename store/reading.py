"""Reading the online store: all values of the entities of a request in one round trip.

Returns the inputs of `features.merge` for the version of the group that was published last. An older declaration is served until the newer one is
published. Decoded values are cached (`store.decoded`). If values of an entity are missing, `Parts.faults` has the reason:

- `LOST`: the entity is known and has no view, so its view was lost. An entity that no publication knows is new, and its features are exact.
- `LEFT`: the view is older than the published one. The entity is no longer in the published view, or a failover has lost its latest view.
- `LOST_TILES`: the key was lost with its speed tiles, and the view was published again. Tiles may be missing until a view covers their time.
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

#: Requests per round trip. So many are merged well within a deadline, while the next round trip is under way.
_SHARED = 32
#: How often a read is attempted, because another version may be published in between.
ATTEMPTS = 3
_FORMATS = {False: str(FORMAT).encode(), True: STREAM_FORMAT.encode()}
UNREADABLE = "a stored value cannot be read"
OTHER_VERSION = "the online store holds a version of the declaration that cannot be read any more"
OTHER_ARCHITECTURE = "what is published is of another architecture than BRAID_ARCHITECTURE"
LOST = "the online store has lost the entity's batch view"
LOST_TILES = "the online store has lost speed tiles of the entity"
LEFT = "the entity's batch view is older than the one that was published"

_NOTHING = Parts()

#: The groups to read, each with the ids of its entities.
Wanted = Sequence[tuple[FeatureGroup, Sequence[int | str]]]


class ServedVersion(NamedTuple):
    """The served version of a group, with the keys and fields that a read needs.

    Attributes:
        fingerprint: The fingerprint of the version.
        group: The declaration of the version; the declared version if that declaration cannot be read.
        meta: The command that reads the published metadata of the group.
        known: The keys of the known entities, by bucket.
        fields: The fields of an entity: of its batch view or history, and of its speed value.
    """

    fingerprint: bytes
    group: FeatureGroup
    meta: Command
    known: Sequence[str]
    fields: tuple[bytes, bytes]


class _State(NamedTuple):
    """The state of a group according to its published metadata.

    Attributes:
        group: The served version.
        end_ms: As `Reading.batch_end_ms`.
        since_ms: As `Reading.complete_since_ms`.
        faults: The faults of every entity of the group.
    """

    group: FeatureGroup
    end_ms: int | None
    since_ms: int
    faults: tuple[str, ...]


class Versions:
    """The served version of each group, as the last read of the metadata reported it. The keys and fields of a read depend on it.

    Args:
        buckets: The buckets of the known entities.
        kappa: Whether entities have histories instead of batch views.
    """

    def __init__(self, buckets: Buckets, kappa: bool = False) -> None:
        self.buckets, self.kappa = buckets, kappa
        self._fingerprints: dict[str, bytes] = {}
        self._known: dict[tuple[str, bytes], FeatureGroup] = {}
        self._served: dict[str, tuple[FeatureGroup, ServedVersion]] = {}
        self._states: dict[str, tuple[FeatureGroup, Any, _State]] = {}

    def served(self, declared: FeatureGroup) -> ServedVersion:
        """Returns the version of a group that was served last; before the first read, the declared version."""
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
        """Returns whether the declaration of a version is loaded."""
        return fingerprint == declared.fingerprint.encode() or (declared.name, fingerprint) in self._known

    def serve(self, declared: FeatureGroup, fingerprint: bytes | None, text: bytes | None = None) -> None:
        """Sets the served version of a group.

        Args:
            declared: The declared version of the group.
            fingerprint: The fingerprint of the served version; None for the declared version.
            text: The declaration of the served version as JSON. Only a version that is not known needs it.
        """
        served = fingerprint or declared.fingerprint.encode()
        if not self.is_known(declared, served):
            self._known[declared.name, served] = published_group(declared, served, text)
        self._fingerprints[declared.name] = served
        self._served.clear()
        self._states.clear()

    def state(self, declared: FeatureGroup, meta: Any) -> _State:
        """Returns the state of a group, from the reply to `ServedVersion.meta`. Most replies equal the previous one, so the last state is cached."""
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
            since_ms = NEVER_MS  # without batch views, every event is missing that no stream has read
        if fingerprint is not None and (fingerprint != group.fingerprint.encode() or written not in _FORMATS.values()):
            return _State(group, None, since_ms, (OTHER_VERSION,))
        if fingerprint is not None and written != _FORMATS[self.kappa]:
            return _State(group, None, since_ms, (OTHER_ARCHITECTURE,))
        if self.kappa:
            return _State(group, EVER_MS, since_ms, ())
        return _State(group, None if batch_end is None else int(batch_end), since_ms, ())


def unread(group: FeatureGroup, entities: int, fault: str) -> Reading:
    """Returns the reading of a store that has not answered: each entity has the fault alone."""
    return Reading([Parts(faults=(fault,))] * entities, None, group, published_known=False)


class Query:
    """One read: builds its commands and interprets their replies.

    Args:
        wanted: The groups to read, each with the ids of its entities.
        versions: The served versions of the groups.
    """

    def __init__(self, wanted: Wanted, versions: Versions) -> None:
        self._wanted, self._versions, self._buckets = wanted, versions, versions.buckets
        self._declared = {group.name: group for group, _ in wanted}

    def commands(self) -> list[Command]:
        """Returns the commands. Each command of a `HashReads`, and every other command, has one key.

        The record that an entity is known is read before the view, because a publication writes that record after the view.
        """
        commands: list[Command] = [self._versions.served(declared).meta for declared in self._declared.values()]
        for declared, ids in self._wanted:
            served = self._versions.served(declared)
            for bucket, places in self._buckets.split(ids):
                commands.append(("HMGET", served.known[bucket], *[ids[at] for at in places]))
            commands.append(HashReads([declared.key(entity_id) for entity_id in ids], served.fields))
        return commands

    def changed(self, answers: Sequence[Any]) -> list[tuple[FeatureGroup, bytes | None]]:
        """Returns the groups whose served version differs from the version that was read, with the served fingerprint. They have to be read again."""
        changed = []
        for index, declared in enumerate(self._declared.values()):
            meta = answers[index]
            if isinstance(meta, Exception):
                continue
            if (meta[1] or declared.fingerprint.encode()) != self._versions.served(declared).fingerprint:
                changed.append((declared, meta[1]))
        return changed

    def readings(self, answers: Sequence[Any]) -> list[Reading]:
        """Returns the readings, in the order of the wanted groups."""
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
            readings.append(Reading(parts, end_ms, group, since_ms, time.perf_counter() - began, published_known=not faults))
        return readings


def parts_of(
    entity_id: int | str,
    values: Sequence[bytes | None] | Exception,
    group: FeatureGroup,
    stamp: bytes | Exception | None = None,
    published_end_ms: int | None = None,
    group_faults: tuple[str, ...] = (),
) -> Parts:
    """Returns the decoded values of an entity, with the reasons why values may be missing.

    Args:
        entity_id: The id of the entity.
        values: The packed batch view or history, and the speed value, each None if it does not exist; or the error of the read.
        group: The served version.
        stamp: The stamp of the known entity, or the error of its read; None if no publication knows the entity.
        published_end_ms: As `Reading.batch_end_ms`.
        group_faults: The faults of every entity of the group.
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
    # A stamp later than the published view is that of a publication under way, whose values do not count as lost yet.
    elif stamp and values[0] is None and published_end_ms is not None and batch_end_of(stamp) <= published_end_ms:
        faults = (*faults, LOST)
    return Parts(parts.batch, parts.tiles, (*parts.faults, *faults)) if faults else parts


def _decoded(
    decode_view: Callable[[bytes, FeatureGroup], BatchValue],
    fields: Fields,
    group: FeatureGroup,
    former: tuple[Fields, Parts] | None,
) -> Parts:
    """Decodes the batch view or history, and the speed value, of an entity. Values whose bytes have not changed are taken from `former`."""
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
    """Reads the online store within a deadline (`store.protocol.Reader`). If the store does not answer, the parts are empty and have the reason.

    One round trip is under way at a time. Requests that arrive meanwhile share the next round trip. So a burst of callers costs few round trips and
    one connection, and a store that stalls costs each caller the deadline once.

    Args:
        settings: The settings with the URL of the store and its deadline.
    """

    def __init__(self, settings: Settings) -> None:
        self._client = reading_client(settings)
        self._deadline_seconds = settings.store_timeout_seconds
        self._versions = Versions(Buckets(settings.redis_cluster), settings.kappa)
        self._waiting: deque[_Waiting] = deque()
        self._flying = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        """Returns the stored values of entities of one group. The values of each entity are one consistent cut."""
        [reading] = await self.read_all([(group, ids)])
        return reading

    async def read_all(self, wanted: Wanted) -> list[Reading]:
        """Returns the stored values of entities of several groups, read in one round trip."""
        mine = _Waiting(wanted, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if not self._flying:
            await self._fly()
        return await mine.readings

    async def _fly(self) -> None:
        """Makes one round trip for the waiting requests. Then starts the next one for the requests that arrived meanwhile, if there are any."""
        self._flying = True
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _SHARED))]
        try:
            with Deadline(self._deadline_seconds):
                readings = await self._round_trip([group_and_ids for waiting in taken for group_and_ids in waiting.wanted])
        except CLIENT_ERRORS as error:
            # The requests that arrived meanwhile have waited for the same server.
            taken += self._waiting
            self._waiting.clear()
            wanted = [group_and_ids for waiting in taken for group_and_ids in waiting.wanted]
            readings = [unread(group, len(ids), reason_of(error)) for group, ids in wanted]
        except Exception as error:  # noqa: BLE001  # a fault of braid: every request of the round trip has to raise it
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
            if not waiting.readings.done():  # done: its caller was cancelled
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
        """Returns why the store does not answer now; None if it answers."""
        try:
            with Deadline(self._deadline_seconds):
                [reply] = await self._client.replies([("PING",)])
                return reason_of(reply) if isinstance(reply, Exception) else None
        except CLIENT_ERRORS as error:
            return reason_of(error)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()
