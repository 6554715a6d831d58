"""Spark Structured Streaming as the engine (`speed.engine`).

Starts the query of `speed.online`, and converts Spark's progress of committed micro-batches to entries of `speed.progress`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from features.declaration import FeatureGroup
from features.sources import EventSource
from infra.settings import Settings
from speed.checkpoints import Checkpoint
from speed.copies import OBSERVED
from speed.engine import COUNTED, Entry, Query, widened
from speed.online import online_writer
from speed.session import COMPILED, EXPRESSIONS, INTERPRETED, pool
from store.protocol import Tiles

#: A query that is more messages behind than this compiles its expressions. A compiled expression takes a fifth of Spark's time per message less, but
#: each micro-batch some 50 ms more.
_FAR_BEHIND = 50_000


@dataclass(frozen=True)
class SparkEngine:
    """`speed.engine.Engine` by Spark Structured Streaming.

    Attributes:
        spark: The speed layer's session.
        settings: The settings of the deployment.
    """

    spark: SparkSession
    settings: Settings

    def start(self, source: EventSource, streams: Sequence[tuple[FeatureGroup, Tiles]], checkpoint: Checkpoint) -> Query:
        """As `Engine.start`."""
        name = f"online_{source.name}"
        writer = online_writer(self.spark, self.settings, streams, checkpoint).trigger(
            processingTime=f"{self.settings.speed_trigger_seconds * 1_000:.0f} milliseconds"
        )
        place = self.settings.checkpoint(f"{name}_{checkpoint.name}")
        with pool(self.spark, "online"):
            return SparkQuery(writer.queryName(name).option("checkpointLocation", place).start(), place)


class SparkQuery:
    """A query of Spark. `speed.engine.Query` describes the methods.

    Args:
        query: The started query.
        checkpoint: The path of its checkpoint.
    """

    def __init__(self, query: StreamingQuery, checkpoint: str) -> None:
        self._query, self._checkpoint = query, checkpoint
        self._progress: tuple[Any, Any] = None, None
        self._compiled = False

    def fault(self) -> str | None:
        """As `Query.fault`."""
        if self._query.isActive:
            return None
        # The cause is followed by the offsets and the plan.
        text = str(self._query.exception() or "it has ended").split("=== Streaming Query ===", maxsplit=1)[0]
        return f"{' '.join(text.split())[:2_000]}. Its checkpoint is {self._checkpoint}"

    def committed(self) -> int | None:
        """As `Query.committed`."""
        progress = self._last_progress()
        if progress is None:
            return None
        # A trigger without a micro-batch also reports progress, with the number of the next micro-batch.
        batch_id = progress.batchId if "addBatch" in progress.durationMs else progress.batchId - 1
        return None if batch_id < 0 else batch_id

    def entry(self, before: Mapping[str, Any]) -> Entry:
        """As `Query.entry`."""
        last = self._last_progress()
        if last is None:
            return dict(before)
        entry = {**_entry(last, before), **_counted(self._query, last, before)}
        if (behind := entry["lag"] > _FAR_BEHIND) != self._compiled:
            compile_expressions(self._query, behind)
            self._compiled = behind
        return entry

    def stop(self) -> None:
        """As `Query.stop`."""
        self._query.stop()

    def _last_progress(self) -> Any:
        """Returns the query's `lastProgress`, which pyspark parses from JSON. It is parsed only if it has changed: this runs ten times a second."""
        newest = self._query._jsq.lastProgress()  # noqa: SLF001 - pyspark has no public name for the unparsed progress
        seen, progress = self._progress
        if newest != seen:
            progress = self._query.lastProgress
            self._progress = newest, progress
        return progress


def compile_expressions(query: StreamingQuery, compiled: bool) -> None:
    """Makes Spark compile the expressions of a query from its next micro-batch on, or interpret them."""
    # A query has a session of its own, for which pyspark has no name.
    session = query._jsq.streamingQuery().sparkSessionForStream()  # noqa: SLF001
    session.conf().set(EXPRESSIONS, COMPILED if compiled else INTERPRETED)


def _entry(progress: Any, before: Mapping[str, Any]) -> Entry:
    """Returns the entry of a query's latest progress. A trigger without events leaves the values unchanged that only events determine."""
    source, times = progress.sources[0], progress.eventTime or {}
    offsets, latest = _offsets(source.endOffset), _offsets(source.latestOffset)
    return {
        "offsets": offsets or before.get("offsets", {}),
        "batch_id": progress.batchId if progress.numInputRows else before.get("batch_id", -1),
        "watermark_ms": _millis(times.get("watermark")),
        **widened(before, _millis(times.get("min")), _millis(times.get("max"))),
        "rows_per_second": round(progress.processedRowsPerSecond, 1) if progress.numInputRows else 0.0,
        "lag": max(0, sum(latest.values()) - sum(offsets.values())) if latest else 0,
    }


def _counted(query: StreamingQuery, last: Any, before: Mapping[str, Any]) -> dict[str, int]:
    """Returns the numbers of `COUNTED`: those of the entry `before` plus those of the micro-batches since."""
    counted_id = before.get("batch_id", -1)
    updates = [last] if last.batchId <= counted_id + 1 else query.recentProgress
    # A trigger without a micro-batch also reports progress, with the number of the next micro-batch.
    new = {update.batchId: update for update in updates if update.batchId > counted_id and update.numInputRows}
    observed = [numbers for update in new.values() if (numbers := update.observedMetrics.get(OBSERVED))]
    return {name: before.get(name, 0) + sum(numbers[name] for numbers in observed) for name in COUNTED}


def _offsets(text: str | None) -> dict[str, int]:
    """Converts Spark's offsets of a topic, {"topic": {"0": 17}}, to {"0": 17}. The text is "null" if the trigger did not ask for them."""
    topics = json.loads(text) if text else None
    return {partition: int(offset) for partitions in (topics or {}).values() for partition, offset in partitions.items()}


def _millis(text: str | None) -> int | None:
    """Converts an instant of Spark's progress to ms; None if there is none, or if the watermark is 1970, as before the first event."""
    if not text:
        return None
    return round(datetime.fromisoformat(text).timestamp() * 1_000) or None
