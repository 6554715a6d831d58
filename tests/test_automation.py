"""Nobody asks: the batch runs when its day is over, late events heal, a run that dies is started again, and an online store that has lost
its content, is killed or stands still costs no caller an error. Through Dagster's own daemon, with callers all the while.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import psutil
import pytest
from kafka import KafkaProducer

from features.merge import merge
from features.packed import batch_field, decode_batch
from features.windows import DAY_MS, MINUTE_MS
from infra.embedded import services
from infra.embedded.supervision import Supervisor
from infra.kafka import end_offsets
from infra.settings import Settings
from orchestration.topics import topics
from speed.visible import wait_visible
from store.clients import store
from store.keys import meta_key
from tests.declarations import GROUPS, project, user_events, user_features
from tests.instances import instance_of
from tests.waiting import eventually

MIDNIGHT = int(datetime(2026, 5, 20, tzinfo=UTC).timestamp() * 1_000)
#: A client of its own for each request would read the certificates of authorities each time.
CLIENT = httpx.Client(timeout=30)
SERVICES = {"kafka", "valkey", "speed", "serving", "dagster-code", "dagster", "dagster-daemon"}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, interpreted: None) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("automation")
    settings = Settings.load(home).model_copy(
        update={
            "automation": frozenset({"batch", "late"}), "late_events": 3, "sensor_seconds": 6, "archive_seconds": 1, "batch_memory": "1g",
            "speed_memory": "768m", "speed_trigger_seconds": 0.5,
        }
    )  # fmt: skip
    (home / "first_day.json").write_text(json.dumps("2026-05-18"))
    try:
        services.up(settings, topics(project), only=SERVICES)
        yield settings
    finally:
        services.down(settings)


def send(settings: Settings, *events: tuple[str, int, int]) -> None:
    """Purchases: (event id, user, time); returns when the stream has taken them."""
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    for name, user, ts_ms in events:
        when = datetime.fromtimestamp(ts_ms / 1_000, UTC).isoformat(timespec="milliseconds")
        event = {"event_id": name, "user_id": user, "session_id": name, "event_type": "PURCHASE", "event_timestamp": when}
        producer.send(user_events.topic, key=str(user).encode(), value=json.dumps(event).encode())
    producer.flush()
    producer.close()
    wait_visible(settings, GROUPS.values(), end_offsets(settings, user_events.topic))


def batch_end_ms(settings: Settings) -> int | None:
    batch_end = store(settings).hget(meta_key(user_features.name), "batch_end_ms")
    return int(batch_end) if batch_end else None


def purchases(settings: Settings, user: int) -> int:
    """In the week before the batch view's end, by the view alone."""
    value = decode_batch(
        store(settings).hget(user_features.key(user), batch_field(user_features.fingerprint)), user_features.fingerprint
    )
    merged = merge(user_features, value, [], value.batch_end_ms)
    return int(merged.values[user_features.feature_names.index("purchase_count_7d")])  # type: ignore[arg-type]


def runs(settings: Settings) -> list[dict[str, Any]]:
    query = "{ runsOrError { ... on Runs { results { runId status jobName tags { key value } } } } }"
    answer = CLIENT.post(f"{settings.dagster_url}/graphql", json={"query": query})
    return answer.json()["data"]["runsOrError"]["results"]


def unless_a_run_fails(condition: Callable[[], bool], settings: Settings) -> None:
    """Waits; a run that has failed for good ends the wait."""

    def holds() -> bool:
        if condition():
            return True
        for run in runs(settings):
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            assert run["status"] != "FAILURE" or tags.get("dagster/will_retry") != "false", _log(settings, "dagster-code")
        return False

    eventually(holds, 600, every=2)  # the guard against hanging: a slow machine takes minutes


def _log(settings: Settings, name: str) -> str:
    return Path(Supervisor(settings).log_path(name)).read_text()[-3_000:]


def send_a_day(settings: Settings) -> None:
    """Events of a day and of some minutes more, which the watermark has not passed."""
    send(settings, ("a", 1, MIDNIGHT - DAY_MS), ("b", 1, MIDNIGHT - 1))
    send(settings, ("c", 1, MIDNIGHT + 5 * MINUTE_MS))


def pass_midnight(settings: Settings) -> None:
    """Sends events that move the watermark, which it does between micro-batches; returns when the batch of the day is published."""
    send(settings, ("d", 1, MIDNIGHT + 11 * MINUTE_MS))
    send(settings, ("e", 1, MIDNIGHT + 11 * MINUTE_MS + 1))
    unless_a_run_fails(lambda: batch_end_ms(settings) == MIDNIGHT, settings)


def test_a_day_that_is_over_gets_its_batch_by_itself(deployment: Settings) -> None:
    send_a_day(deployment)
    time.sleep(2.5 * deployment.sensor_seconds)  # some looks of the sensor: events before midnight may still come
    assert runs(deployment) == []
    pass_midnight(deployment)
    assert purchases(deployment, 1) == 2
    [run] = runs(deployment)
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert run["jobName"] == "features_user_events"
    assert (tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]) == ("2026-05-19", "2026-05-19")
    with instance_of(deployment) as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("events")) == {"2026-05-19"}


