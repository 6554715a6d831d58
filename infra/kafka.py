"""Clients of Kafka: the options of kafka-python and Spark for the brokers of the settings, also with SASL and TLS, and topics."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, KafkaTimeoutError, SaslAuthenticationFailedError, TopicAlreadyExistsError
from tenacity import Retrying, retry_if_exception, stop_after_delay

from infra.errors import ServiceError
from infra.settings import Settings

#: The topic of served answers: written by `serving.served_log`, read by `monitoring.served`, whose docstring describes the columns.
SERVED_TOPIC = "served_features"
#: 2011, the year of the first Kafka: a record whose time is earlier has no time of arrival.
FIRST_ARRIVAL_MS = 1_293_840_000_000
#: The isolation level of every reader. An end offset is then the end of the committed messages, so a lag can be 0.
_ISOLATION = "read_committed"
#: The longest wait for the first messages of open transactions.
_FIRST_MESSAGE_SECONDS = 5
#: How long a client tries to reach a broker, and how long an attempt takes at most, after which it is known whether the password was refused.
_PATIENCE_SECONDS, _ATTEMPT_SECONDS = 30, 10
_Client = TypeVar("_Client", KafkaAdminClient, KafkaConsumer)
#: The time of a message is its arrival by the broker's clock, because a producer's clock may be wrong.
_TOPIC_CONFIGS = {"message.timestamp.type": "LogAppendTime"}
_LOGIN_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def client_options(settings: Settings) -> dict[str, Any]:
    """Returns the arguments with which kafka-python's clients connect to the brokers."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap.split(","), "security_protocol": settings.kafka_security_protocol,
    }  # fmt: skip
    if settings.kafka_security_protocol.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
    if settings.kafka_security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism, "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": _password(settings),
        }  # fmt: skip
    return options


