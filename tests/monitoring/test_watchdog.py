"""The watchdog, on a real Kafka and a real store: each condition is seen to be broken, by `guards` and by `braid doctor`, and told as an alert."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from features.project import Project
from features.windows import BUFFER_MS, DAY_MS, HOUR_MS
from infra.embedded import services
from infra.kafka import Held, Retention, create_topics, delete_messages, held, open_transaction_ms
from infra.settings import Settings
from monitoring.alerts import Alerts
from monitoring.watchdog import LONGEST_TRANSACTION_MS, Guard, guards, retention_guard, transaction_guard
from orchestration.deployment import Deployment
from orchestration.sensors.health import sensors_of
from orchestration.topics import topics
from store.clients import store
from store.protocol import View
from store.server import open_store
from tests.declarations import project, user_events
from tests.waiting import eventually

NOW = time.time_ns() // 1_000_000
TOPIC = user_events.topic


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Settings]:
    settings = Settings.load(tmp_path_factory.mktemp("watchdog"))
    try:
        services.up(settings, topics(project), only={"kafka", "valkey"})
        for group in project.groups:
            view = open_store(settings).begin_publication(group, View(NOW - 2 * DAY_MS, NOW))
            open_store(settings).end_publication(group, view, 0, None)
        yield settings
    finally:
        services.down(settings)


def broken(settings: Settings) -> dict[str, Guard]:
    return {guard.key: guard for guard in guards(settings, project) if not guard.holds}


def configure(settings: Settings, topic: str = TOPIC, **configs: str) -> None:
    """Sets some of a topic's configuration."""
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    named = {name.replace("_", "."): value for name, value in configs.items()}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=named)])
    admin.close()


@pytest.mark.parametrize(
    ("retention", "age_ms", "holds"),
    [
        (Retention(7 * DAY_MS, False, NOW - 2 * DAY_MS, False), 6 * DAY_MS, True),
        (Retention(7 * DAY_MS, False, NOW - 2 * DAY_MS, False), 8 * DAY_MS, False),
        (Retention(None, False, NOW - 2 * DAY_MS, False), 800 * DAY_MS, True),
        (Retention(None, True, NOW - 2 * DAY_MS, False), HOUR_MS, False),  # compacted
        (Retention(7 * DAY_MS, False, NOW - HOUR_MS, True), 800 * DAY_MS, True),  # a past that was replayed an hour ago
        (Retention(7 * DAY_MS, False, NOW - 8 * DAY_MS, True), 800 * DAY_MS, False),  # or a week ago
        (Retention(7 * DAY_MS, False, None, False), 8 * DAY_MS, False),  # all of it is gone
        (
            Retention(7 * DAY_MS, False, NOW - 6 * DAY_MS, False, NOW - HOUR_MS),
            DAY_MS,
            False,
        ),  # a partition has grown beyond its bytes
        (Retention(7 * DAY_MS, False, NOW - 6 * DAY_MS, False, NOW - 2 * DAY_MS), DAY_MS, True),  # it has, before batch_end
    ],
)
def test_a_topic_keeps_what_came_since_batch_end(retention: Retention, age_ms: int, holds: bool) -> None:
    assert retention_guard(TOPIC, retention, NOW - age_ms, NOW).holds is holds


def test_tiles_live_as_long_as_the_buffer() -> None:
    short = Settings.load().model_copy(update={"tile_ttl_seconds": 60})
    assert short.tiles_kept_seconds(BUFFER_MS) * 1_000 == BUFFER_MS + DAY_MS
    assert short.model_copy(update={"tile_ttl_seconds": 10 * 86_400}).tiles_kept_seconds(BUFFER_MS) == 10 * 86_400


