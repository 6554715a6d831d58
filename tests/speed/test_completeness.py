"""Since when the tiles of the online store are complete: judged by what Kafka holds and what the store has lost, on real parts."""

from __future__ import annotations

import time

import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from infra.kafka import Held, client_options, end_offsets
from infra.settings import Settings
from speed.completeness import judge
from speed.replay import replay, wait_visible
from store.clients import store
from store.keys import version_of
from store.protocol import ALWAYS_MS, Tiles
from store.server import RedisStore
from tests.declarations import GROUPS, item_features, user_events, user_features
from tests.waiting import eventually

from .aloud import batch_of, stored_tiles

NOW, SLACK = 1_780_000_000_000, 300_000
WHOLE = Tiles("a", topic_id="t")


@pytest.mark.parametrize(
    ("known", "offsets", "held", "token", "since_ms", "whole"),
    [
        (None, {}, {0: Held(0, 0, None)}, "new", None, True),
        (None, {}, {0: Held(0, 9, 5)}, "new", None, False),
        (None, {}, {0: Held(3, 9, 5_000), 1: Held(0, 4, 1)}, "new", 5_000 + SLACK, False),
        (None, {}, {0: Held(9, 9, None)}, "new", NOW + SLACK, True),
        (WHOLE, {0: 9}, {0: Held(3, 9, 5_000)}, "a", None, True),
        (WHOLE, {0: 3}, {0: Held(3, 9, 5_000)}, "a", None, True),
        (WHOLE, {0: 2}, {0: Held(3, 9, 5_000)}, "a", 5_000 + SLACK, True),
        (WHOLE, {0: 9}, {0: Held(3, 9, 5_000), 1: Held(1, 2, 7_000)}, "a", 7_000 + SLACK, True),
        (Tiles("a", NOW, topic_id="t"), {0: 2}, {0: Held(3, 9, 5_000)}, "a", NOW, True),
        (Tiles("a", NOW, whole=False, topic_id="t"), {0: 9}, {0: Held(3, 9, 5_000)}, "a", NOW, False),
        (WHOLE, {0: 10}, {0: Held(0, 9, 5_000)}, "new", NOW + SLACK, False),
        (Tiles("a", topic_id="before"), {0: 9}, {0: Held(0, 9, 5_000)}, "new", NOW + SLACK, False),
    ],
    ids=["an empty topic", "a topic from its beginning", "retention before the first start", "everything deleted", "goes on", "goes on at the first",
         "retention while it was down", "a partition that it has not read", "what was missing stays missing", "still being read again", "messages that the brokers lost", "a topic made anew"],
)  # fmt: skip
def test_tiles_are_complete_since_the_first_message_that_was_not_missed(
    known: Tiles | None, offsets: dict[int, int], held: dict[int, Held], token: str, since_ms: int | None, whole: bool
) -> None:
    found = judge(known, "t", offsets, held, NOW, SLACK)
    assert (found.complete_since_ms, found.whole) == (since_ms, whole)
    assert (found.token == "a", found.topic_id) == (token == "a", "t")


def events(prefix: str, count: int) -> list[dict]:
    now_ms = time.time_ns() // 1_000_000
    return [
        {"event_id": f"{prefix}-{n}", "user_id": str(n % 20), "session_id": "s", "event_type": "PURCHASE", "amount": "1.00",
         "item_id": "i", "ts_ms": now_ms - 3_600_000 + n}
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.stack
@pytest.mark.long  # minutes of restarts on real services
def test_a_store_that_fell_back_is_filled_again_and_what_kafka_no_longer_holds_is_said(streaming: Settings, speed) -> None:
    client, online = store(streaming), RedisStore(streaming)

    def send(prefix: str, count: int = 200) -> None:
        replay(streaming, user_events, [batch_of(events(prefix, count))])
        wait_visible(streaming, GROUPS.values(), end_offsets(streaming, user_events.topic))

    def counted() -> int:
        return sum(tile.partials[0] for user in range(20) for tile in stored_tiles(streaming, user).values())

    def snapshot() -> dict[bytes, bytes]:
        return {key: client.dump(key) for key in client.scan_iter("*")}

    def eventually_whole(count: int, before: str) -> None:
        """The process has ended by itself, and begins again with another stream of tiles."""
        assert speed.wait() == 1
        speed.start()
        eventually(lambda: online.tiles("user_features")[version].whole and counted() == count)
        assert online.tiles("user_features")[version].token != before

    version = version_of(user_features.fingerprint)
    client.flushall()
    speed.start()
    send("a")
    first = counted()
    assert online.read(user_features, [1]).complete_since_ms == ALWAYS_MS
    newest_ms = online.progress()["online"]["newest_event_ms"]
    token = online.tiles("user_features")[version].token

    # Started again without any event, the groups are as fresh as they were.
    assert speed.stop() == 0
    speed.start()
    time.sleep(1)
    assert online.progress()["online"]["newest_event_ms"] == newest_ms
    assert online.tiles("user_features")[version].token == token

    # An older file of the store, as after a crash: what it lacks is read again.
    old = snapshot()
    send("b")
    assert counted() == first + 200
    client.flushall()
    for key, dump in old.items():
        client.restore(key, 0, dump)
    eventually_whole(first + 200, token)

    # Kafka has deleted what the emptied store would need.
    ends = end_offsets(streaming, user_events.topic)
    admin = KafkaAdminClient(**client_options(streaming))
    admin.delete_records({TopicPartition(user_events.topic, partition): offset for partition, offset in ends.items()})
    admin.close()
    token = online.tiles("user_features")[version].token
    deleted_ms = time.time_ns() // 1_000_000
    client.flushall()
    eventually_whole(0, token)
    for group in (user_features, item_features):
        assert online.read(group, [1]).complete_since_ms >= deleted_ms
    send("c")
    assert counted() == 200
    speed.stop()
