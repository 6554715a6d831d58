"""The replay: sends the events of a file to Kafka in the order of their times, so that the stream processes the past like the present.

Reads raw columns of the contract; sends one JSON message per event, with the key that the source declares.

Spark's watermark is the largest event time over all partitions minus the delay. A replay runs thousands of times faster than the clock. So a
partition that is 100 ms behind another one may be hours behind in event time, and its events would be late. Therefore an event of time t is sent only
after all events before t − delay / 2 are acknowledged. So no event that the stream reads is behind the newest one by more than half the delay, at any
speed.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from features.judgement import MISFIT
from features.sources import ColumnType, EventSource
from infra.errors import ServiceError
from infra.kafka import client_options
from infra.settings import Settings
from speed.visible import wait_archived, wait_visible

__all__ = ["Message", "ReplayReport", "messages_of", "readable", "replay", "times_ms", "wait_archived", "wait_visible"]

#: How many events may be sent and not yet acknowledged, whatever their times.
_IN_FLIGHT = 20_000
#: How long an event may take to be acknowledged.
_ACKNOWLEDGED_SECONDS = 60
_NOTED_EVERY = 1_000
_EPOCH = datetime.fromtimestamp(0, UTC)
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_INTEGER = re.compile(r" *([+-]?[0-9]+)(\.0+)? *")
#: A JSON number that no reader converts to a floating-point number: it is short and has no exponent.
_JSON_NUMBER = re.compile(r"(?=.{1,38}$)-?(0|[1-9][0-9]*)(\.[0-9]+)?")
#: The columns of `batch.files` with the text of a line that could not be read as a row, the bytes of a message, and the key of a message.
_LINE, _MESSAGE, _KEY = "_line", "_message", "_key"


@dataclass
class ReplayReport:
    """The result of a replay.

    Attributes:
        sent: The number of events that Kafka has acknowledged.
        refused: The number of events that Kafka refused because of their size, and of rows that the reader of the file refused.
        first_ms: The earliest time of an event; None if no time could be read.
        last_ms: The latest time of an event; None if no time could be read.
        end_offsets: Partition → the offset after the last event, for which `speed.visible` waits.
        seconds: How long the replay took.
    """

    sent: int = 0
    refused: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    end_offsets: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Message:
    """The message of one event. `time_ms` is None if the time of the event cannot be read. Such a message is sent, and the contract judges it."""

    time_ms: int | None
    key: bytes | None
    value: bytes


def replay(settings: Settings, source: EventSource, batches: Iterable[pa.RecordBatch], *, speedup: float | None = None,
           on_progress: Callable[[ReplayReport], None] | None = None, stop: threading.Event | None = None) -> ReplayReport:  # fmt: skip
    """Sends events, and returns when all are acknowledged.

    Args:
        settings: The settings with the address of Kafka.
        source: The source, with the contract and the topic.
        batches: The raw columns of the contract, all text, in ascending order of time.
        speedup: The ratio of event time to wall time; None for as fast as possible.
        on_progress: Is called with the report so far, about every thousand events.
        stop: An event that ends the replay early when it is set. The events that were sent before are acknowledged and reported.

    Raises:
        ServiceError: Kafka does not take the events.
    """
    stop = stop or threading.Event()
    flight = _Flight(ReplayReport(), settings.watermark_seconds * 1_000 // 2)
    report, began, producer = flight.report, time.monotonic(), None
    try:
        producer = KafkaProducer(**client_options(settings), linger_ms=0, batch_size=256 * 1024)
        for rows in batches:
            batch = readable(rows)
            report.refused += rows.num_rows - batch.num_rows
            for message in messages_of(source, batch):
                if message.time_ms is not None:
                    report.first_ms = message.time_ms if report.first_ms is None else min(report.first_ms, message.time_ms)
                    if speedup is not None:
                        due = began + (message.time_ms - report.first_ms) / 1_000 / speedup
                        if (early := due - time.monotonic()) > 0.001:
                            stop.wait(early)
                    flight.make_room(message.time_ms)
                    report.last_ms = message.time_ms if report.last_ms is None else max(report.last_ms, message.time_ms)
                if stop.is_set():
                    break
                try:
                    flight.add(message.time_ms, producer.send(source.topic, key=message.key, value=message.value))
                except _TOO_LARGE:
                    report.refused += 1
                if on_progress and (report.sent + report.refused) % _NOTED_EVERY == 0:
                    on_progress(report)
            if stop.is_set():
                break
        flight.land()
    except KafkaError as error:
        raise ServiceError(
            f"Kafka at {settings.kafka_bootstrap} does not take the events of {source.topic}: {str(error).rstrip('.')}.",
            f"Check that it runs and that the topic exists; {report.sent} events were taken.",
        ) from None
    finally:
        if producer is not None:
            with suppress(KafkaError):  # it waits for events that a broker that does not answer will not acknowledge
                producer.close(timeout=10)
    report.seconds = time.monotonic() - began
    if on_progress:
        on_progress(report)
    return report


class _Flight:
    """The events that were sent and are not yet acknowledged, in the order of sending."""

    def __init__(self, report: ReplayReport, window_ms: int) -> None:
        self.report, self._window_ms, self._last_ms = report, window_ms, -(2**63)
        self._flying: deque[tuple[int, Any]] = deque()

    def add(self, time_ms: int | None, future: Any) -> None:
        # An event without a readable time counts as of the time of the event before.
        self._last_ms = self._last_ms if time_ms is None else time_ms
        self._flying.append((self._last_ms, future))
        while len(self._flying) > _IN_FLIGHT:
            self._land_first()

    def make_room(self, time_ms: int) -> None:
        """Waits until every event before `time_ms` − window is acknowledged."""
        while self._flying and ((first := self._flying[0])[1].is_done or first[0] < time_ms - self._window_ms):
            self._land_first()

    def land(self) -> None:
        """Waits until every event is acknowledged."""
        while self._flying:
            self._land_first()

    def _land_first(self) -> None:
        _, future = self._flying.popleft()
        try:
            taken = future.value if future.succeeded() else future.get(timeout=_ACKNOWLEDGED_SECONDS)
        except _TOO_LARGE:
            self.report.refused += 1
            return
        self.report.sent += 1
        ends = self.report.end_offsets
        if taken.offset >= ends.get(taken.partition, 0):
            ends[taken.partition] = taken.offset + 1


def readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the rows that the reader of a file could read, and the lines that are no rows, which the stream can judge by their text.

    A row whose time or decimals the reader could not read must not be sent, because the stream might accept the rest of the row.
    """
    if MISFIT not in batch.schema.names:
        return batch
    return batch.filter(pc.or_(pc.is_null(batch.column(MISFIT)), pc.is_valid(batch.column(_LINE))))


