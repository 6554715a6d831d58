"""The interface of an engine: it starts the one query of a source, which maintains the tiles of the source's groups (docs/engine.md).

The query writes through the methods of `store.protocol.Store` under "The speed layer". The engines are `speed.spark_engine` and `speed.flink.engine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from features.declaration import FeatureGroup
from features.sources import EventSource
from speed.checkpoints import Checkpoint
from store.protocol import Tiles

#: The progress of a query, as `speed.progress` describes it.
Entry = dict[str, Any]
#: The verdicts on a message, of an engine whose contributions `speed.writer` writes.
FITS, REFUSED, UNDECIDED = 0, 1, 2
#: The numbers of an entry that count from the start of the process.
COUNTED = ("late_rows", "copies")


class Query(Protocol):
    """A query that has been started: the one that writes the tiles of a source, or another one that reads its topic."""

    def fault(self) -> str | None:
        """Returns why the query has ended, in a sentence that names its checkpoint or its job; None while it runs."""

    def committed(self) -> int | None:
        """Returns the number of the last micro-batch that is written and committed; None before the first."""

    def entry(self, before: Mapping[str, Any]) -> Entry:
        """Returns the present progress of the query. An offset is in it only if all events before the offset are written.

        Args:
            before: The entry of the query that was published last.
        """

    def stop(self) -> None:
        """Ends the query. The next query reads the messages again that this one had not committed."""


class Engine(Protocol):
    """An engine, which starts the queries of sources."""

    def start(self, source: EventSource, streams: Sequence[tuple[FeatureGroup, Tiles]], checkpoint: Checkpoint) -> Query:
        """Starts the query of a source.

        Args:
            source: The source of all groups.
            streams: Versions of its groups, each with its stream of tiles.
            checkpoint: The checkpoint with which the query goes on, or which it begins.
        """


def widened(before: Mapping[str, Any], oldest_ms: int | None, newest_ms: int | None) -> dict[str, int | None]:
    """Returns `oldest_event_ms` and `newest_event_ms` over the events of the entry `before` and the new ones; None if there is no event."""
    oldest = [ms for ms in (before.get("oldest_event_ms"), oldest_ms) if ms is not None]
    newest = [ms for ms in (before.get("newest_event_ms"), newest_ms) if ms is not None]
    return {"oldest_event_ms": min(oldest, default=None), "newest_event_ms": max(newest, default=None)}
