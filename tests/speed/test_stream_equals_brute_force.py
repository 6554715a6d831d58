"""The speed layer through real Kafka, Spark, Valkey and Delta: what it says equals brute force.

One story is told to one running process (`told`); each test holds one sentence about its end.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from kafka import KafkaConsumer, KafkaProducer

from features.merge import merge
from features.packed import decode_tile, encode
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.settings import Settings
from speed.replay import replay, wait_archived, wait_visible
from store.clients import store
from store.keys import PROGRESS_KEY
from tests.declarations import GROUPS, item_features, user_events, user_features
from tests.waiting import eventually

from .aloud import batch_of, brute_force, instant, stored_tiles

pytestmark = pytest.mark.stack

USERS = 60
ITEMS = ("a:b", "ü b", "\U0001f986", "7", " 7")
SPAN_MS = 4 * HOUR_MS
TILE_MS = user_features.tile_ms


@dataclass
class Story:
    """What was sent, and what came of it."""

    accepted: list[dict] = field(default_factory=list)
    misfits: dict[bytes, str] = field(default_factory=dict)
    late: dict | None = None
    sent: int = 0
    end_offsets: dict[int, int] = field(default_factory=dict)
    exit_code: int | None = None
    progress: dict = field(default_factory=dict)


def made(rng: random.Random, n: int, first_ms: int, last_ms: int, prefix: str) -> list[dict]:
    """Events on and off the boundaries, a twentieth of them sent twice, out of order by up to a minute."""
    events = []
    for index in range(n):
        ts_ms = rng.randrange(first_ms, last_ms)
        if rng.random() < 0.2:
            ts_ms = min(max(ts_ms // TILE_MS * TILE_MS + rng.choice((0, -1, 1)), first_ms), last_ms - 1)
        event_type = rng.choice(("PURCHASE", "VIEW", "CART"))
        events.append({
            "event_id": f"{prefix}-{index}", "user_id": str(rng.randrange(USERS)), "session_id": f"s{rng.randrange(8)}",
            "event_type": event_type, "amount": f"{rng.randrange(-500, 10**7) / 100:.2f}" if rng.random() < 0.8 else None,
            "item_id": rng.choice((None, "", *ITEMS)), "ts_ms": ts_ms,
        })  # fmt: skip
    sent = [*events, *rng.sample(events, n // 20)]
    sent.sort(key=lambda event: event["ts_ms"] + rng.randrange(MINUTE_MS))
    return sent


@pytest.fixture(scope="module")
def told(streaming: Settings, speed) -> Story:
    rng, story = random.Random(7), Story()
    now_ms = time.time_ns() // 1_000_000
    last_ms = now_ms - 5 * MINUTE_MS
    past = made(rng, 6_000, last_ms - SPAN_MS, last_ms, "e")

    def stream(events: list[dict], **options: float) -> None:
        batches = [batch_of(events[i : i + 500]) for i in range(0, len(events), 500)]
        story.end_offsets.update(replay(streaming, user_events, batches, **options).end_offsets)

    speed.start()
    stream(past, speedup=SPAN_MS / 1_000 / 12)
    wait_visible(streaming, GROUPS.values(), story.end_offsets)

    producer = KafkaProducer(bootstrap_servers=streaming.kafka_bootstrap)

    def send(value: bytes, key: bytes | None = b"1") -> None:
        taken = producer.send(user_events.topic, key=key, value=value).get(timeout=30)
        story.end_offsets[taken.partition] = taken.offset + 1

    good = {"event_id": "x", "user_id": 1, "session_id": "s", "event_type": "VIEW", "event_timestamp": instant(last_ms)}
    story.misfits = {
        b"\xff\xfe no JSON {": "not text in UTF-8",
        json.dumps({**good, "amount": "much"}).encode(): "amount is not a decimal",
        json.dumps({**good, "event_timestamp": "2026-01-01T00:00:00"}).encode(): "event_timestamp is not an RFC 3339",
        json.dumps({**good, "event_id": None}).encode(): "event_id is missing",
        json.dumps({**good, "event_timestamp": instant(now_ms + 365 * DAY_MS)}).encode(): "after the arrival",
    }
    for value in story.misfits:
        send(value)
    # The stream goes on behind them, and the watermark has not moved by the one from the future.
    more = made(rng, 400, last_ms, now_ms, "f")
    stream(more)
    wait_visible(streaming, GROUPS.values(), story.end_offsets)
    # The watermark of a micro-batch counts from the next one.
    nudge = [{**more[0], "event_id": f"nudge-{n}", "ts_ms": now_ms - 1} for n in range(2)]
    for event in nudge:
        stream([event])
        wait_visible(streaming, GROUPS.values(), story.end_offsets)
    story.late = {
        "event_id": "late",
        "user_id": "3",
        "session_id": "late",
        "event_type": "PURCHASE",
        "amount": "1000000.00",
        "item_id": None,
        "ts_ms": now_ms - HOUR_MS,
    }
    stream([story.late])
    story.accepted = [*past, *more, *nudge]
    story.sent = len(story.accepted) + len(story.misfits) + 1
    wait_visible(streaming, GROUPS.values(), story.end_offsets)
    wait_archived(streaming, user_events, story.end_offsets)

    def offline_is_done() -> bool:
        entries = [json.loads(raw) for raw in store(streaming).hmget(PROGRESS_KEY, [f"offline:{name}" for name in GROUPS]) if raw]
        ends = {str(partition): offset for partition, offset in story.end_offsets.items()}
        return len(entries) == len(GROUPS) and all(entry["offsets"] == ends for entry in entries)

    eventually(offline_is_done, 120)
    story.progress = {name.decode(): json.loads(raw) for name, raw in store(streaming).hgetall(PROGRESS_KEY).items()}
    story.exit_code = speed.stop()
    return story


def unique(events: list[dict]) -> list[dict]:
    return list({event["event_id"]: event for event in events}.values())


def item_brute_force(events: list[dict], q_ms: int) -> dict:
    """The features of items, read aloud."""
    hour, day = (
        [e for e in events if (q_ms - size_ms) // hop_ms * hop_ms <= e["ts_ms"] < q_ms]
        for size_ms, hop_ms in ((HOUR_MS, 5 * MINUTE_MS), (DAY_MS, HOUR_MS))
    )
    buyers = Counter(int(e["user_id"]) for e in day if e["event_type"] == "PURCHASE")
    return {
        "views_1h": sum(e["event_type"] == "VIEW" for e in hour),
        "views_1d": sum(e["event_type"] == "VIEW" for e in day),
        "purchases_1h": sum(e["event_type"] == "PURCHASE" and q_ms - HOUR_MS <= e["ts_ms"] < q_ms for e in events),
        "purchases_1d": buyers.total(),
        "buyers_1d": len(buyers),
        "top_buyers_1d": sorted(buyers, key=lambda user: (-buyers[user], user))[:3] or None,
    }


def test_tiles_in_the_store_merge_to_brute_force(streaming: Settings, told: Story) -> None:
    events, rng = unique(told.accepted), random.Random(1)
    last_ms = max(event["ts_ms"] for event in events)
    moments = [last_ms + 1, last_ms - HOUR_MS, last_ms // TILE_MS * TILE_MS, *(last_ms - rng.randrange(SPAN_MS) for _ in range(6))]
    cells, different = 0, []
    for user in range(USERS):
        mine = [event for event in events if event["user_id"] == str(user)]
        tiles = list(stored_tiles(streaming, user).values())
        for q_ms in moments:
            expected, got = brute_force(mine, q_ms), merge(user_features, None, tiles, q_ms).values
            cells += len(expected)
            different += [
                (user, q_ms, name, a, b) for name, a, b in zip(user_features.feature_names, expected, got, strict=True) if a != b
            ]
    assert cells == USERS * len(moments) * 6
    assert not different, f"{len(different)} of {cells} cells differ, such as {different[:3]}"


def test_tiles_of_items_of_any_spelling_merge_to_brute_force(streaming: Settings, told: Story) -> None:
    events, rng = unique(told.accepted), random.Random(2)
    last_ms = max(event["ts_ms"] for event in events)
    keys = {key.decode() for key in store(streaming).scan_iter("item_features:*")}
    assert keys == {item_features.key(item) for item in ITEMS}, "an event without an item has no tile of one"
    for item in ITEMS:
        mine = [event for event in events if event["item_id"] == item]
        tiles = list(stored_tiles(streaming, item, item_features).values())
        for q_ms in (last_ms + 1, *(last_ms - rng.randrange(SPAN_MS) for _ in range(8))):
            got = dict(zip(item_features.feature_names, merge(item_features, None, tiles, q_ms).values, strict=True))
            expected = item_brute_force(mine, q_ms)
            assert abs(got.pop("buyers_1d") - expected["buyers_1d"]) <= 5 * 0.0325 * expected.pop("buyers_1d") + 2
            assert got == expected, (item, q_ms)


@pytest.mark.usefixtures("told")
def test_tiles_expire(streaming: Settings) -> None:
    client = store(streaming)
    key = user_features.key(1)
    for left in client.execute_command("HPTTL", key, "FIELDS", 1, next(iter(client.hgetall(key)))):
        assert 0 < left <= streaming.tile_ttl_seconds * 1_000


def test_what_does_not_fit_is_a_dead_letter_with_its_reason_and_its_own_bytes(streaming: Settings, told: Story) -> None:
    consumer = KafkaConsumer(
        user_events.dlq_topic, bootstrap_servers=streaming.kafka_bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=3_000
    )
    letters = {record.value: record for record in consumer}
    consumer.close()
    assert letters.keys() == told.misfits.keys()
    for value, reason in told.misfits.items():
        headers = dict(letters[value].headers)
        assert reason in headers["reason"].decode()
        assert headers["topic"].decode() == user_events.topic
        assert headers["partition"].isdigit()
        assert headers["offset"].isdigit()
        assert letters[value].key == b"1"


def test_the_process_ends_well_on_sigterm_and_has_said_how_far_it_was(told: Story) -> None:
    assert told.exit_code == 0
    for name in ("online", "archive", "online:user_features", "online:item_features", "archive:user_events"):
        assert told.progress[name]["offsets"] == {str(p): offset for p, offset in told.end_offsets.items()}
        assert told.progress[name]["lag"] == 0
    assert told.progress["online"]["newest_event_ms"] == max(event["ts_ms"] for event in told.accepted)
    assert told.progress["online"]["late_rows"] >= 1


def test_the_archive_has_every_message_once_also_the_late_one_and_the_misfits(streaming: Settings, told: Story, spark) -> None:
    rows = spark.read.format("delta").load(streaming.table("raw_events")).collect()
    places = Counter((row.partition, row.offset) for row in rows)
    assert set(places.values()) == {1}
    assert len(rows) == told.sent
    values = [bytes(row.value) for row in rows]
    assert set(told.misfits) <= set(values)
    assert any(json.loads(value)["event_id"] == "late" for value in values if value.startswith(b"{") and b'"late"' in value)
    amounts = [value for value in values if value.startswith(b"{") and b'"late"' in value]
    assert b'"amount":1000000.00' in amounts[0], "a decimal is sent digit for digit"


def test_a_too_late_event_is_in_no_tile(streaming: Settings, told: Story) -> None:
    late_ms = told.late["ts_ms"]
    tile = stored_tiles(streaming, 3).get(late_ms // TILE_MS * TILE_MS)
    same = [e for e in unique(told.accepted) if e["user_id"] == "3" and e["ts_ms"] // TILE_MS == late_ms // TILE_MS]
    assert (tile.partials[0] if tile else None) == (len(same) or None)


def test_closed_tiles_are_in_the_offline_store_once_and_as_in_the_online_store(streaming: Settings, told: Story, spark) -> None:
    # The offline store reads the archive, in which the late event is.
    late = (int(told.late["user_id"]), told.late["ts_ms"] // TILE_MS * TILE_MS)
    found = spark.read.format("delta").load(streaming.table("user_features_realtime")).collect()
    rows = [row for row in found if (row.entity, row.tile_start_ms) != late]
    assert rows
    assert set(Counter((row.entity, row.tile_start_ms) for row in rows).values()) == {1}
    online = {user: stored_tiles(streaming, user) for user in range(USERS)}
    for row in rows:
        tile = online[row.entity][row.tile_start_ms]
        assert bytes(row.packed) == encode(tile)
        assert row.events_last_hour == tile.partials[0]
    watermark_ms = told.progress["offline:user_features"]["watermark_ms"]
    closed = {(user, start) for user, tiles in online.items() for start in tiles if start + TILE_MS <= watermark_ms} - {late}
    assert {(row.entity, row.tile_start_ms) for row in rows} == closed


def test_a_list_stands_as_json_in_the_offline_store(streaming: Settings, told: Story, spark) -> None:
    found = spark.read.format("delta").load(streaming.table("item_features_realtime")).collect()
    assert {row.entity for row in found} == set(ITEMS)
    index = item_features.feature_names.index("top_buyers_1d")
    with_buyers = 0
    for row in found:
        partial = decode_tile(bytes(row.packed), item_features.fingerprint).partials[index]
        top = [user for user, _ in sorted(partial or (), key=lambda pair: (-pair[1], pair[0]))[:3]]
        assert row.lists == ({"top_buyers_1d": json.dumps(top)} if top else {})
        with_buyers += bool(top)
    assert with_buyers
