"""Which events of a micro-batch count: those that are neither late nor copies; runs in Spark's Python workers.

Reads contributions (`speed.stream.contributions`); gives each a verdict. The online store remembers which events the stream has seen, and the highest time
of an event in each micro-batch, from which the watermark follows as Spark reckons it: that of the micro-batches before. So the memory outlives the
process, and Spark has no state to write in each micro-batch, or to search for what has expired.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark import TaskContext

from infra.settings import Settings
from speed.stream import ARRIVAL, PLACE
from store.protocol import Messages, Store
from store.server import writing_store

#: The verdicts.
COUNTS, LATE, COPY = 0, 1, 2
VERDICT = "verdict"
#: The name of the numbers of a micro-batch's late events and copies in Spark's progress.
OBSERVED = "verdicts"


def micro_batch() -> tuple[str, int, bytes]:
    """The query of this task, which a new checkpoint names anew, the number of its micro-batch, and both as a name of 4 bytes."""
    task = TaskContext.get()
    assert task is not None
    query, number = task.getLocalProperty("sql.streaming.queryId") or "", int(task.getLocalProperty("streaming.sql.batchId") or 0)
    return query, number, zlib.crc32(f"{query} {number}".encode()).to_bytes(4, "big")


def with_verdicts(settings: Settings, memory: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of a task, each with its verdict.

    Args:
        settings: Where the store is, how late an event may be, and for how long a copy is recognized.
        memory: The name of the store's memory of this stream.
        batches: The rows.
    """
    store = writing_store(settings)
    query, number, name = micro_batch()
    high_ms = store.high_water(query, number)
    watermark_ms = None if high_ms is None else high_ms - settings.watermark_seconds * 1_000
    highest_ms: list[int] = []
    for batch in batches:
        ts_ms, event, *place = (_numbers(batch, column) for column in ("ts_ms", "event", *ARRIVAL))
        verdict = np.full(batch.num_rows, COUNTS, np.int8)
        if watermark_ms is not None:
            verdict[ts_ms <= watermark_ms] = LATE
        in_time = np.flatnonzero(verdict == COUNTS)
        in_time = in_time[np.lexsort([column[in_time] for column in reversed(place)])]
        messages = Messages(event[in_time], *(column[in_time] for column in place))
        first = store.first_copies(memory, name, messages, settings.stream_deduplication_seconds * 1_000)
        verdict[in_time[~first]] = COPY
        highest_ms += [int(ts_ms.max())] if batch.num_rows else []
        yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(verdict)], [*batch.schema.names, VERDICT])
    if highest_ms:
        store.raise_high_water(query, number, max(highest_ms))


def without_later_copies(store: Store, memory: str, rows: pa.Table) -> pa.Table:
    """The rows of a task, after all tasks of its micro-batch have ended that give verdicts: but for those of which a copy had arrived earlier in another task."""
    later = store.later_copies(memory, micro_batch()[2])
    if not later:
        return rows
    places = zip(*(rows.column(name).to_pylist() for name in PLACE), strict=True)
    return rows.filter(pa.array([place not in later for place in places]))


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return np.asarray(batch.column(name).to_numpy(zero_copy_only=False).astype(np.int64))
