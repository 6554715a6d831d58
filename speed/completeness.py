"""The completeness of the tiles in the online store: since when no event is missing, and whether the store still has all tiles.

Reads what Kafka holds, the progress and the store; writes the stream of tiles of each version of a group (`store.protocol.Tiles`).

The checkpoint of the query that writes the tiles records the token of each stream. A new token means that the stream is read again from the first
message that Kafka holds. Until the stream has caught up, its tiles are not whole. The tokens are lost with the store's content. This module makes a
new token if the store has lost acknowledged tiles, and if a topic was made anew. `complete_since_ms` covers the messages that Kafka no longer held
when the query started: if batch_end lies before it, events may be missing.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from features.declaration import FeatureGroup
from infra.kafka import Held
from store.keys import version_of
from store.protocol import Store, Tiles


def judge(
    known: Tiles | None,
    topic_id: str,
    offsets: Mapping[int, int],
    held: Mapping[int, Held],
    now_ms: int,
    slack_ms: int,
    history: int = 0,
) -> Tiles:
    """Returns the stream of tiles with which a query goes on, or a new one.

    Args:
        known: The stream in the store; None if there is none.
        topic_id: The present identity of the topic.
        offsets: Partition → the offset at which the query goes on; 0 for a partition that is not in it.
        held: Partition → the range of messages that Kafka holds.
        now_ms: The time, in ms.
        slack_ms: How far the time of an event may lie after the arrival of its message, in ms.
        history: The format of the histories that the stream keeps; 0 if it keeps none. A new stream with histories is returned without a search for
            gaps, because its histories have to be made first.
    """
    # The brokers have lost the messages before an offset that lies beyond the end of the partition.
    made_anew = known is not None and (
        known.topic_id != topic_id
        or any(offset > held[partition].end for partition, offset in offsets.items() if partition in held)
    )
    if known is None or made_anew:
        # Nothing is known of the messages of the deleted topic.
        since_ms = now_ms + slack_ms if made_anew else None
        known, offsets = (
            Tiles(
                new_token(),
                since_ms,
                not history and all(partition_held.earliest == partition_held.end for partition_held in held.values()),
                topic_id,
                history,
            ),
            {},
        )
    if history and known.begins is None:
        return known
    return with_gaps(known, offsets, held, now_ms, slack_ms)


def with_gaps(tiles: Tiles, offsets: Mapping[int, int], held: Mapping[int, Held], now_ms: int, slack_ms: int) -> Tiles:
    """Returns the stream of tiles that goes on at `offsets`, with its `complete_since_ms`.

    If Kafka has deleted messages that the stream needs, the stream is complete since the first message that Kafka holds. The messages before
    `tiles.begins` are in the histories. The other arguments are those of `judge`.
    """
    since_ms, begins = tiles.complete_since_ms, tiles.begins or {}
    for partition, partition_held in held.items():
        if offsets.get(partition, begins.get(partition, 0)) < partition_held.earliest:
            first_ms = (now_ms if partition_held.first_ms is None else partition_held.first_ms) + slack_ms
            since_ms = first_ms if since_ms is None else max(since_ms, first_ms)
    return replace(tiles, complete_since_ms=since_ms)


def new_token() -> str:
    """Returns a new name for a stream of tiles."""
    return uuid.uuid4().hex[:12]


@dataclass
class TileStream:
    """The state of one stream of tiles in the process that writes the tiles.

    Attributes:
        group: The version of the group.
        tiles: The stream, as in the store.
        ends: Partition → the end of the topic when the process started. The stream has caught up when it has reached all of these offsets.
        tasks: The number of tasks that write the tiles. Each of them leaves marks.
    """

    group: FeatureGroup
    tiles: Tiles
    ends: dict[int, int] = field(default_factory=dict)
    tasks: int = 1

    def follow(self, store: Store, entry: Mapping[str, Any], committed: int | None, expired_ms: int | None = None) -> str | None:
        """Records that the tiles are whole as soon as the stream has caught up and which may have expired; checks that the store still has them.

        Args:
            store: The online store.
            entry: The progress of the query (`speed.progress`).
            committed: The number of the last committed micro-batch; None before the first.
            expired_ms: The event time before which tiles may have expired (`speed.expiry`), in ms; None if none may have.

        Returns:
            The beginning of a sentence that explains why the stream has to be read again; None if it need not.
        """
        named = store.tiles(self.group.name).get(version_of(self.group.fingerprint))
        if named is None or named.token != self.tiles.token:
            return "New histories were asked for" if named and named.history else "The online store has lost what it held"
        # The writer may have moved this time, because of a message that the engine could not decide.
        self.tiles = replace(self.tiles, complete_since_ms=named.complete_since_ms)
        if expired_ms is not None and (named.complete_since_ms is None or named.complete_since_ms < expired_ms):
            self.tiles = replace(self.tiles, complete_since_ms=expired_ms)
            store.set_tiles(self.group, self.tiles)
        if committed is not None and not store.has_tiles_of(self.tiles.token, self.tasks, committed):
            self.tiles = replace(self.tiles, token=new_token(), whole=False)
            store.set_tiles(self.group, self.tiles)
            return "The online store has lost tiles that it had taken"
        offsets = entry.get("offsets", {})
        if not self.tiles.whole and all(offsets.get(str(partition), 0) >= end for partition, end in self.ends.items()):
            self.tiles = replace(self.tiles, whole=True)
            store.set_tiles(self.group, self.tiles)
        return None


def open_stream(
    store: Store,
    group: FeatureGroup,
    topic_id: str,
    held: Mapping[int, Held],
    entries: Mapping[str, Mapping[str, Any]],
    tokens: Collection[str],
    now_ms: int,
    slack_ms: int,
    history: int = 0,
) -> TileStream:
    """Opens the stream of tiles of a version at the start of a process, and writes it to the store if it has changed.

    The stored stream goes on, unless one of these holds, which makes a new stream begin:

    - Its token is not in `tokens`. Then its query has no checkpoint any more, or has a checkpoint of a former layout.
    - It keeps histories of another format than `history`, or its first histories are not made yet.
    - The topic was made anew, or the brokers have lost messages that the stream has read.

    Args:
        store: The online store.
        group: The version of the group.
        topic_id: The present identity of the topic.
        held: Partition → the range of messages that Kafka holds.
        entries: Name of a progress entry → the entry that the previous process wrote.
        tokens: The tokens of the source's checkpoint.
        now_ms: The time, in ms.
        slack_ms: How far the time of an event may lie after the arrival of its message, in ms.
        history: The format of the histories that the deployment keeps; 0 in an architecture without histories.
    """
    known = stored = store.tiles(group.name).get(version_of(group.fingerprint))
    if known and (known.token not in tokens or known.history != history or (history and known.begins is None)):
        known = replace(known, token=new_token(), whole=False, history=history, begins=None)
    offsets: dict[int, int] = {}
    for entry in entries.values():
        if known and entry.get("token") == known.token:
            offsets = {int(partition): offset for partition, offset in entry["offsets"].items()}
    stream = TileStream(
        group,
        judge(known, topic_id, offsets, held, now_ms, slack_ms, history),
        {p: partition_held.end for p, partition_held in held.items()},
    )
    if stream.tiles != stored:
        store.set_tiles(group, stream.tiles)
    return stream
