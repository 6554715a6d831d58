"""Messages as Kafka really has them: aborted transactions, one id in two partitions, record times of 1970, a topic made anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from batch.events import ingest_archive
from features.speed_tiles import decode_speed
from features.speed_value import speed_field
from infra.embedded import services
from infra.kafka import client_options, create_topics, end_offsets, producer_timed_topics
from infra.settings import Settings
from speed.visible import wait_archived, wait_visible
from store.clients import store
from store.keys import PROGRESS_KEY
from tests.speed.transactions import send_in_transactions
from tests.waiting import eventually

from .calls import CALLER, CALLS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: The middle of a tile, an hour ago at most: events of one test share it.
AT_MS = int(time.time() * 1_000) // 300_000 * 300_000 - 150_000


#: Minutes of restarts and pauses on real services: with `make test-long`.
pytestmark = pytest.mark.long


def call(event_id: str, user_id: int, amount: float) -> bytes:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(AT_MS / 1_000))
    return json.dumps({"event_id": event_id, "user_id": user_id, "amount": amount, "event_timestamp": at}).encode()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    home: Path = tmp_path_factory.mktemp("others")
    settings = Settings.load(home).model_copy(update={"archive_seconds": 1, "offline_seconds": 600, "speed_memory": "768m"})
    services.up(settings, {}, only={"kafka", "valkey"})
    yield settings
    services.down(settings)


class Layer:
    """The speed layer of one group, in a process that starts it again where it ends by itself."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.log = settings, settings.home / "speed.log"
        environment = {**os.environ, **settings.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("calls.py"))],
                env=environment,
                cwd=settings.home,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(120)

    @property
    def starts(self) -> int:
        return self.log.read_text().count("started")

    def tile(self, user_id: int) -> tuple[int, float]:
        """How many calls the user's tile has, and their sum."""
        value = store(self.settings).hget(CALLER.key(user_id), speed_field(CALLER.fingerprint))
        [tile] = decode_speed(value, CALLER)
        partials = tile.partials
        features = enumerate(zip(CALLER.features, partials, strict=True))
        calls, spend = (feature.aggregation.finalize(partial, 0, CALLER.scale_of(index)) for index, (feature, partial) in features)
        return calls, spend

    def wait(self, condition: Any, seconds: float = 600) -> None:
        try:
            eventually(condition, seconds)
        except AssertionError as late:
            late.add_note(f"{store(self.settings).hgetall(PROGRESS_KEY)} {self.log.read_text()[-3_000:]}")
            raise

    def caught_up(self) -> bool:
        """Whether every query has read to the end that a reader of committed messages sees."""
        entries = store(self.settings).hmget(PROGRESS_KEY, [f"online:{CALLER.name}", f"archive:{CALLS.name}"])
        ends = {str(p): offset for p, offset in end_offsets(self.settings, CALLS.topic).items() if offset}
        offsets = [{p: n for p, n in json.loads(raw)["offsets"].items() if n} for raw in entries if raw]
        return bool(ends) and offsets == [ends, ends] and not any(json.loads(raw)["lag"] for raw in entries)


def test_what_kafka_really_holds_is_counted_once_and_by_one_rule(spark: SparkSession, kafka: Settings) -> None:
    create_topics(kafka, {CALLS.topic: 2, CALLS.dlq_topic: 1})
    assert producer_timed_topics(kafka, [CALLS.topic, "absent"]) == []
    options = client_options(kafka)
    producer = KafkaProducer(**options)
    # One id in two partitions: the first to arrive is in the higher one.
    producer.send(CALLS.topic, call("twice", 1, 10.0), partition=1).get(30)
    time.sleep(0.05)
    producer.send(CALLS.topic, call("twice", 1, 99.0), partition=0).get(30)
    aborted, committed = (tuple(call(event_id, 2, 10.0) for event_id in ids) for ids in (("a1", "a2", "a3"), ("c1", "c2")))
    send_in_transactions(kafka, CALLS.topic, aborted, committed)
    admin = KafkaAdminClient(**options)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, CALLS.topic, configs={"message.timestamp.type": "CreateTime"})])
    assert producer_timed_topics(kafka, [CALLS.topic]) == [CALLS.topic]
    producer.send(CALLS.topic, call("old", 3, 1.0), timestamp_ms=1).get(30)
    layer = Layer(kafka)
    try:
        layer.wait(layer.caught_up)
        assert [layer.tile(user_id) for user_id in (1, 2, 3)] == [(1, 10.0), (2, 20.0), (1, 1.0)]
        assert ingest_archive(spark, kafka, CALLS).added == 4
        events = spark.read.format("delta").load(kafka.table(CALLS.table))
        spend = {row["user_id"]: float(row["sum(amount)"]) for row in events.groupBy("user_id").sum("amount").collect()}
        assert spend == {1: 10.0, 2: 20.0, 3: 1.0}

        # A topic made anew, with as many messages as it had.
        for index in range(6):
            producer.send(CALLS.topic, call(f"before{index}", 4, 1.0), partition=index % 2).get(30)
        layer.wait(layer.caught_up)
        archived = spark.read.format("delta").load(kafka.table(CALLS.archive_table)).count()
        admin.delete_topics([CALLS.topic])
        time.sleep(3)
        create_topics(kafka, {CALLS.topic: 2})
        for index in range(6):
            producer.send(CALLS.topic, call(f"after{index}", 5, 1.0), partition=index % 2).get(30)
        wait_visible(kafka, [CALLER], end_offsets(kafka, CALLS.topic), 600)
        assert layer.tile(5) == (6, 6.0), "the progress of the topic before counts for nothing"
        layer.wait(lambda: layer.starts == 2)
        # Whichever notices first: the query, while there is no such topic, or the watch, as soon as there is another.
        log = layer.log.read_text()
        assert "The topic calls was made anew" in log or "does not host this topic-partition" in log
        layer.wait(layer.caught_up)
        assert layer.tile(5) == (6, 6.0)
        wait_archived(kafka, CALLS, end_offsets(kafka, CALLS.topic), 60)
        assert spark.read.format("delta").load(kafka.table(CALLS.archive_table)).count() == archived + 6
        assert ingest_archive(spark, kafka, CALLS).added == 12
    finally:
        layer.stop()
        producer.close()
        admin.close()
