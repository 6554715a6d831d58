"""A replay's messages: what a file says, in the contract, and nothing lost in silence."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pytest
from kafka import KafkaConsumer
from kafka.future import Future

from infra.embedded import services
from infra.errors import ServiceError
from infra.kafka import create_topics
from infra.settings import Settings
from speed.replay import ReplayReport, _Flight, messages_of, replay, times_ms
from tests.declarations import user_events


def row(**changed: str | None) -> dict[str, str | None]:
    base = {"event_id": "e1", "user_id": "17850.0", "session_id": "s", "event_type": "VIEW", "amount": "123456789012.123456",
            "event_timestamp": "2026-01-01T00:00:00.123456+02:00"}  # fmt: skip
    return {**base, **changed}


def batch(*rows: dict[str, str | None]) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array([one.get(name) for one in rows], pa.string()) for name in rows[0]})


def test_numbers_are_sent_digit_for_digit_and_nulls_not_at_all() -> None:
    (message,) = messages_of(user_events, batch(row(item_id=None)))
    assert message.key == b"17850"
    assert b'"user_id":17850,' in message.value
    assert b'"amount":123456789012.123456' in message.value
    assert "item_id" not in json.loads(message.value)


def test_what_is_no_number_stays_a_text_for_the_contract_to_refuse() -> None:
    (message,) = messages_of(user_events, batch(row(user_id="Anna", amount="1,50")))
    assert json.loads(message.value)["user_id"] == "Anna"
    assert json.loads(message.value)["amount"] == "1,50"


def test_times_are_read_with_their_offset_and_an_unreadable_one_is_none() -> None:
    texts = ["2026-01-01T00:00:00.123456+02:00", "1969-12-31T23:59:59.9999Z", "soon", None]
    assert times_ms(pa.array(texts)) == [1_767_218_400_123, -1, None, None]
    assert times_ms(pa.array(texts[:2])) == [1_767_218_400_123, -1]


def test_no_event_overtakes_an_older_one_behind_an_event_without_a_readable_time() -> None:
    class Acknowledged(Future):  # type: ignore[misc]
        def get(self, timeout: float) -> Any:
            arrived = threading.Event()
            self.add_both(lambda _: arrived.set())
            assert arrived.wait(timeout)
            return self.value

    flight, futures = _Flight(ReplayReport(), 1_000), [Acknowledged() for _ in range(4)]
    for time_ms, future in zip((None, 0, None, 5_000), futures, strict=True):
        flight.add(time_ms, future)
    waiting = threading.Thread(target=flight.make_room, args=(5_500,))
    waiting.start()
    for future in futures[:3]:
        waiting.join(0.2)
        assert waiting.is_alive(), "an event of more than a second ago is not acknowledged"
        future.success(SimpleNamespace(partition=0, offset=7))
    waiting.join(10)
    assert not waiting.is_alive()
    assert flight.report.sent == 3


@pytest.mark.stack
def test_a_replay_reports_what_was_taken_and_what_was_too_large(streaming: Settings) -> None:
    source = type(user_events)("replayed", "replayed", "replayed", user_events.columns)
    create_topics(streaming, {source.topic: 2})
    rows = [row(event_id=f"e{n}", event_timestamp=f"2026-01-01T00:{n // 60:02}:{n % 60:02}Z") for n in range(1_200)]
    rows.insert(7, row(event_id="x" * 2_000_000, event_timestamp="2026-01-01T00:00:06Z"))
    report = replay(streaming, source, [batch(*rows[:500]), batch(*rows[500:])])
    assert (report.sent, report.refused) == (1_200, 1)
    assert (report.first_ms, report.last_ms) == (1_767_225_600_000, 1_767_225_600_000 + 1_199_000)
    consumer = KafkaConsumer(
        source.topic, bootstrap_servers=streaming.kafka_bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=3_000
    )
    assert [json.loads(record.value)["event_id"] for record in consumer]
    assert sum(report.end_offsets.values()) == 1_200
    consumer.close()


@pytest.mark.stack
def test_a_broker_that_stands_still_is_named_in_a_sentence(streaming: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speed.replay._ACKNOWLEDGED_SECONDS", 1)
    [kafka] = [psutil.Process(service.pid) for service in services.status(streaming) if service.name == "kafka"]
    source = type(user_events)("stalled", "stalled", "stalled", user_events.columns)
    create_topics(streaming, {source.topic: 1})

    def batches() -> Iterator[pa.RecordBatch]:
        yield batch(row())
        kafka.suspend()
        yield batch(row())

    try:
        with pytest.raises(ServiceError, match="does not take the events of stalled"):
            replay(streaming, source, batches())
    finally:
        kafka.resume()
