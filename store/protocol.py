"""What the rooms ask of an online store.

`store.server.RedisStore` and `store.reading.OnlineStore` answer it; another store would have to pass `tests/store`.
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
        batch_end_ms: As of when it is.
        built_at_ms: When it was built: of two views of one batch_end the later one counts.
        served: The fingerprint that was served when its publication began, or None.
    """

    batch_end_ms: int
    built_at_ms: int
    served: str | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What was published of a group last: as of when, which version (its fingerprint and its text), when, and of how many entities.

    `architecture` is that of the deployment that published it, by the name of the setting; `token` is the stream of tiles that is served, in Kappa.
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
        """Whether this is a version of a group, served from the histories of its stream of tiles (`Store.serve_stream`)."""
        return (self.fingerprint, self.architecture, self.token) == (group.fingerprint, "kappa", tiles.token)


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of a version of a group.

    Attributes:
        token: The name of this stream of tiles. Another one is read from the first message that Kafka holds.
        complete_since_ms: Every event of the stream from then on is in a tile, once the stream has caught up; None where all are.
        whole: Whether the stream has caught up with what Kafka held when the token was made.
        topic_id: The identity of the topic that is read.
        history: The format of the histories that the stream keeps (`features.history`); 0 where it keeps none.
        begins: Partition → the offset of the first message that the stream counts, for the histories began with all before; None where it counts all,
            and while the histories are being made.
        as_of_ms: The time of the newest event that the histories began with; 0 for none.
        entities: How many entities the histories began with.
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
        """`complete_since_ms` as a merge takes it: a time that never comes until the tiles are whole."""
        if not self.whole:
            return NEVER_MS
        return ALWAYS_MS if self.complete_since_ms is None else self.complete_since_ms


@dataclass(frozen=True, slots=True)
class Mark:
    """Which tiles a task has written: all of its micro-batch's, in the stream of tiles `token`."""

    token: str
    task: int
    batch_id: int


@dataclass(frozen=True, slots=True)
class Folded:
    """Which events are in the tiles of entities: in the stream of tiles `token`, per entity and partition those before an offset.

    `fresh` names the entities of which nothing that the store has counts any more, because it is of another stream.
    """

    token: str
    offsets: Mapping[int | str, Mapping[int, int]]
    fresh: Collection[int | str] = ()


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of events: arrays of int64 of one length.

    Attributes:
        event: The hash of the event's id.
        arrival_ms: When the message arrived.
        partition: Where it is.
        offset: Where it is.
    """

    event: npt.NDArray[np.int64]
    arrival_ms: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]


class OpenTiles(msgspec.Struct, frozen=True, gc=False):
    """What the next events of an entity are folded into.

    Attributes:
        offsets: Per partition the offset of the first event that is in no tile yet.
        tiles: By their starts, packed (`features.speed_value`).
        history: The packed history (`features.history`), where it was asked for and is needed.
        of_another: Whether what is there is of another stream, which may have the same events; then nothing of it is given.
    """

    offsets: Mapping[int, int]
    tiles: Mapping[int, bytes]
    history: bytes | None = None
    of_another: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """Whose open tiles are read: of the entities of a group, in the stream of tiles `token`, from a start per entity on."""

    group: FeatureGroup
    token: str
    first_ms: Mapping[int | str, int]
    closed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Writing:
    """What is written of a group: the arguments of `Store.put_tiles`."""

    group: FeatureGroup
    tiles: Sequence[tuple[int | str, int, bytes]]
    ttl_seconds: int
    mark: Mark | None = None
    folded: Folded | None = None
    histories: Mapping[int | str, bytes] | None = None


class Parts(msgspec.Struct, frozen=True, gc=False):
    """What the store knows of one entity; `faults` says why that may not be all."""

    batch: BatchValue | None = None
    tiles: Sequence[TileValue] = ()
    faults: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether either layer has ever seen the entity."""
        return self.batch is not None or bool(self.tiles)


@dataclass(frozen=True, slots=True)
class Reading:
    """One read of a group.

    Attributes:
        parts: What the store has of each entity, in the order of the ids.
        batch_end_ms: The group's batch_end; None where nothing is published.
        group: The version that the parts are of.
        complete_since_ms: Since when no event is missing in the group's tiles: `ALWAYS_MS` where none is or no stream writes tiles, `NEVER_MS`
            while the stream is read again.
        decode_seconds: How long it took to decode the parts.
    """

    parts: list[Parts]
    batch_end_ms: int | None
    group: FeatureGroup
    complete_since_ms: int = ALWAYS_MS
    decode_seconds: float = field(default=0.0, compare=False)


