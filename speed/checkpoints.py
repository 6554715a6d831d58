"""The checkpoint with which the query of a source goes on.

Reads and writes notes in the online store, next to the tiles that the checkpoint counts as written. So a store that is lost loses both.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from features.sources import EventSource
from store.protocol import Store

#: The kind of the notes that name the checkpoint of each source. A former layout, in which Spark kept the ids of events, had another kind.
_NOTES = "stream checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the query of a source.

    Attributes:
        name: A part of the name of its folder, and the name of the store's memory of the events that its query has read.
        tokens: Version of a group (`{group}@{fingerprint}`) → the token of its stream of tiles. The query has read these streams from the start.
        tasks: The number of tasks that write tiles.
        engine: The engine that wrote the checkpoint, as in the setting.
    """

    name: str
    tokens: Mapping[str, str]
    tasks: int
    engine: str = "spark"


def checkpoints(store: Store) -> list[str]:
    """Returns the names of the checkpoints of all sources."""
    return [str(note["name"]) for note in store.notes(_NOTES).values()]


def recorded_tokens(store: Store, source: EventSource) -> Mapping[str, str]:
    """Returns the tokens of the checkpoint of a source: version of a group → token. Empty if the source has no checkpoint."""
    last = _last_checkpoint(store, source)
    return last.tokens if last else {}


def checkpoint_of(store: Store, source: EventSource, tokens: Mapping[str, str], tasks: int, engine: str = "spark") -> Checkpoint:
    """Returns the checkpoint with which the query of a source goes on, and records it.

    The last checkpoint goes on if its engine is the same and its query has read all of these streams. Otherwise a new checkpoint begins, whose query
    reads the topic from the first message, because a new stream needs all messages. The other streams pass over the messages that they already have.

    Args:
        store: The online store.
        source: The source.
        tokens: Version of a group (`{group}@{fingerprint}`) → the token of its stream of tiles.
        tasks: The number of tasks that write tiles, for a new checkpoint. It has at least as many as the last one, because each task has left marks.
        engine: The engine of the query, as in the setting.
    """
    last = _last_checkpoint(store, source)
    if last and last.engine == engine and tokens.items() <= last.tokens.items():
        return last
    checkpoint = Checkpoint(uuid.uuid4().hex[:12], tokens, max(last.tasks, tasks) if last else tasks, engine)
    store.note(_NOTES, source.name, asdict(checkpoint))
    return checkpoint


def _last_checkpoint(store: Store, source: EventSource) -> Checkpoint | None:
    note = store.notes(_NOTES).get(source.name)
    return Checkpoint(**note) if note else None
