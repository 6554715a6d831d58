"""Tiles by Flink through real Kafka and Valkey: what is stored equals brute force, while the TaskManager, the JobManager and the writer are killed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaProducer

from features.declaration import FeatureGroup
from features.merge import merge
from features.windows import HOUR_MS, MINUTE_MS
from infra.embedded import services
from infra.kafka import end_offsets
from infra.settings import Settings
from speed.checkpoints import checkpoints
from speed.flink.cluster import Cluster
from speed.replay import replay, wait_visible
from store.clients import store
from store.keys import version_of
from store.server import open_store
from tests.declarations import GROUPS, user_events, user_features
from tests.oracle import oracle
from tests.speed.aloud import batch_of, instant, stored_tiles
from tests.speed.process import Speed
from tests.speed.test_kappa import unique
from tests.speed.test_stream_equals_brute_force import ITEMS, USERS, made
from tests.speed.transactions import send_in_transactions
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(900)]

MISFITS = (b"\xff\xfe no JSON {", b"", b"[]", b"null")
SERVICES = ("kafka", "valkey", "flink-jobmanager", "flink-taskmanager")


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("flink")
    settings = Settings.load(home).model_copy(
        update={"engine": "flink", "store_timeout_seconds": 5, "archive_seconds": 5, "offline_seconds": 600, "speed_memory": "768m"}
    )
    services.up(settings, {user_events.topic: 4, user_events.dlq_topic: 1}, only=SERVICES)
    yield settings
    services.down(settings)


def differing(settings: Settings, group: FeatureGroup, events: list[dict[str, Any]]) -> tuple[int, list[Any]]:
    """The number of cells, and those in which the stored tiles and brute force differ."""
    rng = random.Random(1)
    last_ms = max(event["ts_ms"] for event in events)
    instants_ms = [last_ms + 1, last_ms - HOUR_MS, *(last_ms - rng.randrange(2 * HOUR_MS) for _ in range(3))]
    ids: list[int | str] = list(range(USERS)) if group.name == "user_features" else list(ITEMS)
    cells, different = 0, []
    for entity in ids:
        tiles = list(stored_tiles(settings, entity, group).values())
        for q_ms in instants_ms:
            values, expected = merge(group, None, tiles, q_ms).values, oracle(group, events, entity, q_ms)
            cells += len(expected)
            pairs = zip(group.feature_names, values, expected.values(), strict=True)
            # An estimate is not that of the oracle, which counts.
            different += [(entity, q_ms, name, a, b) for name, a, b in pairs if a != b and name != "buyers_1d"]
    return cells, different


def all_equal(settings: Settings, events: list[dict[str, Any]]) -> None:
    for group in GROUPS.values():
        cells, different = differing(settings, group, unique(events))
        assert cells
        assert not different, f"{len(different)} of {cells} cells of {group.name} differ, such as {different[:3]}"
        tiles = open_store(settings).tiles(group.name)[version_of(group.fingerprint)]
        assert (tiles.whole, tiles.complete_since_ms) == (True, None), "nothing is degraded"


def test_every_cell_is_that_of_brute_force_through_kills_of_every_part(flink: Settings) -> None:
    speed, rng = Speed(flink), random.Random(5)
    sent, ends = list[dict[str, Any]](), dict[int, int]()
    now_ms = time.time_ns() // 1_000_000
    begin_ms = now_ms - 3 * HOUR_MS
    producer = KafkaProducer(bootstrap_servers=flink.kafka_bootstrap)

    def stream(count: int, part: int, **options: float) -> None:
        first_ms = begin_ms + part * 30 * MINUTE_MS
        events = made(rng, count, first_ms, first_ms + 30 * MINUTE_MS, f"p{part}")
        sent.extend(events)
        batches = [batch_of(events[at : at + 100]) for at in range(0, len(events), 100)]
        ends.update(replay(flink, user_events, batches, **options).end_offsets)
        for value in MISFITS:
            taken = producer.send(user_events.topic, key=b"1", value=value).get(timeout=30)
            ends[taken.partition] = taken.offset + 1

    def offsets() -> dict[str, int]:
        return open_store(flink).progress().get("online", {}).get("offsets", {})

    def wait(what: str) -> None:
        began = time.monotonic()
        wait_visible(flink, GROUPS.values(), ends)
        print(f"{what}: all visible after {time.monotonic() - began:.1f} s")
        all_equal(flink, sent)

    try:
        speed.start()
        stream(1_000, 0)
        wait("from the start")

        # The writer, in the middle of what comes.
        stream(1_000, 1, speedup=400)
        before = offsets()
        eventually(lambda: offsets() != before, 30, 0.01)
        speed.kill()
        stream(500, 2)
        speed.start()
        wait("the writer was killed")

        stream(500, 3)
        services.kill(flink, "flink-taskmanager")
        stream(500, 3, speedup=2_000)
        wait("the TaskManager was killed")

        stream(500, 4)
        services.kill(flink, "flink-jobmanager")
        stream(500, 4, speedup=2_000)
        wait("the JobManager was killed")

        # All of it at once.
        stream(500, 5)
        speed.kill()
        services.kill(flink, "flink-taskmanager")
        services.kill(flink, "flink-jobmanager")
        stream(500, 5)
        speed.start()
        wait("all were killed")
        progress = open_store(flink).progress()["online"]
        assert progress["copies"] >= 0
        assert progress["lag"] == 0

        # What Flink cannot decide is named.
        odd = {
            "event_id": ["a"],
            "user_id": 1,
            "session_id": "s",
            "event_type": "VIEW",
            "event_timestamp": instant(now_ms - MINUTE_MS),
        }
        taken = producer.send(user_events.topic, key=b"1", value=json.dumps(odd).encode()).get(timeout=30)
        ends[taken.partition] = taken.offset + 1
        wait_visible(flink, GROUPS.values(), ends)
        for group in GROUPS.values():
            since_ms = open_store(flink).tiles(group.name)[version_of(group.fingerprint)].complete_since_ms
            assert since_ms is not None
            assert since_ms > now_ms + flink.future_seconds * 1_000

        # A lost store: the stream is read again, by another job.
        [name] = checkpoints(open_store(flink))
        store(flink).flushall()
        assert speed.wait() == 1
        speed.start()
        eventually(lambda: checkpoints(open_store(flink)) not in ([], [name]))
        wait_visible(flink, GROUPS.values(), ends)
        for group in GROUPS.values():
            cells, different = differing(flink, group, unique(sent))
            assert not different, f"{len(different)} of {cells} cells of {group.name} differ, such as {different[:3]}"
        assert len(Cluster(flink).jobs() or {}) == 1, "the job of the lost store has ended"
        assert speed.stop() == 0
    finally:
        speed.stop()
        producer.close()


def test_what_was_committed_counts_and_what_was_aborted_does_not(flink: Settings) -> None:
    speed, user, now_ms = Speed(flink), USERS + 1, time.time_ns() // 1_000_000

    def view(name: str) -> bytes:
        event = {"event_id": f"transactional {name}", "user_id": user, "session_id": "s", "event_type": "VIEW"}
        return json.dumps({**event, "event_timestamp": instant(now_ms - MINUTE_MS)}).encode()

    try:
        speed.start()
        send_in_transactions(flink, user_events.topic, map(view, "abc"), map(view, "de"))
        # What the end of a transaction takes in the topic is passed over, too.
        wait_visible(flink, GROUPS.values(), end_offsets(flink, user_events.topic))
        values = merge(user_features, None, list(stored_tiles(flink, user).values()), now_ms).values
        assert values[user_features.feature_names.index("events_last_hour")] == 2
        eventually(lambda: open_store(flink).progress()["online"]["lag"] == 0)
    finally:
        speed.stop()