def spark_options(settings: Settings) -> dict[str, str]:
    """Returns the options with which Spark's Kafka source and sink connect to the brokers."""
    options = {"kafka.bootstrap.servers": settings.kafka_bootstrap, "kafka.security.protocol": settings.kafka_security_protocol}
    if settings.kafka_security_protocol.endswith("SSL") and settings.kafka_ssl_cafile:
        options |= {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.location": settings.kafka_ssl_cafile}
    if settings.kafka_security_protocol.startswith("SASL"):
        module, mechanism = _LOGIN_MODULES[settings.kafka_sasl_mechanism], settings.kafka_sasl_mechanism
        login = f"{module} required username={_quoted(settings.kafka_sasl_username)} password={_quoted(_password(settings))};"
        options |= {"kafka.sasl.mechanism": mechanism, "kafka.sasl.jaas.config": login}
    return options


def spark_reader_options(settings: Settings) -> dict[str, str]:
    """Returns `spark_options` for a reader that sees only messages of committed transactions, and whose requests Kafka answers at once.

    By default, Kafka delays the answer to a request at the end of a topic for up to half a second. A reader that sent such a request in its last
    micro-batch would wait for this answer in the next micro-batch, although new messages have arrived by then.
    """
    return {**spark_options(settings), "kafka.isolation.level": _ISOLATION, "kafka.fetch.max.wait.ms": "5"}


def flink_options(settings: Settings) -> dict[str, str]:
    """Returns the options with which Flink's Kafka connector connects to the brokers. The connector contains Kafka's classes under shaded names."""
    options = {name.removeprefix("kafka."): value for name, value in spark_options(settings).items()}
    if login := options.get("sasl.jaas.config"):
        options["sasl.jaas.config"] = f"org.apache.flink.kafka.shaded.{login}"
    return {f"properties.{name}": value for name, value in options.items()}


class _Failures(logging.Handler):
    """Keeps the last failure that kafka-python has logged, or that the password was refused. Its clients try again until a timeout without a reason."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: KafkaError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the error among the arguments of a record."""
        if not isinstance(self.last, SaslAuthenticationFailedError):
            errors = [
                error for error in record.args or () if isinstance(error, KafkaError) and not isinstance(error, KafkaTimeoutError)
            ]
            self.last = errors[-1] if errors else self.last


@contextmanager
def connected(kind: Callable[..., _Client], settings: Settings, **options: Any) -> Iterator[_Client]:
    """Opens a client of kafka-python for a block.

    Args:
        kind: The class of the client.
        settings: The settings that name the brokers.
        options: Further arguments of the class.

    Raises:
        SaslAuthenticationFailedError: The brokers refuse the user or the password.
        KafkaError: No broker has answered within `_PATIENCE_SECONDS`. It is the last failure, such as a refused connection.
    """
    failures, logger = _Failures(), logging.getLogger("kafka")

    def may_succeed(error: BaseException) -> bool:
        return isinstance(error, KafkaTimeoutError) and not isinstance(failures.last, SaslAuthenticationFailedError)

    logger.addHandler(failures)
    try:
        for attempt in Retrying(retry=retry_if_exception(may_succeed), stop=stop_after_delay(_PATIENCE_SECONDS), reraise=True):
            with attempt:
                client = kind(**client_options(settings), bootstrap_timeout_ms=_ATTEMPT_SECONDS * 1_000, **options)
    except KafkaTimeoutError as error:
        raise failures.last or error from None
    finally:
        logger.removeHandler(failures)
    try:
        yield client
    finally:
        client.close()


def create_topics(settings: Settings, topics: Mapping[str, int]) -> None:
    """Creates the topics that do not exist yet. Existing topics stay unchanged.

    Args:
        settings: The settings that name the brokers.
        topics: Topic → number of partitions.

    Raises:
        ServiceError: Kafka refuses or does not answer.
    """
    try:
        with connected(KafkaAdminClient, settings) as admin:
            present = set(admin.list_topics())
            for name, partitions in topics.items():
                if name not in present:
                    try:
                        admin.create_topics(
                            {name: {"num_partitions": partitions, "configs": _TOPIC_CONFIGS}}, wait_for_metadata=True
                        )
                    except TopicAlreadyExistsError:
                        continue  # another process was faster
    except KafkaError as error:
        raise ServiceError(
            f"The topics {', '.join(topics)} could not be created on {settings.kafka_bootstrap}: {error}.",
            "Check that Kafka runs and that braid may create topics, or create them yourself.",
        ) from None


def topic_id(settings: Settings, topic: str) -> str | None:
    """Returns the identity of a topic, which changes if the topic is deleted and created again. None if the topic does not exist.

    Raises:
        ServiceError: Kafka does not answer.
    """
    try:
        with connected(KafkaAdminClient, settings) as admin:
            [description] = admin.describe_topics([topic])
    except KafkaError as error:
        raise _no_answer(settings, error) from None
    return None if description["topic_id"] is None else str(description["topic_id"])


def producer_timed_topics(settings: Settings, topics: Iterable[str]) -> list[str]:
    """Returns those of the topics that exist and whose records have the time of the producer's clock.

    Raises:
        ServiceError: Kafka does not answer, or does not show its topics' settings.
    """
    name = "message.timestamp.type"
    try:
        with connected(KafkaAdminClient, settings) as admin:
            present = set(admin.list_topics()) & set(topics)
            resources = [ConfigResource(ConfigResourceType.TOPIC, topic, configs=[name]) for topic in sorted(present)]
            configs_by_topic = admin.describe_configs(resources, config_filter="all").get("topic", {}) if resources else {}
    except KafkaError as error:
        raise ServiceError(
            f"Kafka on {settings.kafka_bootstrap} does not show the settings of its topics: {error}.",
            "Check that it runs and that braid may describe them.",
        ) from None
    return [
        topic for topic, configs in configs_by_topic.items() if name in configs and configs[name]["value"] != _TOPIC_CONFIGS[name]
    ]


def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """Returns the end offset of the committed messages of each partition of a topic, by partition; empty if the topic does not exist.

    Raises:
        ServiceError: Kafka does not answer.
    """
    try:
        with connected(KafkaConsumer, settings, isolation_level=_ISOLATION) as consumer:
            partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            return {partition.partition: offset for partition, offset in consumer.end_offsets(partitions).items()}
    except KafkaError as error:
        raise _no_answer(settings, error) from None


def open_transaction_ms(settings: Settings, topic: str) -> int | None:
    """Returns when the first message of the oldest open transaction of a topic arrived, in ms since 1970.

    Until that transaction has ended, readers get no later message of the same partition, and a lag does not count such messages.

    Returns:
        None if no transaction is open, or if Kafka does not send these first messages within 5 s.

    Raises:
        ServiceError: Kafka does not answer.
    """
    committed = end_offsets(settings, topic)
    try:
        with connected(KafkaConsumer, settings, enable_auto_commit=False) as consumer:
            ends = consumer.end_offsets([TopicPartition(topic, partition) for partition in committed])
            waiting = {partition for partition, end in ends.items() if end > committed[partition.partition]}
            consumer.assign(sorted(waiting))
            for partition in waiting:
                consumer.seek(partition, committed[partition.partition])
            arrivals_ms: list[int] = []
            deadline = time.monotonic() + _FIRST_MESSAGE_SECONDS
            while waiting and time.monotonic() < deadline:
                for partition, records in consumer.poll(timeout_ms=500, max_records=1).items():
                    arrivals_ms.append(records[0].timestamp)
                    waiting.discard(partition)
                    consumer.pause(partition)
    except KafkaError as error:
        raise _no_answer(settings, error) from None
    return min(arrivals_ms, default=None)


class Held(NamedTuple):
    """The messages that Kafka holds of a partition.

    Attributes:
        earliest: The first offset.
        end: The end offset.
        first_ms: The arrival of the first message, in ms since 1970; None if the partition is empty or the record's time is not a time of arrival.
    """

    earliest: int
    end: int
    first_ms: int | None


def held(settings: Settings, topic: str) -> dict[int, Held]:
    """Returns the range of the messages that Kafka holds of each partition of a topic, by partition.

    Raises:
        ServiceError: Kafka does not answer.
    """
    try:
        with connected(KafkaConsumer, settings) as consumer:
            partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            earliest, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            first = consumer.offsets_for_times(dict.fromkeys(partitions, 0))
    except KafkaError as error:
        raise _no_answer(settings, error) from None
    arrivals_ms = {partition: message.timestamp for partition, message in first.items() if message}
    return {
        partition.partition: Held(
            earliest[partition],
            end[partition],
            arrival_ms if (arrival_ms := arrivals_ms.get(partition, 0)) >= FIRST_ARRIVAL_MS else None,
        )
        for partition in partitions
    }


class Retention(NamedTuple):
    """The retention of a topic.

    Attributes:
        retention_ms: How long a message is kept, in ms; None if there is no limit.
        compacted: Whether only the last message of each key is kept.
        since_ms: The arrival of the first message in the topic, in ms since 1970; None if the topic is empty.
        whole: Whether no message has been deleted yet.
        sized_since_ms: Of a topic that keeps so many bytes at most: the latest arrival of the first message of a partition of which messages were
            deleted, before which some may be missing; None without such a limit or partition.
    """

    retention_ms: int | None
    compacted: bool
    since_ms: int | None
    whole: bool
    sized_since_ms: int | None = None


def retention_of(settings: Settings, topic: str) -> Retention:
    """Returns the retention of a topic.

    Raises:
        ServiceError: Kafka does not answer, or has no such topic.
    """
    try:
        with connected(KafkaAdminClient, settings) as admin, connected(KafkaConsumer, settings) as consumer:
            resource = ConfigResource(ConfigResourceType.TOPIC, topic)
            configs = admin.describe_configs([resource], config_filter="all")["topic"][topic]
            # Of a topic that does not exist, or that braid may not describe, there are none.
            limit_ms, limit_bytes = (int(configs[f"retention.{unit}"]["value"]) for unit in ("ms", "bytes"))
            policy = str(configs["cleanup.policy"]["value"])
            partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            begin = consumer.beginning_offsets(partitions)
            first = consumer.offsets_for_times(dict.fromkeys(partitions, 0))
    except (KafkaError, KeyError) as error:
        raise ServiceError(
            f"Kafka on {settings.kafka_bootstrap} does not show the retention of {topic}"
            + (": the topic does not exist, or braid may not describe it." if isinstance(error, KeyError) else f": {error}."),
            "Run `braid up`, which creates topics, or correct KAFKA_BOOTSTRAP.",
        ) from None
    cut_ms = [message.timestamp for partition, message in first.items() if message and begin[partition]]
    return Retention(
        limit_ms if limit_ms >= 0 and "delete" in policy else None, "compact" in policy,
        min((message.timestamp for message in first.values() if message), default=None), not any(begin.values()),
        max(cut_ms, default=None) if limit_bytes >= 0 and "delete" in policy else None,
    )  # fmt: skip


def delete_messages(settings: Settings, topic: str, until: Mapping[int, int]) -> None:
    """Deletes the first messages of the partitions of a topic.

    Args:
        settings: The settings that name the brokers.
        topic: The topic.
        until: Partition → the offset before which all messages are deleted.

    Raises:
        ServiceError: Kafka refuses or does not answer.
    """
    try:
        with connected(KafkaAdminClient, settings) as admin:
            admin.delete_records({TopicPartition(topic, partition): offset for partition, offset in until.items()})
    except KafkaError as error:
        raise ServiceError(
            f"The messages of {topic} could not be deleted: {error}.", "Allow braid to delete records of the topic, and try again."
        ) from None


def delete_topic(settings: Settings, topic: str) -> None:
    """Deletes a topic, if it exists and Kafka allows it."""
    try:
        with connected(KafkaAdminClient, settings) as admin:
            admin.delete_topics([topic])
    except KafkaError:
        return


def _password(settings: Settings) -> str:
    return settings.kafka_sasl_password.get_secret_value() if settings.kafka_sasl_password else ""


def _quoted(text: str) -> str:
    """Returns a text in the quotes of Java's login configuration."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _no_answer(settings: Settings, error: KafkaError) -> ServiceError:
    return ServiceError(
        f"Kafka on {settings.kafka_bootstrap} does not answer: {error}.", "Run `braid up`, or correct KAFKA_BOOTSTRAP."
    )
