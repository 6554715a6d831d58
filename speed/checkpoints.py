"""Which checkpoint the query of a source goes on with: notes in the online store, beside the tiles that the checkpoint says are there."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from features.sources import EventSource
from store.protocol import Store

#: The notes that name the checkpoint of each source; those of a layout in which Spark had the ids of events are none of these.
_NOTES = "stream checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the query of a source.

    Attributes:
        name: Of its folder, and of the store's memory of the events that it has read.
        tokens: Version of a group → the token of its stream of tiles, of those that it has read from the beginning.
        tasks: How many tasks write tiles.
        engine: What has read them, by the name of the setting.
    """

    name: str
    tokens: Mapping[str, str]
    tasks: int
    engine: str = "spark"


def checkpoints(store: Store) -> list[str]:
    """The names of the checkpoints of all sources."""
    return [str(note["name"]) for note in store.notes(_NOTES).values()]


def recorded_tokens(store: Store, source: EventSource) -> Mapping[str, str]:
    """The tokens of the checkpoint of a source."""
    last = _last_checkpoint(store, source)
    return last.tokens if last else {}


def checkpoint_of(store: Store, source: EventSource, tokens: Mapping[str, str], tasks: int, engine: str = "spark") -> Checkpoint:
    """The checkpoint that has read everything of these streams of tiles (version of a group → token).

    A stream that the last checkpoint did not have is read from the first message, hence by a checkpoint that begins; the others pass over what they have.
    So it is where another engine has read them. The first checkpoint of a source decides the number of tasks, because each of them leaves marks.
    """
    last = _last_checkpoint(store, source)
    if last and last.engine == engine and tokens.items() <= last.tokens.items():
        return last
    checkpoint = Checkpoint(uuid.uuid4().hex[:12], tokens, last.tasks if last else tasks, engine)
    store.note(_NOTES, source.name, asdict(checkpoint))
    return checkpoint


def _last_checkpoint(store: Store, source: EventSource) -> Checkpoint | None:
    note = store.notes(_NOTES).get(source.name)
    return Checkpoint(**note) if note else None
