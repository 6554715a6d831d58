"""Kafka's clients: kafka-python and Spark on the same brokers, by the same settings, also over SASL and TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from infra.errors import ServiceError
from infra.settings import Settings

#: What serving has answered: written by `serving.served_log`, read by `monitoring.served`, whose docstring has the columns.
SERVED_TOPIC = "served_features"
#: What every reader of braid's asks for; an end offset is then the end of what is committed, so that a lag can be 0.
_ISOLATION = "read_committed"
#: The broker's clock says when a message arrived, not the producer's, which may be the one that is wrong.
_TOPIC_CONFIGS = {"message.timestamp.type": "LogAppendTime"}
_LOGIN_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def client_options(settings: Settings) -> dict[str, Any]:
    """The arguments of kafka-python's clients that lead to the brokers."""
    found: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap.split(","), "security_protocol": settings.kafka_security_protocol,
    }  # fmt: skip
    if settings.kafka_security_protocol.endswith("SSL"):
        found["ssl_context"] = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
    if settings.kafka_security_protocol.startswith("SASL"):
        found |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism, "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": _password(settings),
        }  # fmt: skip
    return found


def spark_options(settings: Settings) -> dict[str, str]:
    """The same as options of Spark's Kafka source and sink."""
    found = {"kafka.bootstrap.servers": settings.kafka_bootstrap, "kafka.security.protocol": settings.kafka_security_protocol}
    if settings.kafka_security_protocol.endswith("SSL") and settings.kafka_ssl_cafile:
        found |= {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.location": settings.kafka_ssl_cafile}
    if settings.kafka_security_protocol.startswith("SASL"):
        module, mechanism = _LOGIN_MODULES[settings.kafka_sasl_mechanism], settings.kafka_sasl_mechanism
        login = f"{module} required username={_quoted(settings.kafka_sasl_username)} password={_quoted(_password(settings))};"
        found |= {"kafka.sasl.mechanism": mechanism, "kafka.sasl.jaas.config": login}
    return found


def spark_reader_options(settings: Settings) -> dict[str, str]:
    """`spark_options` of a reader: messages of an aborted transaction are none."""
    return {**spark_options(settings), "kafka.isolation.level": _ISOLATION}


def create_topics(settings: Settings, topics: Mapping[str, int]) -> None:
    """Creates the topics that do not exist yet; those that do stay as they are.

    Args:
        settings: Where Kafka answers; it may be one that braid does not run.
        topics: Number of partitions by name.

    Raises:
        ServiceError: Kafka refuses or does not answer.
    """
    try:
        admin = KafkaAdminClient(**client_options(settings))
        try:
            present = set(admin.list_topics())
            for name, partitions in topics.items():
                if name not in present:
                    try:
                        admin.create_topics(
                            {name: {"num_partitions": partitions, "configs": _TOPIC_CONFIGS}}, wait_for_metadata=True
                        )
                    except TopicAlreadyExistsError:
                        continue  # another process was faster
        finally:
            admin.close()
    except KafkaError as error:
        raise ServiceError(
            f"The topics {', '.join(topics)} could not be created on {settings.kafka_bootstrap}: {error}.",
            "Check that Kafka runs and that braid may create topics, or create them yourself.",
        ) from None


def topic_id(settings: Settings, topic: str) -> str | None:
    """The identity of a topic: another one once it is made anew. None where there is no such topic.

    Raises:
        ServiceError: Kafka does not answer.
    """
    try:
        admin = KafkaAdminClient(**client_options(settings))
        try:
            [found] = admin.describe_topics([topic])
        finally:
            admin.close()
    except KafkaError as error:
        raise ServiceError(
            f"Kafka on {settings.kafka_bootstrap} does not answer: {error}.", "Run `braid up`, or correct KAFKA_BOOTSTRAP."
        ) from None
    return None if found["topic_id"] is None else str(found["topic_id"])


def producer_timed_topics(settings: Settings, topics: Iterable[str]) -> list[str]:
    """Of the topics that exist those whose record times are the producers', so that no clock of one's own says when a message arrived.

    Raises:
        ServiceError: Kafka does not answer, or does not show its topics' settings.
    """
    name = "message.timestamp.type"
    try:
        admin = KafkaAdminClient(**client_options(settings))
        try:
            present = set(admin.list_topics()) & set(topics)
            asked = [ConfigResource(ConfigResourceType.TOPIC, topic, configs=[name]) for topic in sorted(present)]
            found = admin.describe_configs(asked, config_filter="all").get("topic", {}) if asked else {}
        finally:
            admin.close()
    except KafkaError as error:
        raise ServiceError(
            f"Kafka on {settings.kafka_bootstrap} does not show the settings of its topics: {error}.",
            "Check that it runs and that braid may describe them.",
        ) from None
    return [topic for topic, configs in found.items() if name in configs and configs[name]["value"] != _TOPIC_CONFIGS[name]]


def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """The next offset of each partition of a topic, as far as it is committed; empty where Kafka does not answer or has no such topic."""
    try:
        consumer = KafkaConsumer(**client_options(settings), isolation_level=_ISOLATION)
    except KafkaError:
        return {}
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        return {partition.partition: offset for partition, offset in consumer.end_offsets(partitions).items()}
    except KafkaError:
        return {}
    finally:
        consumer.close()


class Held(NamedTuple):
    """What Kafka holds of a partition: the first offset, the next one to come, and the first message's time (None for no message)."""

    earliest: int
    end: int
    first_ms: int | None


def held(settings: Settings, topic: str) -> dict[int, Held]:
    """What Kafka holds of each partition of a topic.

    Raises:
        ServiceError: Kafka does not answer.
    """
    try:
        consumer = KafkaConsumer(**client_options(settings))
        try:
            partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            earliest, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            first = consumer.offsets_for_times(dict.fromkeys(partitions, 0))
        finally:
            consumer.close()
    except KafkaError as error:
        raise ServiceError(
            f"Kafka on {settings.kafka_bootstrap} does not answer: {error}.", "Run `braid up`, or correct KAFKA_BOOTSTRAP."
        ) from None
    return {
        one.partition: Held(earliest[one], end[one], found.timestamp if (found := first.get(one)) else None) for one in partitions
    }


class Kept(NamedTuple):
    """What a topic keeps.

    Attributes:
        retention_ms: For how long a message is kept; None for ever.
        compacted: Whether of the messages with one key only the last is.
        since_ms: When the first message that is there arrived; None without any.
        whole: Whether no message has been deleted yet.
    """

    retention_ms: int | None
    compacted: bool
    since_ms: int | None
    whole: bool


def kept_messages(settings: Settings, topic: str) -> Kept:
    """What a topic keeps.

    Raises:
        ServiceError: Kafka does not answer, or has no such topic.
    """
    try:
        admin, consumer = KafkaAdminClient(**client_options(settings)), KafkaConsumer(**client_options(settings))
        try:
            resource = ConfigResource(ConfigResourceType.TOPIC, topic)
            found = admin.describe_configs([resource], config_filter="all")["topic"][topic]
            partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            begin = consumer.beginning_offsets(partitions)
            first = consumer.offsets_for_times(dict.fromkeys(partitions, 0))
        finally:
            admin.close()
            consumer.close()
    except (KafkaError, KeyError) as error:
        raise ServiceError(
            f"Kafka on {settings.kafka_bootstrap} does not say what it keeps of {topic}: {error}.",
            "Run `braid up`, or correct KAFKA_BOOTSTRAP.",
        ) from None
    retention_ms, policy = int(found["retention.ms"]["value"]), str(found["cleanup.policy"]["value"])
    return Kept(
        retention_ms if retention_ms >= 0 and "delete" in policy else None, "compact" in policy,
        min((one.timestamp for one in first.values() if one), default=None), not any(begin.values()),
    )  # fmt: skip


def delete_messages(settings: Settings, topic: str, until: Mapping[int, int]) -> None:
    """Deletes the messages before an offset of each partition of a topic.

    Raises:
        ServiceError: Kafka refuses or does not answer.
    """
    try:
        admin = KafkaAdminClient(**client_options(settings))
        try:
            admin.delete_records({TopicPartition(topic, partition): offset for partition, offset in until.items()})
        finally:
            admin.close()
    except KafkaError as error:
        raise ServiceError(
            f"The messages of {topic} could not be deleted: {error}.", "Let braid delete records of the topic, and try again."
        ) from None


def _password(settings: Settings) -> str:
    return settings.kafka_sasl_password.get_secret_value() if settings.kafka_sasl_password else ""


def _quoted(text: str) -> str:
    """A text as Java's login configuration reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
