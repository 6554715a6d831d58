"""The interfaces of the online store: `Store` (blocking) and `Reader` (asyncio), with the types of their arguments and results.

`store.server.RedisStore` implements `Store`, and `store.reading.OnlineStore` implements `Reader`. Another store has to pass `tests/store`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from features.declaration import FeatureGroup
from features.declaration.versions import published_group
from features.packed import BatchValue, TileValue

ALWAYS_MS, NEVER_MS = -(2**63), 2**63 - 1


class View(NamedTuple):
    """A batch view to be published.

    Attributes:
        batch_end_ms: The time up to which the view covers every event.
        built_at_ms: The time at which the view was built. Of two views with one batch_end the one that was built later counts.
        served: The fingerprint of the version that was served when the publication began; None if none was.
    """

    batch_end_ms: int
    built_at_ms: int
    served: str | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """The published metadata of a group.

    Attributes:
        batch_end_ms: The batch_end of the published view; in Kappa the newest event of the histories that were made from the lake.
        fingerprint: The version that was published.
        declaration: The declaration of that version, as JSON (`features.declaration.versions.group_text`).
        published_at_ms: The time of the publication.
        newest_event_ms: The newest event of the view; None if the view has no event, and in Kappa.
        entities: The number of entities that were published.
        architecture: The architecture of the deployment that published the version, `lambda` or `kappa`.
        token: In Kappa the stream of tiles that is served; None in Lambda.
    """

    batch_end_ms: int
    fingerprint: str
    declaration: bytes | None = None
    published_at_ms: int = 0
    newest_event_ms: int | None = None
    entities: int = 0
    architecture: str = "lambda"
    token: str | None = None

    def is_stream(self, group: FeatureGroup, tiles: Tiles) -> bool:
        """Returns whether this is the version `group`, served from the histories of the stream `tiles` (`Store.serve_stream`)."""
        return (self.fingerprint, self.architecture, self.token) == (group.fingerprint, "kappa", tiles.token)


@dataclass(frozen=True, slots=True)
class Tiles:
    """The stream of tiles of a version of a group.

    Attributes:
        token: The name of the stream. A stream with a new token is read from the first message that Kafka holds.
        complete_since_ms: Once the stream has caught up, every event from this time on is in a tile; None if every event of the topic is.
        whole: Whether the stream has caught up with the messages that Kafka held when the token was made.
        topic_id: The identity of the topic that the stream reads.
        history: The format of the histories that the stream keeps (`features.history`); 0 if it keeps none.
        begins: Partition → the offset of the first message that the stream counts. The first histories contain the events of earlier messages.
            None if the stream counts all messages, and while its first histories are being made.
        as_of_ms: The newest event of the first histories; 0 if they have none.
        entities: The number of entities of the first histories.
    """

    token: str
    complete_since_ms: int | None = None
    whole: bool = True
    topic_id: str = ""
    history: int = 0
    begins: Mapping[int, int] | None = None
    as_of_ms: int = 0
    entities: int = 0

    @property
    def merge_since_ms(self) -> int:
        """`complete_since_ms` as an argument of the merge: `NEVER_MS` until the tiles are whole, `ALWAYS_MS` if every event is in a tile."""
        if not self.whole:
            return NEVER_MS
        return ALWAYS_MS if self.complete_since_ms is None else self.complete_since_ms


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of a task: it has written all its tiles of the micro-batch `batch_id` into the stream of tiles `token`."""

    token: str
    task: int
    batch_id: int