class Store(Protocol):
    """The online store as batch, speed, monitoring and orchestration use it. Every method blocks.

    Raises:
        StoreError: The store does not answer, or refuses; of every method.
    """

    def check(self) -> None:
        """Returns when the store has answered."""

    def generation(self) -> str:
        """The name of the store's content, kept for as long as it keeps anything; given now where there is none."""

    # The batch layer
    def published(self, group: str) -> Published | None:
        """What was published of a group last; None where nothing was."""

    def begin_publication(self, group: FeatureGroup, view: View) -> View:
        """Begins to publish a view; gives what `put_views` and `end_publication` take.

        Raises:
            NotReadyError: The store has a later view of the version.
        """

    def put_views(self, group: FeatureGroup, view: View, ids: Sequence[int | str], values: Sequence[bytes]) -> None:
        """Puts packed batch values of entities, none over a newer one, and drops the tiles that they cover."""

    def end_publication(self, group: FeatureGroup, view: View, entities: int, newest_event_ms: int | None) -> int:
        """Removes what has left the view, then says that the view is published; gives how many entities were removed.

        Raises:
            NotReadyError: A later view, or another version, was published meanwhile; what this one put does no harm.
        """

    def drop(self, group: FeatureGroup, ids: Sequence[int | str]) -> int:
        """Removes all that the store has of entities; gives how many were there."""

    def ids_of_part(self, group: FeatureGroup, column: str, value: int | str) -> list[int | str]:
        """The ids of the entities of a group of which a column has a value, of whatever version and layer. It looks at each key of the store."""

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
        """Puts tiles (entity, start, packed value), in one step with which events are in those of the entity; after all tiles the mark.

        With `histories`, tiles and histories do not expire, and an entity's history is put in the same step, which removes the tiles that it has.
        """

    def put_all_tiles(self, writings: Sequence[Writing]) -> None:
        """`put_tiles` of several groups in one round trip, and all of their marks behind the tiles in another."""

    def first_copies(self, memory: str, batch: bytes, messages: Messages, remember_ms: int) -> npt.NDArray[np.bool_]:
        """Per message whether it is the first of its event that arrived, as far as the store has seen; the store then knows it.

        Args:
            memory: The name of the memory.
            batch: A name of 4 bytes for the micro-batch. Of copies in one micro-batch the first to arrive counts, of those in several the first micro-batch has it.
            messages: In any order; the fewest have to give way later where they are in that of their arrival.
            remember_ms: A copy is recognized that arrives so much later, at least.
        """

    def later_copies(self, memory: str, batch: bytes) -> set[tuple[int, int]]:
        """The partition and offset of messages of a micro-batch that were taken for the first, until one came that had arrived earlier."""

    def high_water(self, query: str, before: int) -> int | None:
        """The highest time of an event, in ms, that was noted of micro-batches of a query before a micro-batch; None where none was."""

    def raise_high_water(self, query: str, batch_id: int, ts_ms: int) -> None:
        """Notes a time of an event in a micro-batch, if it is the highest."""

    def open_tiles(self, openings: Sequence[Opening]) -> list[list[OpenTiles | None]]:
        """What the streams of tiles of groups have folded of entities, each with its tiles from a start on; None where one has folded nothing.

        All groups are read in one round trip. With `closed_ms`, of an architecture with histories, also the tiles that begin before it; and the history,
        where there are such tiles or where the start lies before the end of the history.
        """

    def serve_stream(self, group: FeatureGroup, as_of_ms: int, entities: int, token: str | None = None) -> None:
        """From now on a version is served from its stream of tiles and histories alone, without batch views; older versions are removed.

        Args:
            group: The version.
            as_of_ms: Up to when the histories were made from the lake.
            entities: Of how many entities they were made.
            token: The stream of tiles; what another one has written of the version is removed.
        """

    def tiles(self, group: str) -> dict[str, Tiles]:
        """Fingerprint's beginning (`store.keys.version_of`) → the stream of tiles of that version."""

    def set_tiles(self, group: FeatureGroup, tiles: Tiles) -> None:
        """Says since when the tiles of a version are complete."""

    def has_tiles_of(self, token: str, tasks: int, batch_id: int) -> bool:
        """Whether the store still has all tiles that the tasks of a stream wrote, up to a committed micro-batch."""

    def progress(self) -> dict[str, dict[str, Any]]:
        """Streaming query → how far it is."""

    def set_progress(self, entries: Mapping[str, Mapping[str, Any]], over: Sequence[str] = ()) -> None:
        """Writes the progress of queries, and removes that of those that are over."""

    # Everybody
    def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        """What is stored of entities, of the version that is published."""

    def holds(self, group: FeatureGroup, ids: Sequence[int | str]) -> int:
        """Of how many entities the store has anything, of whatever version."""

    def evicting_policies(self) -> set[str]:
        """The policies by which a server drops keys when its memory is full; empty where none does.

        A server without a bound on its memory drops nothing, whatever its policy.
        """

    def size_bytes(self) -> int:
        """The memory of the store's content, in bytes, of all primaries of a cluster."""

    def notes(self, kind: str) -> dict[str, dict[str, Any]]:
        """What was noted, by key."""

    def note(self, kind: str, key: str, value: Mapping[str, Any] | None) -> None:
        """Notes a value; None removes it."""


class Reader(Protocol):
    """The online store as a request uses it: asyncio, within a deadline. What cannot be read gives parts that say so, never an error."""

    async def read(self, group: FeatureGroup, ids: Sequence[int | str]) -> Reading:
        """What is stored of entities of one group."""

    async def read_all(self, wanted: Sequence[tuple[FeatureGroup, Sequence[int | str]]]) -> list[Reading]:
        """What is stored of entities of several groups, in one round trip."""

    async def fault(self) -> str | None:
        """Why the store does not answer now; None where it does."""

    async def close(self) -> None:
        """Ends the connections."""


def published_version(store: Store, declared: FeatureGroup) -> FeatureGroup:
    """The version of a group that is served; the declared one where nothing is published, or what is cannot be read any more."""
    published = store.published(declared.name)
    return published_group(declared, published.fingerprint.encode(), published.declaration) if published else declared
