"""Messages that Kafka holds although their transaction was aborted, and those of one that was committed."""

from __future__ import annotations

from collections.abc import Iterable

from kafka import KafkaProducer

from infra.kafka import client_options
from infra.settings import Settings


def send_in_transactions(settings: Settings, topic: str, aborted: Iterable[bytes], committed: Iterable[bytes]) -> None:
    """Sends the messages of one transaction that is aborted, and then of one that is committed."""
    producer = KafkaProducer(**client_options(settings), transactional_id=topic)
    try:
        producer.init_transactions()
        for values, end in ((aborted, producer.abort_transaction), (committed, producer.commit_transaction)):
            producer.begin_transaction()
            for value in values:
                producer.send(topic, value)
            producer.flush()
            end()
    finally:
        producer.close()