@dataclass(frozen=True, slots=True)
class Folded:
    """The events that are in the tiles and the history of entities.

    Attributes:
        token: The stream of tiles.
        offsets: Entity → partition → the offset before which the events of the entity are in its tiles or its history.
        fresh: The entities whose stored tiles and history belong to another stream, so that the store has to discard them.
    """

    token: str
    offsets: Mapping[int | str, Mapping[int, int]]
    fresh: Collection[int | str] = ()


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of events, as arrays of one length.

    Attributes:
        event: The hash of the event's id.
        arrival_ms: The time at which the message arrived.
        partition: The partition of the message.
        offset: The offset of the message.
    """

    event: npt.NDArray[np.int64]
    arrival_ms: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]


class OpenTiles(msgspec.Struct, frozen=True, gc=False):
    """The stored tiles and history of an entity, into which its next events are folded.

    Attributes:
        offsets: Partition → the offset before which the events of the entity are in its tiles or its history.
        tiles: Start in ms → packed tile (`features.speed_value`).
        history: The packed history (`features.history`); None if it was not requested, is not needed, or does not exist.
        of_another: Whether the stored values belong to another stream, which may have the same events. Then `offsets`, `tiles` and `history` are
            empty.
        folded: The stored record of what is folded, by which `Store.put_all_tiles` notices that another task has written meanwhile.
        value: The stored tiles, which are then not read a second time; None for a long value, which is not kept in memory.
    """

    offsets: Mapping[int, int]
    tiles: Mapping[int, bytes]
    history: bytes | None = None
    of_another: bool = False
    folded: bytes = b""
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """A request for the open tiles of entities of a group.

    Attributes:
        group: The version of the group.
        token: The stream of tiles.
        first_ms: Entity → the start of its first tile that is read.
        closed_ms: In an architecture with histories, the time before which tiles are closed. Closed tiles are read as well. None in any other
            architecture.
    """

    group: FeatureGroup
    token: str
    first_ms: Mapping[int | str, int]
    closed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Writing:
    """The tiles of one group to be written, with the arguments of `Store.put_tiles`.

    Attributes:
        opened: Entity → its open tiles, from which the new ones were made; None for an entity without. An entity that is not in it is read first.
    """

    group: FeatureGroup
    tiles: Sequence[tuple[int | str, int, bytes]]
    ttl_seconds: int
    mark: Mark | None = None
    folded: Folded | None = None
    histories: Mapping[int | str, bytes] | None = None
    opened: Mapping[int | str, OpenTiles | None] = field(default_factory=dict)


class Parts(msgspec.Struct, frozen=True, gc=False):
    """The values of one entity in the store, as inputs of `features.merge`.

    Attributes:
        batch: The batch view, or in Kappa the history; None if the entity has none.
        tiles: The speed tiles.
        faults: Why values may be missing or outdated, one reason each.
    """

    batch: BatchValue | None = None
    tiles: Sequence[TileValue] = ()
    faults: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the store has a value of the entity, from either layer."""
        return self.batch is not None or bool(self.tiles)


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one read of a group.

    Attributes:
        parts: The values of each entity, in the order of the ids.
        batch_end_ms: The batch_end of the published view; `features.merge.EVER_MS` in Kappa. None if nothing is published in Lambda, or if
            the published metadata or the published values cannot be used.
        group: The version to which the parts belong.
        complete_since_ms: The time since which no event is missing in the group's tiles. `ALWAYS_MS` if no event is missing, or if no stream writes
            tiles in Lambda. `NEVER_MS` while the stream is read again, or if no stream keeps histories in Kappa.
        decode_seconds: How long it took to decode the parts.
        published_known: Whether the store has told what is published of the group. Where it has not, `batch_end_ms` is None, and the faults of each
            part say why.
    """

    parts: list[Parts]
    batch_end_ms: int | None
    group: FeatureGroup
    complete_since_ms: int = ALWAYS_MS
    decode_seconds: float = field(default=0.0, compare=False)
    published_known: bool = True


class Store(Protocol):
    """The online store as batch, speed, monitoring and orchestration use it. Every method blocks.

    Raises:
        StoreError: The store does not answer, or refuses a command. Every method may raise it.
    """

    def check(self) -> None:
        """Returns as soon as the store has answered."""

    def generation(self) -> str:
        """Returns the name of the store's content, and makes it if there is none. The store keeps the name until it loses its content."""

    # The batch layer
    def published(self, group: str) -> Published | None:
        """Returns the published metadata of a group; None if nothing was published."""

    def begin_publication(self, group: FeatureGroup, view: View) -> View:
        """Begins to publish a view. Returns the view as an argument of `put_views` and `end_publication`.

        Raises:
            NotReadyError: The store has a later view of the version.
        """

    def put_views(self, group: FeatureGroup, view: View, ids: Sequence[int | str], values: Sequence[bytes]) -> None:
        """Writes packed batch values of entities, and removes the tiles that they cover. A value never replaces a newer one."""

    def end_publication(self, group: FeatureGroup, view: View, entities: int, newest_event_ms: int | None) -> int:
        """Removes the entities that are no longer in the view, then records the view as published. Returns the number of removed entities.

        Raises:
            NotReadyError: A later view, or another version, was published meanwhile. The values that this publication wrote do no harm.
        """

    def drop(self, group: FeatureGroup, ids: Sequence[int | str]) -> int:
        """Removes all values of entities, of every version. Returns the number of entities that the store had."""

    def ids_of_part(self, group: FeatureGroup, column: str, value: int | str) -> list[int | str]:
        """Returns the ids of a group's entities whose `column` has a value, of every version and layer. The method scans all keys of the store."""

    # The speed layer
    def put_tiles(
        self,
        group: FeatureGroup,
        tiles: Sequence[tuple[int | str, int, bytes]],
        ttl_seconds: int,
        mark: Mark | None = None,
        folded: Folded | None = None,
        histories: Mapping[int | str, bytes] | None = None,
    ) -> None:
        """Writes tiles, and the mark after all tiles. The values of one entity are written in one step.

        Args:
            group: The version of the group.
            tiles: The tiles: entity, start in ms, packed value.
            ttl_seconds: How long a tile is kept after its last write. With `histories`, tiles do not expire.
            mark: The mark of the task that writes the tiles; None for no mark.
            folded: The offsets of the events in the tiles and histories.
            histories: Entity → its packed history, which does not expire. The step that writes it removes the tiles that it contains. None in an
                architecture without histories.
        """

    def put_all_tiles(self, writings: Sequence[Writing]) -> None:
        """Writes the tiles of several groups as `put_tiles` does: all tiles in shared round trips, then all marks in another one.

        If another task has written an entity since `Writing.opened` was read, and its tiles have all events of the writing, they stay as they are.
        """

    def first_copies(self, memory: str, batch: bytes, messages: Messages, remember_ms: int) -> npt.NDArray[np.bool_]:
        """Returns per message whether it is the first of its event among the messages that the store has seen, and remembers the event.

        Args:
            memory: The name of the memory.
            batch: A name of 4 bytes for the micro-batch. Of copies within one micro-batch the first to arrive counts; of copies in several
                micro-batches the one in the first micro-batch counts.
            messages: The messages in any order. In the order of their arrival, the fewest of them become `later_copies`.
            remember_ms: The shortest time, in ms, for which an event is remembered after the arrival of its message.
        """

    def later_copies(self, memory: str, batch: bytes) -> set[tuple[int, int]]:
        """Returns the places (partition, offset) of a micro-batch's messages that counted as the first until an earlier message replaced them."""

    def high_water(self, query: str, before: int) -> int | None:
        """Returns the highest time of an event, in ms, in the micro-batches of a query before the micro-batch `before`; None if none is recorded."""

    def raise_high_water(self, query: str, batch_id: int, ts_ms: int) -> None:
        """Records a time of an event in a micro-batch, if it is the highest of the micro-batch."""

    def open_tiles(self, openings: Sequence[Opening]) -> list[list[OpenTiles | None]]:
        """Returns per opening the open tiles of its entities, in the order of `first_ms`; None for an entity of which the stream has folded no event.

        The open tiles are the tiles that start at or after `first_ms` of the entity. With `closed_ms`, the tiles that start before it are returned as
        well, and the history if there are such tiles or if `first_ms` lies before the end of the history. All groups share their round trips.
        """

    def serve_stream(self, group: FeatureGroup, as_of_ms: int, entities: int, token: str | None = None) -> None:
        """Serves a version from its stream of tiles and histories alone, without batch views.

        The values of all versions except this one and the one that was served before are removed.

        Args:
            group: The version.
            as_of_ms: The newest event of the histories that were made from the lake.
            entities: The number of entities of these histories.
            token: The stream of tiles. The values of the version that another stream has written are removed.
        """

    def tiles(self, group: str) -> dict[str, Tiles]:
        """Returns the streams of tiles of a group: version (`store.keys.version_of`) → its stream."""

    def set_tiles(self, group: FeatureGroup, tiles: Tiles) -> None:
        """Writes the stream of tiles of a version."""

    def has_tiles_of(self, token: str, tasks: int, batch_id: int) -> bool:
        """Returns whether the store still has all tiles that the tasks of a stream wrote up to the committed micro-batch `batch_id`."""

    def progress(self) -> dict[str, dict[str, Any]]:
        """Returns the progress of all queries: name of a streaming query → its entry (`speed.progress`)."""

    def set_progress(self, entries: Mapping[str, Mapping[str, Any]], over: Sequence[str] = ()) -> None:
        """Writes the progress of queries, and removes the entries that `over` names."""

    # All rooms
    def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        """Returns the stored values of entities, of the published version."""

    def holds(self, group: FeatureGroup, ids: Sequence[int | str]) -> int:
        """Returns the number of entities of which the store has any value, of any version."""

    def evicting_policies(self) -> set[str]:
        """Returns the policies by which servers drop keys when their memory is full; empty if no server drops keys.

        A server without a bound on its memory drops no key, whatever its policy.
        """

    def size_bytes(self) -> int:
        """Returns the memory of the store's content, in bytes; of a cluster the sum over all primaries."""

    def notes(self, kind: str) -> dict[str, dict[str, Any]]:
        """Returns the notes of a kind: key → value."""

    def note(self, kind: str, key: str, value: Mapping[str, Any] | None) -> None:
        """Writes a note of a kind; the value None removes it."""


class Reader(Protocol):
    """The online store as a request uses it: asyncio, within a deadline.

    A value that cannot be read raises no error. `Parts.faults` has the reason.
    """

    async def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        """Returns the stored values of entities of one group."""

    async def read_all(self, wanted: Sequence[tuple[FeatureGroup, Sequence[int | str]]]) -> list[Reading]:
        """Returns the stored values of entities of several groups, read in one round trip."""

    async def fault(self) -> str | None:
        """Returns why the store does not answer now; None if it answers."""

    async def close(self) -> None:
        """Closes the connections."""


def published_version(store: Store, declared: FeatureGroup) -> FeatureGroup:
    """Returns the version of a group that is served. It is `declared` if nothing is published, or if the published declaration cannot be read."""
    published = store.published(declared.name)
    return published_group(declared, published.fingerprint.encode(), published.declaration) if published else declared