def messages_of(source: EventSource, batch: pa.RecordBatch) -> Iterator[Message]:
    """Yields the message of each row.

    A row becomes a JSON object without nulls. Texts of integers and of decimals become numbers with the same digits, and a map becomes its own JSON.
    Any other text stays a text, which the contract reads or refuses in the stream as in a file. The bytes of a file of messages stay unchanged.

    Args:
        source: The contract.
        batch: The raw columns of the contract, all text; or the columns of a file of messages.
    """
    if _MESSAGE in batch.schema.names:
        times, keys, messages = (
            times_ms(batch.column(source.time)),
            batch.column(_KEY).to_pylist(),
            batch.column(_MESSAGE).to_pylist(),
        )
        for time_ms, key, value in zip(times, keys, messages, strict=True):
            yield Message(time_ms, None if key is None else key.encode(), value)
        return
    columns = [column for column in source.columns if column.name in batch.schema.names]
    values = [_json_values(column.type, batch.column(column.name)) for column in columns]
    names = [column.name for column in columns]
    keys = values[names.index(source.key)] if source.key in names else [None] * batch.num_rows
    times = times_ms(batch.column(source.time)) if source.time in names else [None] * batch.num_rows
    lines = batch.column(_LINE).to_pylist() if _LINE in batch.schema.names else [None] * batch.num_rows
    encode = msgspec.json.Encoder().encode
    for time_ms, key, line, row in zip(times, keys, lines, zip(*values, strict=True), strict=True):
        if line is not None:
            yield Message(None, None, line.encode())
            continue
        event = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        yield Message(time_ms, None if key is None else str(key).encode(), encode(event))


def _json_values(kind: ColumnType, column: pa.Array) -> list[Any]:
    values = column.to_pylist()
    if kind is ColumnType.INT64:
        return [value if value is None or not (found := _INTEGER.fullmatch(value)) else int(found[1]) for value in values]
    if kind is ColumnType.DECIMAL:
        return [value if value is None or not _JSON_NUMBER.fullmatch(value) else msgspec.Raw(value.encode()) for value in values]
    if kind is ColumnType.MAP:
        return [value if value is None else _json_value(value) for value in values]
    return values


def _json_value(text: str) -> Any:
    """Returns a text of JSON as raw JSON, and any other text as a text."""
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.MsgspecError:
        return text


def times_ms(column: pa.Array) -> list[int | None]:
    """Converts RFC 3339 texts to ms since 1970; None for a text that cannot be read."""
    try:
        micros = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        return [None if value is None else value // 1_000 for value in micros.to_pylist()]
    except pa.ArrowInvalid:
        return [_time_ms(text) for text in column.to_pylist()]


def _time_ms(text: str | None) -> int | None:
    try:
        instant = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", (text or "").upper()))
        return (instant - _EPOCH) // timedelta(milliseconds=1) if instant.tzinfo else None
    except (ValueError, OverflowError):
        return None
