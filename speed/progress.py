"""How far each query is → the online store's progress.

Reads the progress of the queries (`speed.engine.Query`); writes JSON per group, per archive and per offline store, and two that sum them up: `online` (all groups) and
`archive` (all sources). An offset is written here only after its micro-batch is committed, hence after its tiles are in the
store: `braid replay --wait`, the probes and `braid status` read it.

    {"offsets": {"0": next offset to read, …}, "watermark_ms", "oldest_event_ms", "newest_event_ms", "rows_per_second",
     "late_rows", "copies", "lag": messages not read yet, "lag_seconds": since it had read all, "batch_id", "written_at_ms", "pid",
     of a query also "topic": the identity of the topic, of an online query "version": of the declaration, "token": of its stream of tiles}

The oldest and the newest event are of all processes: one that was started again does not make its groups stale.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.instants import now_ms
from speed.engine import COUNTED, Entry, Query
from store.protocol import Store

#: How old an entry may get while nothing happens.
FRESH_SECONDS = 2.0
#: From when on an entry says nothing about now, because its process has ended or stands still.
SILENT_SECONDS = 60
#: What is remembered of the process before.
_REMEMBERED = ("oldest_event_ms", "newest_event_ms")


class Board:
    """Publishes the progress of the queries of one process.

    Args:
        store: The online store's client.
        queries: Name → query, such as "archive:user_events", and by the one query of a source "online:user_features" of each of its groups and
            "online:user_features@1a2b3c4d" of an older version; a name that is taken out is over.
        details: Name → what its entry says beside its progress.
        others: Names of entries that `report` gives.
    """

    def __init__(
        self, store: Store, queries: dict[str, Query], details: Mapping[str, Mapping[str, str]], others: Iterable[str] = ()
    ) -> None:
        self._store, self._queries, self._details = store, queries, details
        self._others = frozenset(others)
        self._written_at = 0.0
        before = store.progress()
        # The offsets that an earlier process wrote may belong to checkpoints that are gone.
        self._entries: dict[str, Entry] = {
            name: {"offsets": {}, "batch_id": -1, **{key: before.get(name, {}).get(key) for key in _REMEMBERED}}
            for name in (*queries, *self._others)
        }
        store.set_progress({}, over=list(before))

    def entry(self, name: str) -> Entry:
        """What was written last of a query."""
        return self._entries[name]

    def report(self, name: str, entry: Mapping[str, Any]) -> None:
        """Says how far a step is that is no query; from a thread of its own."""
        self._entries[name] = {**self._entries[name], **entry}

    def publish(self) -> None:
        """Writes what has changed; everything, where the last writing is older than `FRESH_SECONDS`."""
        changed = time.monotonic() - self._written_at > FRESH_SECONDS
        if over := self._entries.keys() - self._queries.keys() - self._others:
            self._store.set_progress({}, over=list(over))
            self._entries = {name: entry for name, entry in self._entries.items() if name not in over}
        for name, query in self._queries.items():
            before = self._entries[name]
            entry = query.entry(before)
            looked_ms = now_ms()
            caught_up_ms = before.get("caught_up_ms", looked_ms) if entry.get("lag") else looked_ms
            entry = {**entry, "caught_up_ms": caught_up_ms, "lag_seconds": (looked_ms - caught_up_ms) / 1_000}
            entry |= self._details.get(name, {})
            changed |= entry["offsets"] != before["offsets"]
            self._entries[name] = entry
        if not changed:
            return
        stamp = {"written_at_ms": now_ms(), "pid": os.getpid()}
        fields = dict(self._entries)
        for kind in ("online", "archive"):
            by_query: dict[Query, list[Entry]] = {}
            for name, query in self._queries.items():
                if name.startswith(f"{kind}:"):
                    by_query.setdefault(query, []).append(self._entries[name])
            fields[kind] = summary(by_query.values())
        self._store.set_progress({name: {**entry, **stamp} for name, entry in fields.items()})
        self._written_at = time.monotonic()


def summary(queries: Iterable[Sequence[Entry]]) -> Entry:
    """Several queries as one that is where the last of them is.

    Args:
        queries: The entries of each query. The query of a source has an entry per group, each of which counts the same rows.
    """
    queries = list(queries)
    found = [entry for entries in queries for entry in entries]
    offsets: dict[str, int] = {}
    if all(entry["offsets"] for entry in found):
        for entry in found:
            for partition, offset in entry["offsets"].items():
                offsets[partition] = min(offset, offsets.get(partition, offset))

    def over(name: str, choose: Any) -> Any:
        return choose([value for entry in found if (value := entry.get(name)) is not None], default=None)

    return {
        "offsets": offsets,
        "batch_id": over("batch_id", min),
        "watermark_ms": over("watermark_ms", min),
        "oldest_event_ms": over("oldest_event_ms", min),
        "newest_event_ms": over("newest_event_ms", max),
        "rows_per_second": over("rows_per_second", max),
        **{name: sum(max(entry.get(name, 0) for entry in entries) for entries in queries) for name in COUNTED},
        "lag": over("lag", max),
        "lag_seconds": over("lag_seconds", max),
    }
