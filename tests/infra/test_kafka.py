"""A Kafka that does not answer is no empty Kafka."""

from __future__ import annotations

import pytest
from kafka.errors import KafkaTimeoutError

from infra import kafka
from infra.errors import ServiceError
from infra.settings import Settings


def test_without_an_answer_there_are_no_end_offsets(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Consumer:
        def __init__(self, **_options: object) -> None:
            pass

        def partitions_for_topic(self, _topic: str) -> set[int]:
            raise KafkaTimeoutError

        def close(self) -> None:
            pass

    monkeypatch.setattr(kafka, "KafkaConsumer", Consumer)
    with pytest.raises(ServiceError, match="does not answer"):
        kafka.end_offsets(settings, "user_events.dlq")
