"""The writer of tiles, one per source: contributions → the online store. Used by engines that do not write tiles themselves.

Reads rows of contributions, those of a partition in the order of their offsets; decides which count (`speed.copies`), folds them (`speed.fold`), and
writes tiles, marks and offsets (`speed.online`). A row may come again at any time, and is then skipped.

Before it writes a micro-batch, the writer records the number and the offsets of the micro-batch in the online store. After a SIGKILL it makes the
same micro-batch again under the same number, so that the store does not take an event for a copy of itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.instants import now_ms
from infra.kafka import FIRST_ARRIVAL_MS
from infra.settings import Settings
from speed.batch_reads import recorded
from speed.copies import COPY, COUNTING, FOR_THE_BATCH, MicroBatch, verdicts, watermark_before
from speed.engine import FITS, UNDECIDED
from speed.online import Target, put_part
from store.keys import version_of
from store.protocol import Messages, Store

#: The kind of the notes with the last micro-batch of each source.
_NOTES = "micro-batches"


@dataclass
class Counters:
    """The counters of a writer since it began.

    Attributes:
        late: The number of late events.
        copies: The number of copies.
        undecided: The number of messages that the engine could not decide.
        oldest_ms: The oldest event, in ms; None before the first event.
        newest_ms: The newest event, in ms; None before the first event.
        watermark_ms: The watermark of the last micro-batch, in ms; None before the first event.
        rows_per_second: The number of rows of the last read, per second of their writing.
    """

    late: int = 0
    copies: int = 0
    undecided: int = 0
    oldest_ms: int | None = None
    newest_ms: int | None = None
    watermark_ms: int | None = None
    rows_per_second: float = 0.0


@dataclass(frozen=True)
class Span:
    """The range of a micro-batch.

    Attributes:
        number: The number of the micro-batch.
        begin: Partition → the offset of its first message.
        end: Partition → the offset after its last message.
        engine: The values that the engine records with the micro-batch.
    """

    number: int
    begin: Mapping[int, int]
    end: Mapping[int, int]
    engine: Mapping[str, Any] = field(default_factory=dict)


class TileWriter:
    """Writes the tiles of a source's groups.

    Args:
        store: The online store.
        settings: The settings of the deployment.
        source: The name of the source.
        targets: The versions whose tiles are written.
        memory: The name of the checkpoint, and of the store's memory of its events.
        tasks: The number of marks that a micro-batch leaves.

    Attributes:
        done: Partition → the offset before which all messages are in the store.
        number: The number of the last micro-batch in the store; -1 before the first.
        again: The micro-batch that has to be made again before any other; None if there is none.
        noted: The values that the engine recorded with the source's last micro-batch, even if that belongs to an earlier checkpoint.
        counters: The counters since the writer began.
    """

    def __init__(self, store: Store, settings: Settings, source: str, targets: Sequence[Target], memory: str, tasks: int) -> None:
        self._store, self._settings, self._source = store, settings, source
        self._targets, self._memory, self._tasks = targets, memory, tasks
        self.counters = Counters()
        note = store.notes(_NOTES).get(source)
        self.noted: Mapping[str, Any] = note["engine"] if note else {}
        self.again = _span(note) if note and note["checkpoint"] == memory else None
        self.done: dict[int, int] = dict(self.again.begin) if self.again else {}
        self.number = self.again.number - 1 if self.again else -1
        self._undecided_ms: int | None = None

    def write(self, rows: pa.Table, engine: Mapping[str, Any]) -> None:
        """Writes the rows that are not in the store yet, as one micro-batch.

        Args:
            rows: kafka_partition, kafka_offset, arrival_ms (the time of the record in Kafka), verdict, ts_ms, event, entity_0…, input_0…. The rows of
                a partition are in the order of their offsets, except rows that come again.
            engine: The values that the engine records with the micro-batch.
        """
        rows = self.new(rows)
        if not rows.num_rows:
            return
        span = Span(self.number + 1, dict(self.done), {**self.done, **ends_of(rows)}, engine)
        note = {
            "checkpoint": self._memory, "number": span.number, "begin": _keys(span.begin), "end": _keys(span.end), "engine": dict(engine)
        }  # fmt: skip
        self._store.note(_NOTES, self._source, note)
        self._write(rows, span)

    def write_again(self, rows: pa.Table) -> pa.Table:
        """Makes the last recorded micro-batch again. `rows` must have all of its rows. Returns the rows after it."""
        assert self.again is not None
        inside, behind = split(self.new(rows), self.again.end)
        self._write(inside, self.again)
        self.again = None
        return behind

    def new(self, rows: pa.Table) -> pa.Table:
        """Returns the rows that are not in the store yet, one row per place."""
        partition, offset = _numbers(rows, "kafka_partition"), _numbers(rows, "kafka_offset")
        fresh = np.zeros(len(partition), bool)
        for number in np.unique(partition).tolist():
            places = np.flatnonzero(partition == number)
            offsets = offset[places]
            # A row that comes again follows a row with the same or a higher offset.
            highest = np.maximum.accumulate(np.concatenate(([self.done.get(number, 0) - 1], offsets[:-1])))
            fresh[places] = offsets > highest
        return rows if fresh.all() else rows.filter(pa.array(fresh))

    def abandon(self) -> None:
        """Skips the micro-batch that has to be made again, because none of its messages is in Kafka any more. Only its marks are written."""
        if span := self.again:
            for task in range(self._tasks):
                put_part(self._store, self._settings, self._targets, MicroBatch(self._memory, span.number), task, {})
            self.number, self.again = span.number, None
            self.passed(span.end)

    def passed(self, offsets: Mapping[int, int]) -> None:
        """Moves `done` up to offsets: the messages before them are in the store or invisible to readers, such as the end of a transaction."""
        self.done = {
            **self.done,
            **{partition: offset for partition, offset in offsets.items() if offset > self.done.get(partition, 0)},
        }

    def hold_degraded(self) -> None:
        """Moves `complete_since_ms` of the tiles behind the last undecided message."""
        if self._undecided_ms is None:
            return
        since_ms = self._undecided_ms + self._settings.future_seconds * 1_000 + 1
        for target in self._targets:
            tiles = self._store.tiles(target.group.name).get(version_of(target.group.fingerprint))
            if tiles and tiles.token == target.token and (tiles.complete_since_ms is None or tiles.complete_since_ms < since_ms):
                self._store.set_tiles(target.group, replace(tiles, complete_since_ms=since_ms))

    def _write(self, rows: pa.Table, span: Span) -> None:
        batch = MicroBatch(self._memory, span.number)
        partition, offset, ts_ms, event = (_numbers(rows, name) for name in ("kafka_partition", "kafka_offset", "ts_ms", "event"))
        arrival_ms = _numbers(rows, "arrival_ms")
        current_ms = now_ms()
        # The same rule as in `speed.stream.messages`: a time before the first Kafka comes from a wrong clock.
        arrival_ms = np.where(arrival_ms >= FIRST_ARRIVAL_MS, np.minimum(arrival_ms, current_ms), current_ms)
        verdict = _numbers(rows, "verdict")
        fits = (verdict == FITS) & (ts_ms - arrival_ms <= self._settings.future_seconds * 1_000)
        counters = self.counters
        undecided = verdict == UNDECIDED
        if undecided.any():
            counters.undecided += int(undecided.sum())
            self._undecided_ms = max(self._undecided_ms or 0, int(arrival_ms[undecided].max()))
            self.hold_degraded()
        chosen = np.flatnonzero(fits)
        ts_ms = ts_ms[chosen]
        watermark_ms = watermark_before(self._store, self._settings, batch)
        messages = Messages(event[chosen], arrival_ms[chosen], partition[chosen], offset[chosen])
        read = recorded(self._store, self._source)
        judged = verdicts(self._store, self._settings, self._memory, batch, watermark_ms, read, ts_ms, messages)
        if len(chosen):
            highest_ms = int(ts_ms.max())
            self._store.raise_high_water(batch.query, batch.number, highest_ms)
            counters.oldest_ms = min(ms for ms in (counters.oldest_ms, int(ts_ms.min())) if ms is not None)
            counters.newest_ms = max(ms for ms in (counters.newest_ms, highest_ms) if ms is not None)
        counting = rows.take(pa.array(chosen[np.isin(judged, COUNTING)]))
        of_slot = self._of_slots(counting) if counting.num_rows else {}
        for task in range(self._tasks):
            put_part(self._store, self._settings, self._targets, batch, task, of_slot if task == 0 else {})
        counters.late += int(np.isin(judged, FOR_THE_BATCH).sum())
        counters.copies += int((judged == COPY).sum())
        counters.watermark_ms = watermark_ms
        self.number = span.number
        self.passed(span.end)

    def _of_slots(self, rows: pa.Table) -> dict[int, pa.Table]:
        """Returns slot → the rows that have an entity in the slot, with the column `entity` as in `speed.stream.by_entity`."""
        of_slot = {}
        for slot in {target.slot for target in self._targets}:
            entity = rows.column(f"entity_{slot}")
            of_slot[slot] = rows.append_column("entity", entity).filter(entity.is_valid())
        return of_slot


def next_ends(ends: Mapping[int, int], done: Mapping[int, int], at_most: int) -> dict[int, int]:
    """Returns the end of the next micro-batch: partition → the offset after its last message.

    The bound is shared among the partitions in proportion to their backlogs, as in Spark, so that all partitions reach their ends at the same time.
    Otherwise the events of one partition would raise the watermark, and those of another would be late.

    Args:
        ends: Partition → the end offset in Kafka.
        done: Partition → the offset before which all messages are in the store.
        at_most: The bound on the messages of the micro-batch. It may be exceeded by one message per partition.
    """
    left = {partition: max(0, end - done.get(partition, 0)) for partition, end in ends.items()}
    share = min(1.0, at_most / max(1, sum(left.values())))
    return {partition: done.get(partition, 0) + math.ceil(count * share) for partition, count in left.items()}


def have_come(rows: pa.Table | None, ends: Mapping[int, int], reached: Mapping[int, int]) -> bool:
    """Returns whether all rows before `ends` have arrived.

    Args:
        rows: The rows that have arrived; None for no rows.
        ends: Partition → the end offset that has to be reached.
        reached: Partition → an offset before which no further row will arrive.
    """
    come = ends_of(rows) if rows else {}
    return all(max(come.get(partition, 0), reached.get(partition, 0)) >= end for partition, end in ends.items())


def split(rows: pa.Table, ends: Mapping[int, int]) -> tuple[pa.Table, pa.Table]:
    """Returns the rows before the offsets `ends` of their partitions, and all other rows."""
    partition, offset = _numbers(rows, "kafka_partition"), _numbers(rows, "kafka_offset")
    inside = np.zeros(rows.num_rows, bool)
    for number, end in ends.items():
        inside |= (partition == number) & (offset < end)
    return rows.filter(pa.array(inside)), rows.filter(pa.array(~inside))


def ends_of(rows: pa.Table) -> dict[int, int]:
    """Returns partition → the offset after the last row."""
    partition, offset = _numbers(rows, "kafka_partition"), _numbers(rows, "kafka_offset")
    return {number: int(offset[partition == number].max()) + 1 for number in np.unique(partition).tolist()}


def _numbers(rows: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """Returns a column of numbers as an array; 0 for a null."""
    return np.asarray(rows.column(name).combine_chunks().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))


def _span(note: Mapping[str, Any]) -> Span:
    begin, end = ({int(partition): offset for partition, offset in note[name].items()} for name in ("begin", "end"))
    return Span(note["number"], begin, end, note["engine"])


def _keys(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in offsets.items()}
