"""The engine as the process of the speed layer sees it: it starts the one query of a source, which keeps the tiles of its groups (docs/engine.md).

What the query writes is the part "The speed layer" of `store.protocol.Store`. Spark is the engine: `speed.spark_engine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from features.declaration import FeatureGroup
from features.sources import EventSource
from speed.checkpoints import Checkpoint
from store.protocol import Tiles

#: How far a query is, as `speed.progress` describes it.
Entry = dict[str, Any]
#: The verdicts of an engine on a message, where braid's own writer takes what it makes (`speed.writer`).
FITS, REFUSED, UNDECIDED = 0, 1, 2
#: The numbers of an entry that are counted since the process began.
COUNTED = ("late_rows", "copies")


class Query(Protocol):
    """A query that has been started: the one of a source's tiles, or another one that reads its topic."""

    def fault(self) -> str | None:
        """Why it has ended, in a sentence, with the place of its checkpoint; None while it runs."""

    def committed(self) -> int | None:
        """The number of the last micro-batch that is written and committed; None before the first."""

    def entry(self, before: Mapping[str, Any]) -> Entry:
        """How far it is, from what was written of it last. An offset is in it only when all before it is written."""

    def stop(self) -> None:
        """Ends it. What it had not committed is read again by the next one."""


class Engine(Protocol):
    """What starts the queries of sources."""

    def start(self, source: EventSource, streams: Sequence[tuple[FeatureGroup, Tiles]], checkpoint: Checkpoint) -> Query:
        """Starts the query of a source.

        Args:
            source: The source of all groups.
            streams: Versions of its groups, each with its stream of tiles.
            checkpoint: What the query goes on with, or begins.
        """


def widened(before: Mapping[str, Any], oldest_ms: int | None, newest_ms: int | None) -> dict[str, int | None]:
    """The times of the oldest and the newest event of an entry, with those of the entry before; None for no event."""
    oldest = [ms for ms in (before.get("oldest_event_ms"), oldest_ms) if ms is not None]
    newest = [ms for ms in (before.get("newest_event_ms"), newest_ms) if ms is not None]
    return {"oldest_event_ms": min(oldest, default=None), "newest_event_ms": max(newest, default=None)}
