"""Before a batch reads the archive, the archive has taken what Kafka holds: the batch then has seen what the stream accepted."""

import time

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.sources import EventSource
from infra.errors import ServiceError
from infra.health import ailment
from infra.redis import PROGRESS_KEY, store
from infra.settings import Settings
from orchestration.running import runs
from speed.visible import wait_archived

WAIT_SECONDS = 120


def end_offsets(settings: Settings, source: EventSource) -> dict[int, int]:
    """The next offset of each partition of the source's topic; empty where Kafka does not answer."""
    if not runs(settings, "kafka") or ailment(settings, "kafka"):
        return {}  # asked first, because a consumer looks for a broker that is not there for half a minute
    try:
        consumer = KafkaConsumer(bootstrap_servers=settings.kafka_bootstrap.split(","))
    except KafkaError:
        return {}
    try:
        partitions = [TopicPartition(source.topic, p) for p in consumer.partitions_for_topic(source.topic) or ()]
        return {partition.partition: offset for partition, offset in consumer.end_offsets(partitions).items()}
    except KafkaError:
        return {}
    finally:
        consumer.close()


def wait_for_archive(settings: Settings, source: EventSource) -> str:
    """Waits until the archive holds everything that is in Kafka now, and says in words how that went."""
    offsets = end_offsets(settings, source)
    if not any(offsets.values()):
        return "nothing in Kafka, or it does not run"
    if not store(settings).exists(PROGRESS_KEY):
        return "the speed layer does not run; taken as it is"
    started = time.monotonic()
    try:
        wait_archived(settings, source, offsets, WAIT_SECONDS)
    except ServiceError:
        return f"behind Kafka after {WAIT_SECONDS} s; taken as it is, the rest heals with the next run"
    return f"caught up with Kafka in {time.monotonic() - started:.1f} s"
