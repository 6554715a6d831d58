"""Everything at once: events of which some are double, late, malformed, too large or of next year; the speed layer and the broker are
killed meanwhile. What is served at the end equals brute force, and every message is accounted for.

A short storm has 10,000 events and 2 kills of the speed layer, the long one 100,000 and 50; `BRAID_TEST_KILLS=20 pytest
tests/speed/test_storm.py` makes the short one longer.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from kafka import KafkaConsumer

from batch.events import ingest_archive
from batch.tiles import build_tiles, stale_days
from batch.view import build_view, view_table
from features.merge import merge
from features.packed import decode_batch
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.embedded import services
from infra.embedded.supervision import Supervisor
from infra.kafka import end_offsets
from infra.settings import Settings
from speed.replay import replay, wait_archived, wait_visible
from tests.declarations import GROUPS, user_events, user_features
from tests.waiting import eventually

from .aloud import batch_of, brute_force, stored_tiles

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.stack

USERS = 200
KILLS = int(os.environ.get("BRAID_TEST_KILLS", "2"))
SPAN_MS = 2 * DAY_MS
TILE_MS = user_features.tile_ms
LATE_MS = SPAN_MS + HOUR_MS


@dataclass
class Storm:
    """What was sent: events that count in the stream, those that only the next batch can count, and how many of each other kind."""

    settings: Settings
    last_ms: int
    kills_planned: int
    good: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)
    doubles: int = 0
    misfits: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    refused: int = 0
    kills: int = 0
    broker_kills: int = 0

    @property
    def events(self) -> int:
        """Before doubles."""
        return min(100_000, 5_000 * self.kills_planned)

    @property
    def broker_kills_planned(self) -> int:
        """One for each four of the speed layer, at most five."""
        return min(5, max(1, self.kills_planned // 4))


def weather(rng: random.Random, storm: Storm) -> list[dict[str, Any]]:
    """The messages in the order of sending; `at` is when, in event time. What is late is older than all else, so that it is too late however far the stream is."""
    messages = []
    for index in range(storm.events):
        ts_ms = storm.last_ms - SPAN_MS + SPAN_MS * index // storm.events
        if rng.random() < 0.2:
            ts_ms = ts_ms // TILE_MS * TILE_MS + rng.choice((0, -1, 1))
        amount = f"{rng.randrange(-500, 10**7) / 100:.2f}" if rng.random() < 0.8 else None
        event: dict[str, Any] = {
            "event_id": f"e{index}", "user_id": str(rng.randrange(USERS)), "session_id": f"s{rng.randrange(8)}",
            "event_type": rng.choice(("PURCHASE", "VIEW")), "amount": amount, "ts_ms": ts_ms, "at": ts_ms,
        }  # fmt: skip
        kind = rng.random()
        if kind < 0.0625 and index > storm.events // 5:
            event["ts_ms"] -= LATE_MS + rng.randrange(HOUR_MS)
            storm.late.append(event)
        elif (kind := rng.random()) < 0.01:
            event["amount"] = "much"
            storm.misfits["amount is not a decimal"] += 1
        elif kind < 0.011:
            event["ts_ms"] += 365 * DAY_MS
            storm.misfits["after the arrival"] += 1
        elif kind < 0.012:
            event["session_id"] = "x" * 1_200_000
            storm.misfits["too large"] += 1
        else:
            if kind < 0.112:
                event["at"] += rng.randrange(2 * MINUTE_MS)  # out of order
            storm.good.append(event)
            if rng.random() < 0.05:
                messages.append({**event, "at": event["at"] + rng.randrange(MINUTE_MS)})
                storm.doubles += 1
        messages.append(event)
    return sorted(messages, key=lambda message: message["at"])


@pytest.fixture(scope="module", params=[KILLS, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])])
def kills(request: pytest.FixtureRequest) -> int:
    """How often the speed layer is killed."""
    return request.param


@pytest.fixture(scope="module")
def sky(kills: int, tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Settings]:
    """Kafka, Valkey and the speed layer under their supervisor, which starts again what is killed."""
    settings = Settings.load(tmp_path_factory.mktemp("storm")).model_copy(update={"archive_seconds": 1, "speed_memory": "768m"})
    try:
        services.up(settings, {user_events.topic: 4, user_events.dlq_topic: 1}, only={"kafka", "valkey", "speed"})
        yield settings
    finally:
        services.down(settings)


@pytest.fixture(scope="module")
def storm(sky: Settings, kills: int) -> Storm:
    rng = random.Random(2_026)
    storm = Storm(sky, time.time_ns() // 1_000_000 - 10 * MINUTE_MS, kills)
    messages = weather(rng, storm)

    def strike(name: str, times: int, *lives: tuple[float, float]) -> None:
        source = random.Random(f"{name}{times}")
        for index in range(times):
            time.sleep(source.uniform(*lives[index % len(lives)]))
            services.kill(sky, name)
            if name == "speed":
                storm.kills += 1
            else:
                storm.broker_kills += 1

    def send(batches: Iterable[pa.RecordBatch]) -> None:
        report = replay(sky, user_events, batches)
        storm.sent += report.sent
        storm.refused += report.refused

    def batches(some: list[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
        return (batch_of(some[i : i + 200]) for i in range(0, len(some), 200))

    def spread(some: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Evenly over the blows: as large a part is sent as of them has fallen; the last after the last."""
        for index, batch in enumerate(some):
            due = (storm.kills_planned + storm.broker_kills_planned) * index // len(some)
            eventually(lambda due=due: storm.kills + storm.broker_kills >= due)
            time.sleep(0.05)
            yield batch

    begin = storm.events // 10
    for part in range(3):  # the watermark of a micro-batch counts from the next one
        send(batches(messages[begin * part // 3 : begin * (part + 1) // 3]))
        wait_visible(sky, GROUPS.values(), end_offsets(sky, user_events.topic))
    lives = (2, 6), (10, 16)  # every other one is long enough for some work
    blows = [
        threading.Thread(target=strike, args=("speed", storm.kills_planned, *lives)),
        threading.Thread(target=strike, args=("kafka", storm.broker_kills_planned, (15, 40))),
    ]
    for one in blows:
        one.start()
    send(spread(list(batches(messages[begin:]))))
    for one in blows:
        one.join(120)
        assert not one.is_alive()
    services.wait_healthy(sky, ["kafka"])  # the speed layer may fail once more, of a broker that was killed last
    ends = end_offsets(sky, user_events.topic)
    wait_visible(sky, GROUPS.values(), ends)
    wait_archived(sky, user_events, ends)
    return storm


def by_user(events: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found = defaultdict(list)
    for event in events:
        found[int(event["user_id"])].append(event)
    return found


def moments(storm: Storm) -> list[int]:
    rng = random.Random(3)
    return [storm.last_ms + HOUR_MS, storm.last_ms + 1, *(storm.last_ms - rng.randrange(SPAN_MS) for _ in range(3))]


def differences(storm: Storm) -> list[Any]:
    found, cells = [], 0
    for user, mine in by_user(storm.good).items():
        tiles = list(stored_tiles(storm.settings, user).values())
        for q_ms in moments(storm):
            right, got = brute_force(mine, q_ms), merge(user_features, None, tiles, q_ms).values
            cells += len(right)
            found += [
                (user, q_ms, name, a, b) for name, a, b in zip(user_features.feature_names, right, got, strict=True) if a != b
            ]
    assert cells == USERS * 5 * 6
    return found


def test_no_cell_differs_after_every_blow(storm: Storm) -> None:
    assert (storm.kills, storm.broker_kills) == (storm.kills_planned, storm.broker_kills_planned)
    assert differences(storm) == []


def test_every_message_is_good_double_late_or_a_dead_letter(storm: Storm) -> None:
    assert storm.refused == storm.misfits["too large"]
    misfits = sum(storm.misfits.values()) - storm.refused
    assert storm.sent == len(storm.good) + storm.doubles + len(storm.late) + misfits
    counted = sum(tile.partials[0] for user in range(USERS) for tile in stored_tiles(storm.settings, user).values())
    assert counted == len(storm.good), "each good event once, and no late one"
    consumer = KafkaConsumer(
        user_events.dlq_topic,
        bootstrap_servers=storm.settings.kafka_bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=5_000,
    )
    letters = {json.loads(letter.value)["event_id"]: dict(letter.headers)["reason"].decode() for letter in consumer}
    consumer.close()
    assert len(letters) == misfits
    for clause in ("amount is not a decimal", "after the arrival"):
        assert sum(clause in reason for reason in letters.values()) == storm.misfits[clause]


def test_the_archive_has_every_message_of_the_broker_once(storm: Storm, spark: SparkSession) -> None:
    rows = spark.read.format("delta").load(storm.settings.table("raw_events")).select("partition", "offset")
    ends = end_offsets(storm.settings, user_events.topic)
    assert rows.count() == rows.distinct().count() == sum(ends.values())
    assert sum(ends.values()) >= storm.sent, "a producer that was cut off may have sent again"


def test_a_start_waits_for_the_broker_and_a_checkpoint_whose_last_commit_is_gone_goes_on_without_a_difference(
    storm: Storm, spark: SparkSession
) -> None:
    settings = storm.settings
    before = spark.read.format("delta").load(settings.table("raw_events")).count()
    supervisor = Supervisor(settings)
    supervisor.stop(["speed"])  # before the broker, which it would wait for at its end
    supervisor.stop(["kafka"])
    gone = 0
    for commits in settings.home.rglob("commits"):
        newest = max((one for one in commits.iterdir() if one.name.isdigit()), key=lambda one: int(one.name))
        newest.unlink()
        (commits / f".{newest.name}.crc").unlink(missing_ok=True)
        gone += 1
    assert gone == 2, "the online query of the source, and its archive"
    log = supervisor.log_path("speed")
    begin = log.stat().st_size
    supervisor.start("speed")
    eventually(lambda: "Waiting for" in log.read_text()[begin:])
    supervisor.start("kafka")
    services.wait_healthy(settings, ["kafka", "speed"])
    ends = end_offsets(settings, user_events.topic)
    wait_visible(settings, GROUPS.values(), ends)
    wait_archived(settings, user_events, ends)
    assert differences(storm) == []
    assert spark.read.format("delta").load(settings.table("raw_events")).count() == before


def test_after_the_next_batch_the_late_ones_count(storm: Storm, spark: SparkSession) -> None:
    settings, cut = storm.settings, storm.last_ms - HOUR_MS
    report = ingest_archive(spark, settings, user_events)
    assert report.added == len(storm.good) + len(storm.late)
    build_tiles(spark, settings, user_features, stale_days(spark, settings, user_features))
    build_view(spark, settings, user_features, cut)
    rows = spark.read.format("delta").load(settings.table(view_table(user_features))).select("entity", "packed").collect()
    views = {row["entity"]: decode_batch(bytes(row["packed"]), user_features.fingerprint) for row in rows}
    q_ms, different = storm.last_ms + 1, []
    for user, mine in by_user(storm.good + storm.late).items():
        got = merge(user_features, views[user], list(stored_tiles(settings, user).values()), q_ms).values
        different += [(user, a, b) for a, b in zip(brute_force(mine, q_ms), got, strict=True) if a != b]
    assert different == []