def test_each_condition_is_seen_to_be_broken(deployment: Settings) -> None:
    producer = KafkaProducer(bootstrap_servers=deployment.kafka_bootstrap)
    for partition in range(4):
        producer.send(TOPIC, b"{}", partition=partition).get()
    producer.close()
    assert broken(deployment) == {}
    keys = {"eviction:store", f"retention:{TOPIC}", f"transactions:{TOPIC}"}
    assert {guard.key for guard in guards(deployment, project)} == keys

    configure(deployment, retention_ms=str(DAY_MS))
    assert broken(deployment) == {}, "nothing has been deleted yet, and the first message came just now"
    delete_messages(deployment, TOPIC, {0: 1})
    assert list(broken(deployment)) == [f"retention:{TOPIC}"]
    configure(deployment, retention_ms=str(7 * DAY_MS), cleanup_policy="compact")
    assert "compacted" in broken(deployment)[f"retention:{TOPIC}"].message
    configure(deployment, cleanup_policy="delete")
    assert broken(deployment) == {}
    configure(deployment, retention_bytes="1000000")
    assert broken(deployment) == {}, "nothing is left of the partition whose messages are deleted, so nobody knows what they were"
    producer = KafkaProducer(bootstrap_servers=deployment.kafka_bootstrap)
    producer.send(TOPIC, b"{}", partition=0).get()
    producer.close()
    assert "keeps only so many bytes" in broken(deployment)[f"retention:{TOPIC}"].message
    configure(deployment, retention_bytes="-1")
    assert broken(deployment) == {}

    store(deployment).config_set("maxmemory-policy", "allkeys-lru")
    assert broken(deployment) == {}, "without a bound on its memory it drops nothing"
    store(deployment).config_set("maxmemory", "1gb")
    assert "allkeys-lru" in broken(deployment)["eviction:store"].message
    store(deployment).config_set("maxmemory-policy", "noeviction")
    assert broken(deployment) == {}
    assert broken(deployment.model_copy(update={"tile_ttl_seconds": 3_600})) == {}, "tiles outlast the buffer whatever the setting"


def test_a_topic_that_does_not_exist_is_seen_and_hides_no_other_condition(deployment: Settings) -> None:
    moved = replace(user_events, topic="nowhere")
    elsewhere = Project((moved,), [replace(group, source=moved) for group in project.groups])
    by_key = {guard.key: guard for guard in guards(deployment, elsewhere)}
    assert set(by_key) == {"eviction:store", "transactions:nowhere", "retention:nowhere"}
    assert [key for key, guard in by_key.items() if not guard.holds] == ["retention:nowhere"]
    assert "the topic does not exist" in by_key["retention:nowhere"].message


def test_a_record_time_before_there_was_kafka_is_no_arrival(deployment: Settings) -> None:
    create_topics(deployment, {"old": 2})
    configure(deployment, "old", message_timestamp_type="CreateTime")
    producer = KafkaProducer(bootstrap_servers=deployment.kafka_bootstrap)
    for partition, timestamp_ms in ((0, 1), (1, NOW - DAY_MS)):
        producer.send("old", b"{}", partition=partition, timestamp_ms=timestamp_ms).get(30)
    producer.close()
    assert held(deployment, "old") == {0: Held(0, 1, None), 1: Held(0, 1, NOW - DAY_MS)}


def test_a_transaction_that_stays_open_is_seen(deployment: Settings) -> None:
    assert open_transaction_ms(deployment, TOPIC) is None
    producer = KafkaProducer(bootstrap_servers=deployment.kafka_bootstrap, transactional_id="open")
    other = KafkaProducer(bootstrap_servers=deployment.kafka_bootstrap)
    try:
        producer.init_transactions()
        producer.begin_transaction()
        arrived_ms = producer.send(TOPIC, b"{}", partition=2).get(30).timestamp
        other.send(TOPIC, b"{}", partition=2).get(30)
        other.send(TOPIC, b"{}", partition=1).get(30)
        assert open_transaction_ms(deployment, TOPIC) == arrived_ms
        producer.commit_transaction()
        eventually(lambda: open_transaction_ms(deployment, TOPIC) is None)
    finally:
        producer.close()
        other.close()
    assert transaction_guard(TOPIC, None, NOW).holds
    assert transaction_guard(TOPIC, NOW - LONGEST_TRANSACTION_MS, NOW).holds
    hanging = transaction_guard(TOPIC, NOW - 10 * LONGEST_TRANSACTION_MS, NOW)
    assert not hanging.holds
    assert "open for 10 minutes" in hanging.message


def test_what_is_broken_is_told_by_doctor_and_as_an_alert(deployment: Settings) -> None:
    settings = deployment
    store(settings).config_set("maxmemory-policy", "allkeys-lru")
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "--home", str(settings.home), "doctor", "--json"],
        env={**os.environ, **settings.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert not checks["eviction:store"]["ok"]
    assert "noeviction" in checks["eviction:store"]["cure"]

    [sensor] = sensors_of(Deployment(project, settings))
    with dg.instance_for_test() as instance:
        sensor(dg.build_sensor_context(instance=instance))
        assert Alerts(settings).open()["eviction:store"]["severity"] == "HIGH"
        store(settings).config_set("maxmemory-policy", "noeviction")
        sensor(dg.build_sensor_context(instance=instance))
    assert Alerts(settings).open() == {}
