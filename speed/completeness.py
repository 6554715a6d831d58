"""Since when the tiles in the online store are complete, and whether the store still has them: read from Kafka and the store.

Each version of a group has a stream of tiles (`store.protocol.Tiles`): its token names the checkpoint of the query that writes them. A new
token means that the stream is read again from the first message that Kafka holds; until it has caught up, the tiles are not whole. Tokens are
lost with the store's content. This module makes a new one where the store has lost tiles that it had acknowledged, and where a topic was made
anew. `complete_since_ms` says what Kafka no longer held when the query started: a batch_end before it means that events may be missing.
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
    """The stream of tiles that a query goes on with, or begins.

    Args:
        known: The one that the store names; None for none.
        topic_id: The identity of the topic now.
        offsets: Where the query goes on, by partition; what is not there begins at 0.
        held: What Kafka holds, by partition.
        now_ms: The time.
        slack_ms: How long after its arrival a message's event may happen, at most.
        history: The format of the histories that the stream keeps; 0 for none. A stream that begins has to make them first: then no gap is looked for.
    """
    # An offset beyond the end is of messages that the brokers have lost.
    made_anew = known is not None and (
        known.topic_id != topic_id
        or any(offset > held[partition].end for partition, offset in offsets.items() if partition in held)
    )
    if known is None or made_anew:
        # Nobody knows what the topic held that was deleted.
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
    """The stream of tiles that goes on at `offsets`, complete since the first message that Kafka holds where it lacks some of them.

    The messages before `tiles.begins` are in the histories. Arguments are those of `judge`.
    """
    since_ms, begins = tiles.complete_since_ms, tiles.begins or {}
    for partition, partition_held in held.items():
        if offsets.get(partition, begins.get(partition, 0)) < partition_held.earliest:
            first_ms = (now_ms if partition_held.first_ms is None else partition_held.first_ms) + slack_ms
            since_ms = first_ms if since_ms is None else max(since_ms, first_ms)
    return replace(tiles, complete_since_ms=since_ms)


def new_token() -> str:
    """A name for a stream of tiles."""
    return uuid.uuid4().hex[:12]


@dataclass
class TileStream:
    """The tiles of one version of a group, as the process that writes them follows them.

    Attributes:
        group: The version.
        tiles: What the store says of them.
        ends: Per partition the offset from which on the stream has caught up.
        tasks: How many tasks write them, each of which leaves marks.
    """

    group: FeatureGroup
    tiles: Tiles
    ends: dict[int, int] = field(default_factory=dict)
    tasks: int = 1

    def follow(self, store: Store, entry: Mapping[str, Any], committed: int | None, expired_ms: int | None = None) -> str | None:
        """Records in the store that the tiles are whole, and which may have expired; returns in a sentence why the stream must be read again, or None.

        Args:
            store: The online store.
            entry: How far the query is (`speed.progress`).
            committed: The last committed micro-batch; None where there is none yet.
            expired_ms: The event time before which tiles may have expired (`speed.expiry`); None if none may have.
        """
        named = store.tiles(self.group.name).get(version_of(self.group.fingerprint))
        if named is None or named.token != self.tiles.token:
            return "New histories were asked for" if named and named.history else "The online store has lost what it held"
        # The writer may have met what it could not read for certain.
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
    """The stream of tiles of a version at the start of a process; `entries` are what the process before reported of its queries.

    A stream whose token is not among `tokens` was written by a query that has no checkpoint any more, or by one of a former layout: another begins.
    So it does where the stream kept histories of another format than `history`, or none, or has not made them yet.
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