def test_late_events_heal_by_themselves_also_when_the_run_and_the_daemon_are_killed(
    deployment: Settings, kill_workers: Callable[[Settings], int]
) -> None:
    late = [(f"late{index}", 2 + index, MIDNIGHT - DAY_MS // 2) for index in range(3)]
    before = {run["runId"] for run in runs(deployment)}
    send(deployment, *late)

    def worker_is_killed() -> bool:
        started = any(run["status"] == "STARTED" for run in runs(deployment) if run["runId"] not in before)
        return started and kill_workers(deployment) > 0

    unless_a_run_fails(worker_is_killed, deployment)
    services.kill(deployment, "dagster-daemon")
    # An entity is published by one command; of many each has its own moment.
    unless_a_run_fails(lambda: [purchases_of(deployment, 2 + index) for index in range(3)] == [1, 1, 1], deployment)
    assert batch_end_ms(deployment) == MIDNIGHT


def four_users_at(at: int) -> dict[str, Any]:
    """The body of a request for the features of four users."""
    return {"group": "user_features", "ids": [1, 2, 3, 4], "at": at}


def rows_at(settings: Settings, at: int) -> list[dict[str, Any]]:
    """The rows of `/features` of four users, with their provenance."""
    answer = CLIENT.post(f"{settings.serving_url}/features", json=four_users_at(at))
    rows: list[dict[str, Any]] = answer.raise_for_status().json()["rows"]
    return rows


class Callers:
    """Ask for features, over and over; `seen` counts answers by status and by whether they are degraded.

    `wrong` has the values that are neither those of the first caller nor named as degraded.
    """

    def __init__(self, settings: Settings, at: int) -> None:
        self.seen, self.wrong, self._stop = Counter[tuple[int, bool]](), Counter[tuple[int, str, Any]](), threading.Event()
        self._body = four_users_at(at)
        rows = rows_at(settings, at)
        assert [row["provenance"]["degraded_reasons"] for row in rows if row["provenance"]["degraded"]] == []
        self._right = {row["id"]: row["features"] for row in rows}
        self._threads = [threading.Thread(target=self._ask, args=(settings,)) for _ in range(2)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, settings: Settings) -> None:
        with httpx.Client(base_url=settings.serving_url, timeout=30) as client:
            while not self._stop.wait(0.1):
                answer = client.post("/features", json=self._body)
                rows = answer.json()["rows"] if answer.is_success else []
                self.seen[answer.status_code, any(row["provenance"]["degraded"] for row in rows)] += 1
                for row in rows:
                    for name, value in row["features"].items():
                        if value != self._right[row["id"]][name] and name not in row["provenance"]["degraded_features"]:
                            self.wrong[row["id"], name, value] += 1


def test_a_store_that_lost_its_content_is_made_whole_by_itself(deployment: Settings) -> None:
    at = MIDNIGHT + 30 * MINUTE_MS
    before = rows_at(deployment, at)
    assert not any(row["provenance"]["degraded"] for row in before)
    with Callers(deployment, at) as callers:
        eventually(callers.seen.total)
        store(deployment).flushall()
        unless_a_run_fails(lambda: rows_at(deployment, at) == before, deployment)
    assert {status for status, _ in callers.seen} == {200}
    assert callers.seen[200, True], "without the views an answer says that it is degraded"
    assert not callers.wrong, "while it fills, a value is right or named as degraded"
    with Callers(deployment, at) as callers:
        eventually(lambda: callers.seen.total() >= 20)
    assert set(callers.seen) == {(200, False)}
    assert not callers.wrong


# A kill is in tests/serving/test_service.py, and stops of a second are in tests/serving/test_faults.py.
@pytest.mark.long
def test_a_store_that_is_killed_or_stands_still_costs_no_caller_an_error(deployment: Settings) -> None:
    if batch_end_ms(deployment) is None:  # as where the long tests run without the others
        send_a_day(deployment)
        pass_midnight(deployment)
    at = MIDNIGHT + 30 * MINUTE_MS
    before = rows_at(deployment, at)
    with Callers(deployment, at) as callers:
        services.kill(deployment, "valkey")
        services.wait_healthy(deployment, ["valkey"])
        [status] = [service for service in services.status(deployment) if service.name == "valkey"]
        server = psutil.Process(status.pid)
        server.suspend()
        try:
            time.sleep(30)
        finally:
            server.resume()
        answered = callers.seen.total()
        eventually(lambda: callers.seen.total() >= answered + 40)
    assert {status for status, _ in callers.seen} == {200}
    assert callers.seen[200, True] > 100, "while it stands still answers come all the same"
    assert not callers.wrong
    assert rows_at(deployment, at) == before
    services.wait_healthy(deployment, list(SERVICES))


def purchases_of(settings: Settings, user: int) -> int:
    return (
        purchases(settings, user) if store(settings).hexists(user_features.key(user), batch_field(user_features.fingerprint)) else 0
    )
