"""Contributions → online store, by one writer per source: what an engine needs that does not write tiles itself.

Reads rows of contributions in the order of their partitions; decides which count (`speed.copies`), folds them (`speed.fold`) and puts tiles, marks and
offsets (`speed.online`). A row may come again at any time, and is passed over.

Before it writes a micro-batch, the writer notes its number and its offsets in the online store. After a SIGKILL it makes the same micro-batch again under
the same number, so that the store does not take an event for a copy of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.instants import now_ms
from infra.settings import Settings
from speed.copies import COPY, COUNTS, LATE, MicroBatch, verdicts, watermark_before
from speed.online import Target, put_part
from speed.stream import FIRST_ARRIVAL_MS
from store.keys import version_of
from store.protocol import Messages, Store

#: The notes of the last micro-batch of each checkpoint.
_NOTES = "micro-batches"
#: The verdicts of an engine on a message.
FITS, REFUSED, UNDECIDED = 0, 1, 2


@dataclass
class Counters:
    """What a writer has met since it began; times in ms."""

    late: int = 0
    copies: int = 0
    undecided: int = 0
    oldest_ms: int | None = None
    newest_ms: int | None = None
    watermark_ms: int | None = None
    rows_per_second: float = 0.0


@dataclass(frozen=True)
class Span:
    """A micro-batch: per partition the first offset, and the offset behind the last.

    Attributes:
        number: Its number.
        begin: Partition → offset.
        end: Partition → offset.
        engine: What the engine notes with it.
    """

    number: int
    begin: Mapping[int, int]
    end: Mapping[int, int]
    engine: Mapping[str, Any] = field(default_factory=dict)


class TileWriter:
    """Writes the tiles of a source's groups.

    Args:
        store: The online store.
        settings: The settings.
        targets: What is written.
        memory: The name of the checkpoint.
        tasks: How many marks a micro-batch leaves.

    Attributes:
        done: Partition → the offset before which all is in the store.
        number: The last micro-batch that is in the store; -1 before the first.
        again: The micro-batch to be made again before any other, or None.
        counters: What it has met.
    """

    def __init__(self, store: Store, settings: Settings, targets: Sequence[Target], memory: str, tasks: int) -> None:
        self._store, self._settings, self._targets, self._memory, self._tasks = store, settings, targets, memory, tasks
        self.counters = Counters()
        self.again = self._noted()
        self.done: dict[int, int] = dict(self.again.begin) if self.again else {}
        self.number = self.again.number - 1 if self.again else -1
        self._undecided_ms: int | None = None

    def write(self, rows: pa.Table, engine: Mapping[str, Any]) -> None:
        """Writes rows as one micro-batch, those that are not in the store yet.

        Args:
            rows: kafka_partition, kafka_offset, arrival_ms (as Kafka has it), verdict, ts_ms, event, entity_0…, input_0…; of each partition in
                the order of its offsets, but for those that come again.
            engine: What is noted with the micro-batch.
        """
        rows = self.new(rows)
        if not rows.num_rows:
            return
        span = Span(self.number + 1, dict(self.done), {**self.done, **ends_of(rows)}, engine)
        note = {"number": span.number, "begin": _keys(span.begin), "end": _keys(span.end), "engine": dict(engine)}
        self._store.note(_NOTES, self._memory, note)
        self._write(rows, span)

    def write_again(self, rows: pa.Table) -> pa.Table:
        """Makes the micro-batch again that was noted last, of which all rows must be there; gives the rows behind it."""
        assert self.again is not None
        rows = self.new(rows)
        partition, offset = _numbers(rows, "kafka_partition"), _numbers(rows, "kafka_offset")
        inside = np.zeros(rows.num_rows, bool)
        for number, end in self.again.end.items():
            inside |= (partition == number) & (offset < end)
        self._write(rows.filter(pa.array(inside)), self.again)
        self.again = None
        return rows.filter(pa.array(~inside))

    def new(self, rows: pa.Table) -> pa.Table:
        """The rows that are not in the store yet, each place once."""
        partition, offset = _numbers(rows, "kafka_partition"), _numbers(rows, "kafka_offset")
        fresh = np.zeros(len(partition), bool)
        for number in np.unique(partition).tolist():
            places = np.flatnonzero(partition == number)
            offsets = offset[places]
            # A row that comes again follows one with its offset, or a higher one.
            highest = np.maximum.accumulate(np.concatenate(([self.done.get(number, 0) - 1], offsets[:-1])))
            fresh[places] = offsets > highest
        return rows if fresh.all() else rows.filter(pa.array(fresh))

    def has_come(self, rows: pa.Table | None) -> bool:
        """Whether a micro-batch that is to be made again is whole in these rows, with what was passed over."""
        ends = ends_of(rows) if rows else {}
        wanted = self.again.end if self.again else {}
        return all(max(ends.get(partition, 0), self.done.get(partition, 0)) >= end for partition, end in wanted.items())

    def abandon(self) -> None:
        """Passes over the micro-batch that is to be made again, of which Kafka has no message any more."""
        if span := self.again:
            for task in range(self._tasks):
                put_part(self._store, self._settings, self._targets, MicroBatch(self._memory, span.number), task, {})
            self.number, self.again = span.number, None
            self.passed(span.end)

    def passed(self, offsets: Mapping[int, int]) -> None:
        """Says that nothing but what readers do not see, such as the end of a transaction, lies before offsets."""
        self.done = {
            **self.done,
            **{partition: offset for partition, offset in offsets.items() if offset > self.done.get(partition, 0)},
        }

    def hold_degraded(self) -> None:
        """Sees to it that the tiles are not called complete from before the last message that was undecided."""
        if self._undecided_ms is None:
            return
        since_ms = self._undecided_ms + self._settings.future_seconds * 1_000 + 1
        for target in self._targets:
            tiles = self._store.tiles(target.group.name).get(version_of(target.group.fingerprint))
            if tiles and tiles.token == target.token and (tiles.complete_since_ms is None or tiles.complete_since_ms < since_ms):
                self._store.set_tiles(target.group, replace(tiles, complete_since_ms=since_ms))

    def _noted(self) -> Span | None:
        note = self._store.notes(_NOTES).get(self._memory)
        if note is None:
            return None
        begin, end = ({int(partition): offset for partition, offset in note[name].items()} for name in ("begin", "end"))
        return Span(note["number"], begin, end, note["engine"])

    def _write(self, rows: pa.Table, span: Span) -> None:
        batch = MicroBatch(self._memory, span.number)
        partition, offset, ts_ms, event = (_numbers(rows, name) for name in ("kafka_partition", "kafka_offset", "ts_ms", "event"))
        arrival_ms = _numbers(rows, "arrival_ms")
        current_ms = now_ms()
        # As `speed.stream.messages` has it: a clock that says a time before there was Kafka is none.
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
        judged = verdicts(self._store, self._settings, self._memory, batch, watermark_ms, ts_ms, messages)
        if len(chosen):
            highest_ms = int(ts_ms.max())
            self._store.raise_high_water(batch.query, batch.number, highest_ms)
            counters.oldest_ms = min(ms for ms in (counters.oldest_ms, int(ts_ms.min())) if ms is not None)
            counters.newest_ms = max(ms for ms in (counters.newest_ms, highest_ms) if ms is not None)
        counting = rows.take(pa.array(chosen[judged == COUNTS]))
        of_slot = self._of_slots(counting) if counting.num_rows else {}
        for task in range(self._tasks):
            put_part(self._store, self._settings, self._targets, batch, task, of_slot if task == 0 else {})
        counters.late += int((judged == LATE).sum())
        counters.copies += int((judged == COPY).sum())
        counters.watermark_ms = watermark_ms
        self.number = span.number
        self.passed(span.end)

    def _of_slots(self, rows: pa.Table) -> dict[int, pa.Table]:
        """Slot → the rows that have an entity there, as `speed.stream.by_entity` has them."""
        of_slot = {}
        for slot in {target.slot for target in self._targets}:
            entity = rows.column(f"entity_{slot}")
            of_slot[slot] = rows.append_column("entity", entity).filter(entity.is_valid())
        return of_slot


def in_order(rows: pa.Table, ends: Mapping[int, int], done: Mapping[int, int]) -> tuple[pa.Table, pa.Table]:
    """Rows that may be written now, and those that have to wait: for rows of another partition that arrived earlier and have not come yet.

    An engine reads the partitions of a backlog one after the other. Without this order the first of them would raise the watermark, and
    the events of the others would be late.

    Args:
        rows: As in `TileWriter.write`.
        ends: Partition → the offset behind its last message.
        done: Partition → the offset before which all is in the store.
    """
    come = ends_of(rows)
    behind = [partition for partition, end in ends.items() if max(come.get(partition, 0), done.get(partition, 0)) < end]
    if not behind:
        return rows, rows.slice(0, 0)
    partition, arrival_ms = _numbers(rows, "kafka_partition"), _numbers(rows, "arrival_ms")
    # Of a partition of which nothing has come, nobody knows.
    limit_ms = min((int(arrival_ms[partition == number].max()) if number in come else -1) for number in behind)
    ready = np.zeros(rows.num_rows, bool)
    for number in come:
        places = np.flatnonzero(partition == number)
        # By a producer's clock a message may be older than the one before it, and has to wait with that one.
        ready[places] = np.maximum.accumulate(arrival_ms[places]) <= limit_ms
    return rows.filter(pa.array(ready)), rows.filter(pa.array(~ready))


def ends_of(rows: pa.Table) -> dict[int, int]:
    """Partition → the offset behind the last row."""
    partition, offset = _numbers(rows, "kafka_partition"), _numbers(rows, "kafka_offset")
    return {number: int(offset[partition == number].max()) + 1 for number in np.unique(partition).tolist()}


def _numbers(rows: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """A column of numbers; 0 where there is none."""
    return np.asarray(rows.column(name).combine_chunks().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))


def _keys(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in offsets.items()}
