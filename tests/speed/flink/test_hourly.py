"""The job of examples/shop/hourly.sql on a cluster, over a real topic: each window has the rows of brute force."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka import KafkaConsumer, KafkaProducer

from features.windows import HOUR_MS, MINUTE_MS
from infra.embedded import services
from infra.flink.cluster import rest_url
from infra.kafka import create_topics
from infra.settings import Settings
from speed.flink.cluster import Cluster
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[3] / "examples" / "shop" / "hourly.sql"
FIRST_MS = 1_900_000_800_000 // HOUR_MS * HOUR_MS
OUTPUT = "hourly_features"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = Settings.load(tmp_path_factory.mktemp("hourly")).model_copy(update={"engine": "flink"})
    services.up(settings, {}, only=("kafka", "flink-jobmanager", "flink-taskmanager"))
    create_topics(settings, {"user_events": 2, OUTPUT: 1})
    yield settings
    services.down(settings)


def time_of(ts_ms: int) -> str:
    """As the job reads it: a time in UTC, without saying so."""
    return datetime.fromtimestamp(ts_ms / 1_000, UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")


def test_each_window_has_what_brute_force_counts(cluster: Settings) -> None:
    Cluster(cluster).submit(SCRIPT.read_text().replace("{brokers}", cluster.kafka_bootstrap))

    def running() -> bool:
        jobs = httpx.get(f"{rest_url(cluster)}/jobs/overview").json()["jobs"]
        return bool(jobs) and jobs[0]["tasks"]["running"] == jobs[0]["tasks"]["total"]

    eventually(running, 60)
    rng, events = random.Random(3), list[dict[str, Any]]()
    for index in range(1_500):
        event_type = rng.choice(("PURCHASE", "VIEW", "CART"))
        event = {"event_id": f"e{index}", "user_id": rng.randrange(20), "event_type": event_type, "amount": rng.randrange(400) / 4}
        events.append({**event, "ts_ms": FIRST_MS + rng.randrange(3 * HOUR_MS)})
    events += rng.sample(events, 75)
    # Out of order by less than the watermark waits for.
    events.sort(key=lambda event: event["ts_ms"] + rng.randrange(4_000))
    expected: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        expected[event["user_id"], event["ts_ms"] // HOUR_MS * HOUR_MS].append(event)
    producer = KafkaProducer(bootstrap_servers=cluster.kafka_bootstrap)
    # One partition, because the order of two is not that of the events; the other is idle.
    events.append({**events[-1], "event_id": "end", "user_id": 99, "ts_ms": FIRST_MS + 3 * HOUR_MS + MINUTE_MS})
    for event in events:
        row = {**event, "event_timestamp": time_of(event["ts_ms"])}
        producer.send(
            "user_events", json.dumps({name: value for name, value in row.items() if name != "ts_ms"}).encode(), partition=0
        )
    producer.flush()
    producer.close()
    consumer = KafkaConsumer(
        OUTPUT, bootstrap_servers=cluster.kafka_bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=500
    )
    rows: dict[tuple[int, str], dict[str, Any]] = {}

    def all_windows() -> bool:
        for record in consumer:
            row = json.loads(record.value)
            rows[row["user_id"], row["window_start"]] = row
        return len(rows) >= len(expected)

    eventually(all_windows, 60)
    consumer.close()
    assert len(rows) == len(expected)
    for (user, start_ms), mine in expected.items():
        row = rows[user, time_of(start_ms).replace("T", " ").removesuffix(".000")]
        assert row["events_last_hour"] == len(mine)
        assert row["spend_last_hour"] == sum(event["amount"] for event in mine if event["event_type"] == "PURCHASE")
        assert row["unique_events"] == len({event["event_id"] for event in mine})
