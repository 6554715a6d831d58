"""The progress of the queries, in the online store.

Reads the progress of each query (`speed.engine.Query`); writes a JSON entry per group, per archive and per offline store, and two summaries: `online`
(all groups) and `archive` (all sources). An offset is written only after its micro-batch is committed, hence after its tiles are in the store.
`braid replay --wait`, the probes and `braid status` read the entries.

    {"offsets": {"0": next offset to read, …}, "watermark_ms", "oldest_event_ms", "newest_event_ms", "rows_per_second",
     "late_rows", "copies", "lag": messages not read yet, "caught_up_ms": when the lag was last 0, "lag_seconds": since then,
     "batch_id", "written_at_ms", "pid" and "began_ms": the process, whose id a later process may have again,
     of a query also "topic": the identity of the topic,
     of an online query also "version": the fingerprint of the declaration, "token": of its stream of tiles,
     of an online query of Flink also "undecided": messages that the engine could not decide}

The oldest and the newest event are kept over all processes, so the groups do not look stale after a restart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.instants import now_ms
from speed.engine import COUNTED, Entry, Query
from store.protocol import Store

#: The age, in seconds, at which entries are written again although their offsets have not changed.
FRESH_SECONDS = 2.0
#: The age, in seconds, from which an entry is out of date, because its process has ended or hangs.
SILENT_SECONDS = 60
#: The values that are kept from the entry of the previous process.
_REMEMBERED = ("oldest_event_ms", "newest_event_ms")


class Board:
    """Publishes the progress of the queries of one process.

    Args:
        store: The online store.
        queries: Name of an entry → its query: "archive:user_events", "online:user_features" for each group of a source, and
            "online:user_features@1a2b3c4d" for an older version. Entries of the same source share its one online query. If the caller removes a name,
            its entry is removed.
        details: Name of an entry → further values of the entry.
        others: The names of the entries that `report` writes.
    """

    def __init__(
        self, store: Store, queries: dict[str, Query], details: Mapping[str, Mapping[str, str]], others: Iterable[str] = ()
    ) -> None:
        self._store, self._queries, self._details = store, queries, details
        self._others = frozenset(others)
        self._written_at, self._began_ms = 0.0, now_ms()
        before = store.progress()
        # The offsets that an earlier process wrote may belong to checkpoints that are gone.
        self._entries: dict[str, Entry] = {
            name: {"offsets": {}, "batch_id": -1, **{key: before.get(name, {}).get(key) for key in _REMEMBERED}}
            for name in (*queries, *self._others)
        }
        store.set_progress({}, over=list(before))

    def entry(self, name: str) -> Entry:
        """Returns the entry that was published or reported last under a name."""
        return self._entries[name]

    def report(self, name: str, entry: Mapping[str, Any]) -> None:
        """Updates the entry of a step that is no query. It is called from the thread of that step."""
        self._entries[name] = {**self._entries[name], **entry}

    def publish(self) -> None:
        """Writes all entries, if offsets have changed or if the last writing is older than `FRESH_SECONDS`. Removes entries that are over."""
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
        stamp = {"written_at_ms": now_ms(), "pid": os.getpid(), "began_ms": self._began_ms}
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
    """Returns one entry for several queries, with the progress of the slowest of them.

    Args:
        queries: The entries of each query. The query of a source has an entry per group, and each of these entries counts the same rows.
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
