"""The whole way, by hand, on anyone's file, through the real stack: up, load, backfill, replay, ask over HTTP, compare with brute force."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from unittest.mock import ANY

import duckdb
import httpx
import pytest
from kafka import KafkaConsumer, KafkaProducer

from features.windows import BUFFER_MS
from infra.kafka import end_offsets
from orchestration.proof import prove
from speed.visible import wait_visible
from tests.declarations import GROUPS, repurchase, user_events, user_features

if TYPE_CHECKING:
    from .conftest import Shop

MINUTE_MS, DAY_MS = 60_000, 86_400_000


def test_a_file_is_loaded_and_its_misfits_are_counted(shop: Shop) -> None:
    assert shop.loaded["read"] == 12_603
    assert shop.loaded["loaded"] == 12_000
    assert shop.loaded["duplicates"] == 600
    assert shop.loaded["quarantined"] == 3
    assert shop.replayed["sent"] == 860


@pytest.mark.parametrize("after_ms", [0, 1, 2 * MINUTE_MS, 61 * MINUTE_MS, DAY_MS // 2 + 7, DAY_MS + 1])
def test_what_is_served_is_brute_force_at_any_time_from_the_cut_on(shop: Shop, after_ms: int) -> None:
    report = prove(shop.settings, user_features, [shop.raw], shop.users, shop.cut_ms + after_ms)
    assert report.cells_compared == len(shop.users) * 6
    assert report.differences == []
    assert report.degraded == 0


@pytest.mark.parametrize("days", [1, 2, 3])
def test_a_late_batch_is_answered_right_to_its_buffers_end_and_marked_after_it(shop: Shop, days: int) -> None:
    report = prove(shop.settings, user_features, [shop.raw], shop.users, shop.cut_ms + days * DAY_MS)
    assert report.cells_compared == len(shop.users) * 6
    beyond = days * DAY_MS > BUFFER_MS
    assert bool(report.degraded) is beyond
    of_the_view = {feature.name for feature in user_features.features if feature.window and feature.window.size_ms > BUFFER_MS}
    assert {one.feature for one in report.differences} <= (of_the_view if beyond else set())


def test_the_command_line_shows_the_parts_and_the_merged_values(shop: Shop) -> None:
    found = shop.braid("features", "5", "999999", "--at", str(shop.cut_ms + DAY_MS))
    known, unknown = found["rows"]
    assert known["parts"]["batch"]["batch_end"] == known["provenance"]["batch_end"]
    assert known["provenance"]["tiles_merged"] <= len(known["parts"]["tiles"])
    assert known["provenance"]["degraded"] is False
    assert unknown["provenance"]["missing"] == list(user_features.feature_names)
    assert unknown["features"]["events_last_hour"] == 0


def test_status_knows_the_batch_end_the_lag_and_every_service(shop: Shop) -> None:
    found = shop.braid("status")
    assert found["healthy"] is True
    assert found["lag"] == 0
    assert found["batch_end"] == shop.backfilled["batch_end"] == "2026-06-15T13:00:47.123Z"
    assert httpx.get(f"{found['urls']['dagster']}/server_info").is_success


def test_the_champion_predicts_and_says_who_it_is(shop: Shop) -> None:
    assert shop.backfilled["models"]["repurchase"]["champion_version"] == "2"
    answer = httpx.post(
        f"{shop.settings.serving_url}/predict", json={"user_id": 5, "context": {}, "at": shop.cut_ms + DAY_MS}
    ).json()
    assert 0 < answer["prediction"] < 1
    assert answer["model"] == {"name": repurchase.name, "version": "2", "variant": "champion"}
    [version, evaluated] = shop.braid("models")["versions"]
    assert (version["evaluated_version"], version["fit"], evaluated["fit"]) == ("1", "all rows", "held out")
    assert "champion" in version["aliases"]


def test_what_was_served_and_logged_is_right_when_it_is_recomputed(shop: Shop) -> None:
    found = shop.braid("consistency", "--logged")["groups"]["user_features"]
    assert found["answers"] >= 5 * len(shop.users), "all but those about a time that the stream has not reached"
    assert found["cells"] == 6 * found["answers"]
    assert {name: found[name] for name in ("defects", "lag", "late data")} == {"defects": 0, "lag": 0, "late data": 0}


def test_what_does_not_fit_is_a_dead_letter_and_what_is_late_is_healed_by_the_next_batch(shop: Shop) -> None:
    settings, cut_ms = shop.settings, shop.cut_ms
    at = cut_ms + DAY_MS + 5 * MINUTE_MS
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)

    def event(name: str, ts_ms: int) -> bytes:
        when = datetime.fromtimestamp(ts_ms / 1_000, UTC).isoformat(timespec="milliseconds")
        return json.dumps(
            {"event_id": name, "user_id": 3, "session_id": name, "event_type": "PURCHASE", "event_timestamp": when}
        ).encode()

    future = event("future", int(datetime.now(UTC).timestamp() * 1_000) + 366 * DAY_MS)
    late = cut_ms - 3 * DAY_MS
    for value in (b"{broken", future, event("on-time", at), event("late", late)):
        producer.send(user_events.topic, key=b"3", value=value)
    producer.flush()
    producer.close()
    wait_visible(settings, GROUPS.values(), end_offsets(settings, user_events.topic))
    consumer = KafkaConsumer(
        user_events.dlq_topic, bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=20_000
    )
    letters = {}
    for letter in consumer:
        letters[letter.value] = dict(letter.headers)["reason"].decode()
        if len(letters) == 2:
            break
    consumer.close()
    assert "not a JSON object" in letters[b"{broken"]
    assert "lies after the arrival" in letters[future]

    def purchases() -> int:
        body = {"group": "user_features", "ids": [3], "at": at + 1}
        [row] = httpx.post(f"{settings.serving_url}/features", json=body).json()["rows"]
        return int(row["features"]["purchase_count_7d"])

    before = purchases()
    healed = shop.braid("backfill", "--to", str(cut_ms + DAY_MS), "--no-train")
    assert healed["batch_end"] > shop.backfilled["batch_end"]
    assert purchases() == before + 1
    extra = settings.home / "late.parquet"
    rows = [("on-time", at), ("late", late)]
    with duckdb.connect() as connection:
        values = ", ".join(
            f"('{name}', 3, '{name}', 'PURCHASE', NULL, '{datetime.fromtimestamp(ts / 1_000, UTC).isoformat(timespec='milliseconds')}')"
            for name, ts in rows
        )
        connection.execute(
            f"COPY (SELECT * FROM (VALUES {values}) v(event_id, user_id, session_id, event_type, amount, event_timestamp)) TO '{extra}' (FORMAT parquet)"
        )
    report = prove(settings, user_features, [shop.raw, extra], shop.users, at + 1)
    assert report.differences == []
    assert report.degraded == 0


def test_a_bad_day_stays_out_of_the_online_store_and_the_last_good_view_in(shop: Shop) -> None:
    settings, day = shop.settings, shop.cut_ms + 3 * DAY_MS
    before = shop.braid("status")["groups"]
    when = datetime.fromtimestamp(day / 1_000, UTC).isoformat(timespec="milliseconds")
    after = datetime.fromtimestamp((day + DAY_MS) / 1_000, UTC).isoformat(timespec="milliseconds")
    bad = [f"bad{n},3,b,PURCHASE,-7.50,{when}\n" for n in range(500)]
    shop.tell("load", *bad, f"after,3,b,PURCHASE,7.50,{after}\n")  # the day is over: it has one after it
    error = shop.refused("backfill", "--no-train")
    assert "The check events_within_limits of events failed" in error
    assert "amount" in error
    assert shop.braid("status")["groups"] == {name: {**group, "age_seconds": ANY} for name, group in before.items()}
    pages = httpx.get(f"{settings.data_docs_url}/index.html")
    assert pages.is_success
    assert "events" in pages.text
