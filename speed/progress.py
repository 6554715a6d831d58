"""How far each query is → the hash `braid:speed` of the online store.

Reads Spark's own progress of committed micro-batches; writes JSON per query, and two that sum them up: `online` (all groups) and
`archive` (all sources). An offset is written here only after its micro-batch is committed, hence after its tiles are in the
store: `braid replay --wait`, the probes and `braid status` read it.

    {"offsets": {"0": next offset to read, …}, "watermark_ms", "oldest_event_ms", "newest_event_ms" (of this process), "rows_per_second",
     "state_rows", "late_rows", "lag": messages not read yet, "lag_seconds": since it had read all, "batch_id", "written_at_ms", "pid", "version": of the declaration, of an online query}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pyspark.sql.streaming.query import StreamingQuery

from store.clients import PROGRESS_KEY

#: How old an entry may get while nothing happens.
FRESH_SECONDS = 2.0

Entry = dict[str, Any]


class Board:
    """Publishes the progress of the queries of one process.

    Args:
        store: The online store's client.
        queries: Field of `braid:speed` → query, such as "online:user_features", "archive:user_events", "online:user_features@1a2b3c4d" for an
            older version; one that is taken out is over.
        versions: Field → the fingerprint of what the query makes.
    """

    def __init__(self, store: Any, queries: dict[str, StreamingQuery], versions: Mapping[str, str]) -> None:
        self._store, self._queries, self._versions = store, queries, versions
        self._entries: dict[str, Entry] = {}
        self._written_at = 0.0
        # What an earlier process wrote may belong to checkpoints that are gone.
        store.delete(PROGRESS_KEY)

    def publish(self) -> None:
        """Writes what has changed; everything, where the last writing is older than `FRESH_SECONDS`."""
        changed = time.monotonic() - self._written_at > FRESH_SECONDS
        if over := self._entries.keys() - self._queries.keys():
            self._store.hdel(PROGRESS_KEY, *over)
            self._entries = {name: entry for name, entry in self._entries.items() if name not in over}
        for name, query in self._queries.items():
            last = query.lastProgress
            before = self._entries.get(name)
            entry = _entry(last, before) if last is not None else before or {"offsets": {}, "batch_id": -1}
            now_ms = time.time_ns() // 1_000_000
            caught_up_ms = before["caught_up_ms"] if before and entry.get("lag") else now_ms
            entry = {**entry, "caught_up_ms": caught_up_ms, "lag_seconds": (now_ms - caught_up_ms) / 1_000}
            if name in self._versions:
                entry["version"] = self._versions[name]
            changed |= before is None or entry["offsets"] != before["offsets"]
            self._entries[name] = entry
        if not changed:
            return
        stamp = {"written_at_ms": time.time_ns() // 1_000_000, "pid": os.getpid()}
        fields = dict(self._entries)
        for kind in ("online", "archive"):
            fields[kind] = summary(entry for name, entry in self._entries.items() if name.startswith(f"{kind}:"))
        self._store.hset(PROGRESS_KEY, mapping={name: json.dumps({**entry, **stamp}) for name, entry in fields.items()})
        self._written_at = time.monotonic()


def summary(entries: Iterable[Entry]) -> Entry:
    """Several queries as one that is where the last of them is."""
    found = list(entries)
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
        "state_rows": sum(entry.get("state_rows", 0) for entry in found),
        "late_rows": sum(entry.get("late_rows", 0) for entry in found),
        "lag": over("lag", max),
        "lag_seconds": over("lag_seconds", max),
    }


def _entry(progress: Any, before: Entry | None) -> Entry:
    """The entry of a query's latest progress; what only a batch with events can say stays as it was."""
    before = before or {}
    source, times = progress.sources[0], progress.eventTime or {}
    offsets, latest = _offsets(source.endOffset), _offsets(source.latestOffset)
    state = progress.stateOperators[0] if progress.stateOperators else None
    # A trigger without a micro-batch reports too, by the number of the batch that may come.
    fresh = progress.numInputRows > 0 and progress.batchId != before.get("batch_id")
    oldest = [ms for ms in (before.get("oldest_event_ms"), _millis(times.get("min"))) if ms is not None]
    newest = [ms for ms in (before.get("newest_event_ms"), _millis(times.get("max"))) if ms is not None]
    dropped = state.numRowsDroppedByWatermark if state else 0
    return {
        "offsets": offsets or before.get("offsets", {}),
        "batch_id": progress.batchId if progress.numInputRows else before.get("batch_id", -1),
        "watermark_ms": _millis(times.get("watermark")),
        "oldest_event_ms": min(oldest, default=None),
        "newest_event_ms": max(newest, default=None),
        "rows_per_second": round(progress.processedRowsPerSecond, 1) if progress.numInputRows else 0.0,
        "state_rows": state.numRowsTotal if state else 0,
        "late_rows": before.get("late_rows", 0) + (dropped if fresh else 0),
        "lag": max(0, sum(latest.values()) - sum(offsets.values())) if latest else 0,
    }


def _offsets(text: str | None) -> dict[str, int]:
    """Spark's offsets of a topic, {"topic": {"0": 17}}, as {"0": 17}; "null" where a trigger did not ask for them."""
    topics = json.loads(text) if text else None
    return {partition: int(offset) for partitions in (topics or {}).values() for partition, offset in partitions.items()}


def _millis(text: str | None) -> int | None:
    """An instant of Spark's progress, or None for none (the watermark's epoch before the first event)."""
    if not text:
        return None
    return round(datetime.fromisoformat(text).timestamp() * 1_000) or None
