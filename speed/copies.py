"""The verdicts on the events of a micro-batch: an event counts if it is neither late nor a copy.

Reads contributions (`speed.stream.contributions`), and returns a verdict on each, in Spark's Python workers (`with_verdicts`) or in the writer of
another engine (`verdicts`). The online store remembers the events that the stream has seen, and the highest time of an event in each micro-batch. As
in Spark, the watermark of a micro-batch follows from the micro-batches before it. The memory outlives the process, and Spark has no state that it
must write in each micro-batch or search for expired entries.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import TaskContext

from features.windows import DAY_MS, floor_ms
from infra.settings import Settings
from speed.batch_reads import BatchRead, missed, recorded
from speed.stream import ARRIVAL, PLACE
from store.protocol import Messages, Store
from store.server import writing_store

#: The verdicts. MISSED: the event counts, but the latest batch should have had it (`speed.batch_reads`).
COUNTS, LATE, COPY, MISSED = 0, 1, 2, 3
#: The verdicts on events that go into tiles, and on those that the next batch has to fold.
COUNTING, FOR_THE_BATCH = (COUNTS, MISSED), (LATE, MISSED)
VERDICT = "verdict"
#: The name under which Spark's progress reports the numbers of late events and copies of a micro-batch.
OBSERVED = "verdicts"


class MicroBatch(NamedTuple):
    """A micro-batch of a query.

    Attributes:
        query: The id of the query, which a new checkpoint changes.
        number: The number of the micro-batch; the next one has the next number.
    """

    query: str
    number: int

    @property
    def name(self) -> bytes:
        """A name of 4 bytes for the query and the number."""
        return zlib.crc32(f"{self.query} {self.number}".encode()).to_bytes(4, "big")


def micro_batch() -> MicroBatch:
    """Returns the micro-batch of this Spark task."""
    task = TaskContext.get()
    assert task is not None
    query, number = task.getLocalProperty("sql.streaming.queryId") or "", int(task.getLocalProperty("streaming.sql.batchId") or 0)
    return MicroBatch(query, number)


def watermark_before(store: Store, settings: Settings, batch: MicroBatch) -> int | None:
    """Returns the watermark after the micro-batches before `batch`, in ms; None before the first event."""
    high_ms = store.high_water(batch.query, batch.number)
    return None if high_ms is None else high_ms - settings.watermark_seconds * 1_000


def verdicts(
    store: Store,
    settings: Settings,
    memory: str,
    batch: MicroBatch,
    watermark_ms: int | None,
    read: BatchRead | None,
    ts_ms: npt.NDArray[np.int64],
    messages: Messages,
) -> npt.NDArray[np.int8]:
    """Returns the verdict on each event.

    A late event is remembered as well, so that a copy of it that arrives afterwards with a later time does not count: in the batch layer, too, the
    first to arrive counts. A late event is not remembered if its day lies so far before the watermark that the batch layer would take it and an event
    after the watermark for different events.

    Args:
        store: The online store.
        settings: How long copies are recognized in the stream (seconds) and in the batch layer (days).
        memory: The name of the store's memory of this stream.
        batch: The micro-batch.
        watermark_ms: The watermark: events at or before this time are late; None if no event is late.
        read: The latest batch of the source; None before the first.
        ts_ms: The times of the events.
        messages: The messages of the events.

    Returns:
        `COUNTS`, `LATE`, `COPY` or `MISSED` per event.
    """
    verdict = np.full(len(ts_ms), COUNTS, np.int8)
    if watermark_ms is not None:
        verdict[ts_ms <= watermark_ms] = LATE
    comparable = verdict == COUNTS
    if watermark_ms is not None:
        comparable |= floor_ms(ts_ms, DAY_MS) >= floor_ms(watermark_ms, DAY_MS) - settings.deduplication_days * DAY_MS
    chosen = np.flatnonzero(comparable)
    chosen = chosen[np.lexsort((messages.offset[chosen], messages.partition[chosen], messages.arrival_ms[chosen]))]
    asked = Messages(messages.event[chosen], messages.arrival_ms[chosen], messages.partition[chosen], messages.offset[chosen])
    first = store.first_copies(memory, batch.name, asked, settings.stream_deduplication_seconds * 1_000)
    later = chosen[~first]
    verdict[later[verdict[later] == COUNTS]] = COPY
    verdict[(verdict == COUNTS) & missed(read, ts_ms, messages)] = MISSED
    return verdict


def with_verdicts(settings: Settings, memory: str, source: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a task, with the verdicts as an additional column. Runs in Spark's Python workers.

    Args:
        settings: The settings with the URL of the store, the delay of the watermark, and how long copies are recognized.
        memory: The name of the store's memory of this stream.
        source: The name of the source.
        batches: The rows, as of `speed.stream.contributions`.
    """
    store = writing_store(settings)
    this = micro_batch()
    watermark_ms, read = watermark_before(store, settings, this), recorded(store, source)
    highest_ms: list[int] = []
    for batch in batches:
        ts_ms, event, *place = (_numbers(batch, column) for column in ("ts_ms", "event", *ARRIVAL))
        verdict = verdicts(store, settings, memory, this, watermark_ms, read, ts_ms, Messages(event, *place))
        highest_ms += [int(ts_ms.max())] if batch.num_rows else []
        yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(verdict)], [*batch.schema.names, VERDICT])
    if highest_ms:
        store.raise_high_water(this.query, this.number, max(highest_ms))


def without_later_copies(store: Store, memory: str, rows: pa.Table) -> pa.Table:
    """Returns the rows of a task except the copies whose earlier message was in another task.

    All tasks of the micro-batch that return verdicts must have ended before.
    """
    later = store.later_copies(memory, micro_batch().name)
    if not later:
        return rows
    places = zip(*(rows.column(name).to_pylist() for name in PLACE), strict=True)
    return rows.filter(pa.array([place not in later for place in places]))


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return np.asarray(batch.column(name).to_numpy(zero_copy_only=False).astype(np.int64))
