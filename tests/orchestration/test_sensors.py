"""What each sensor and schedule asks for, and when it asks for nothing, on a real store; that Dagster then runs it is shown in
`tests/test_automation.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from features.declaration import FeatureGroup
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.embedded.health import ailment
from infra.policies import GroupBounds
from infra.settings import Settings
from monitoring.alerts import Alerts
from monitoring.watchdog import Guard
from orchestration.assets.quality import RETRAIN
from orchestration.deployment import Deployment
from orchestration.health import COVERED, FRESH, RECENT
from orchestration.jobs import schedules_of
from orchestration.names import archive_key, drift_key, live_quality_key, online_key, speed_tiles_key
from orchestration.run_days import RANGE_END, RANGE_START
from orchestration.sensors import sensors_of
from store.clients import store
from store.protocol import View
from store.server import open_store
from tests.declarations import item_features, project, repurchase, user_events, user_features

MIDNIGHT = int(datetime(2026, 5, 20, tzinfo=UTC).timestamp() * 1_000)


@pytest.fixture
def deployment(valkey: Settings) -> Iterator[Settings]:
    """A store that is empty before and after, a batch a day."""
    settings = valkey.model_copy(update={"late_events": 3, "automation": frozenset({"batch", "late"})})
    store(settings).flushall()
    yield settings
    store(settings).flushall()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@dg.job
def any_job() -> None:
    """Stands for what a sensor asks for: it succeeds."""


def tick(settings: Settings, name: str, instance: dg.DagsterInstance) -> Any:
    """What a sensor says when it is evaluated."""
    [sensor] = [sensor for sensor in sensors_of(Deployment(project, settings)) if sensor.name == name]
    return sensor.evaluate_tick(dg.build_sensor_context(instance, sensor_name=name))


def succeeds(instance: dg.DagsterInstance, request: dg.RunRequest) -> None:
    any_job.execute_in_process(instance=instance, tags=request.tags)


def progress(settings: Settings, **changed: Any) -> None:
    """What the speed layer says of both groups and of the archive."""
    entry = {
        "offsets": {"0": 7}, "batch_id": 3, "watermark_ms": MIDNIGHT, "oldest_event_ms": MIDNIGHT - DAY_MS - 1, "newest_event_ms": MIDNIGHT + 10 * MINUTE_MS,
        "rows_per_second": 5.0, "late_rows": 0, "copies": 2, "lag": 0, "lag_seconds": 0.0, "pid": 11,
        "written_at_ms": time.time_ns() // 1_000_000, **changed,
    }  # fmt: skip
    names = ("online:user_features", "online:item_features", "archive:user_events")
    open_store(settings).set_progress(dict.fromkeys(names, entry))


def published(
    settings: Settings, batch_end_ms: int, newest_event_ms: int = MIDNIGHT, groups: Sequence[FeatureGroup] = project.groups
) -> None:
    for group in groups:
        view = open_store(settings).begin_publication(group, View(batch_end_ms, batch_end_ms))
        open_store(settings).end_publication(group, view, 1, newest_event_ms)


def materialized(instance: dg.DagsterInstance, key: dg.AssetKey, **metadata: Any) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))


def test_a_batch_is_asked_for_once_the_watermark_has_passed_midnight(deployment: Settings, instance: dg.DagsterInstance) -> None:
    name = "batch_when_due_user_events"
    assert tick(deployment, name, instance).skip_message == "The stream has not passed the end of another period."
    progress(deployment, written_at_ms=time.time_ns() // 1_000_000 - 90_000)
    assert tick(deployment, name, instance).skip_message.startswith("The speed layer has written no progress for 9")
    progress(deployment)
    [first] = tick(deployment, name, instance).run_requests
    assert first.run_key == f"batch:{MIDNIGHT}:1"
    assert first.run_config == {"resources": {"batch_end": {"config": {"at_ms": MIDNIGHT}}}}
    assert (first.tags[RANGE_START], first.tags[RANGE_END]) == ("2026-05-18", "2026-05-19")
    published(deployment, MIDNIGHT - DAY_MS)
    progress(deployment, watermark_ms=MIDNIGHT - 1)
    assert not tick(deployment, name, instance).run_requests
    progress(deployment)
    [daily] = tick(deployment, name, instance).run_requests
    assert (daily.tags[RANGE_START], daily.tags[RANGE_END]) == ("2026-05-19", "2026-05-19")
    published(deployment, MIDNIGHT)
    assert not tick(deployment, name, instance).run_requests


@pytest.mark.parametrize(
    ("begins", "days"), [("2026-05-19", ("2026-05-19", "2026-05-19")), ("2026-06-01", ("2026-06-01", "2026-06-01"))]
)
def test_a_batch_of_days_before_the_partitions_begin_asks_for_their_first_day(
    deployment: Settings, instance: dg.DagsterInstance, tmp_path: Path, begins: str, days: tuple[str, str]
) -> None:
    (tmp_path / "first_day.json").write_text(f'"{begins}"')  # of a file that was loaded; the stream has older events
    settings = deployment.model_copy(update={"home": tmp_path})
    progress(settings, late_rows=9)
    [request] = tick(settings, "batch_when_due_user_events", instance).run_requests
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == days
    assert Deployment(project, settings).days.get_partition_keys_in_range(dg.PartitionKeyRange(*days)) == [days[0]]
    published(settings, MIDNIGHT)
    [request] = tick(settings, "late_events_heal_user_events", instance).run_requests
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == (days[1], days[1])


def test_enough_late_events_ask_for_their_days_again_and_once(deployment: Settings, instance: dg.DagsterInstance) -> None:
    name = "late_events_heal_user_events"
    progress(deployment, late_rows=9)
    assert tick(deployment, name, instance).skip_message == "There is no batch to repair yet."
    published(deployment, MIDNIGHT)
    progress(deployment, late_rows=2)  # of one query that writes two groups
    assert tick(deployment, name, instance).skip_message.startswith("2 late rows")
    progress(deployment, late_rows=3)
    [request] = tick(deployment, name, instance).run_requests
    assert request.run_config == {"resources": {"batch_end": {"config": {"at_ms": MIDNIGHT}}}}
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("2026-05-19", "2026-05-19")
    succeeds(instance, request)
    assert tick(deployment, name, instance).skip_message.startswith("0 late rows")
    progress(deployment, late_rows=3, pid=12)  # started again: it counts from 0
    assert tick(deployment, name, instance).run_requests


def test_a_group_that_is_ahead_of_the_others_is_never_asked_for_an_older_view(
    deployment: Settings, instance: dg.DagsterInstance
) -> None:
    ahead_ms = MIDNIGHT + 13 * HOUR_MS  # by hand, or the others were blocked
    published(deployment, MIDNIGHT - DAY_MS, groups=[item_features])
    published(deployment, ahead_ms, groups=[user_features])
    progress(deployment, late_rows=3, watermark_ms=MIDNIGHT + 14 * HOUR_MS, newest_event_ms=MIDNIGHT + 15 * HOUR_MS)
    due = tick(deployment, "batch_when_due_user_events", instance)
    assert due.skip_message.startswith("A group of user_events was published as of 2026-05-20T13:00")
    [repair] = tick(deployment, "late_events_heal_user_events", instance).run_requests
    assert repair.run_config == {"resources": {"batch_end": {"config": {"at_ms": ahead_ms}}}}
    assert (repair.tags[RANGE_START], repair.tags[RANGE_END]) == ("2026-05-20", "2026-05-20")
    progress(deployment, watermark_ms=MIDNIGHT + DAY_MS, newest_event_ms=MIDNIGHT + 25 * HOUR_MS)
    [request] = tick(deployment, "batch_when_due_user_events", instance).run_requests
    assert request.run_config == {"resources": {"batch_end": {"config": {"at_ms": MIDNIGHT + DAY_MS}}}}


def test_late_events_of_a_speed_layer_that_was_started_again_with_the_same_process_id_are_counted_from_0(
    deployment: Settings, instance: dg.DagsterInstance
) -> None:
    name = "late_events_heal_user_events"
    published(deployment, MIDNIGHT)
    progress(deployment, late_rows=50, pid=1, began_ms=MIDNIGHT)
    [request] = tick(deployment, name, instance).run_requests
    succeeds(instance, request)
    progress(deployment, late_rows=3, pid=1, began_ms=MIDNIGHT + 1)  # as in a container, whose process always has the same id
    assert tick(deployment, name, instance).run_requests


def test_a_lost_store_asks_for_its_views_once_per_loss(deployment: Settings, instance: dg.DagsterInstance) -> None:
    assert not tick(deployment, "lost_store_heals", instance).run_requests, "nothing was published yet"
    for group in project.groups:
        materialized(instance, online_key(group), **{RECENT: [1]})
    published(deployment, MIDNIGHT)
    assert not tick(deployment, "lost_store_heals", instance).run_requests
    store(deployment).flushall()
    [request] = tick(deployment, "lost_store_heals", instance).run_requests
    assert set(request.asset_selection) == {online_key(user_features), online_key(item_features)}
    [again] = tick(deployment, "lost_store_heals", instance).run_requests
    assert request.run_key == again.run_key
    store(deployment).flushall()
    [other] = tick(deployment, "lost_store_heals", instance).run_requests
    assert other.run_key != request.run_key


@pytest.mark.parametrize("key", [drift_key(repurchase), live_quality_key(repurchase)], ids=lambda key: key.to_user_string())
def test_a_model_that_has_aged_is_trained_anew_once_per_report(
    deployment: Settings, instance: dg.DagsterInstance, key: dg.AssetKey
) -> None:
    name = "retraining_on_signal_repurchase"
    assert not tick(deployment, name, instance).run_requests
    materialized(instance, key, **{RETRAIN: ""})
    assert not tick(deployment, name, instance).run_requests
    materialized(instance, key, **{RETRAIN: "spend_last_hour has drifted by 0.40"})
    [request] = tick(deployment, name, instance).run_requests
    assert request.tags["braid/reason"] == "spend_last_hour has drifted by 0.40"
    succeeds(instance, request)
    assert tick(deployment, name, instance).skip_message == "No report has a reason for a new model."


def test_health_is_reported_as_checks_and_alerts(deployment: Settings, instance: dg.DagsterInstance) -> None:
    settings = deployment.model_copy(update={"group_bounds": {"user_features": GroupBounds(max_age_seconds=3_600, coverage=0.5)}})
    assert tick(settings, "group_health", instance).skip_message == "No group has been published yet."
    materialized(instance, online_key(user_features), **{RECENT: [1, 2]})

    def checks() -> dict[str, bool]:
        return {evaluation.check_name: evaluation.passed for evaluation in tick(settings, "group_health", instance).asset_events}

    now_ms = time.time_ns() // 1_000_000
    published(settings, now_ms - 2 * DAY_MS, now_ms - DAY_MS)
    assert checks() == {FRESH: False, COVERED: False}
    assert len(open_store(settings).notes("alerts")) >= 1


def test_an_alert_of_what_was_removed_from_the_project_is_closed_and_one_that_cannot_be_checked_now_stays_open(
    deployment: Settings, instance: dg.DagsterInstance
) -> None:
    assert ailment(deployment, "kafka"), "so the conditions on Kafka are not known"
    alerts = Alerts(deployment)
    unknown = {f"retention:{user_events.topic}", f"transactions:{user_events.topic}", "coverage:user_features"}
    removed = {"freshness:removed", "coverage:removed", "retention:removed", "transactions:removed"}
    alerts.update([], [Guard(key, False, f"{key} is bad.", "") for key in unknown | removed])
    tick(deployment, "group_health", instance)
    assert set(alerts.open()) == unknown
    # Kappa makes its store anew without Kafka's older messages, and does not check coverage.
    tick(deployment.model_copy(update={"architecture": "kappa"}), "group_health", instance)
    assert set(alerts.open()) == {f"transactions:{user_events.topic}"}


@pytest.mark.parametrize("streamed", [False, True])
def test_in_kappa_old_events_are_reported_as_a_check_and_an_alert(
    deployment: Settings, instance: dg.DagsterInstance, streamed: bool
) -> None:
    kappa, store = deployment.model_copy(update={"architecture": "kappa"}), open_store(deployment)
    assert tick(kappa, "group_health", instance).skip_message == "No group has been published yet."
    now_ms = time.time_ns() // 1_000_000
    if streamed:
        progress(kappa, newest_event_ms=now_ms - DAY_MS)
    for group in project.groups:
        store.serve_stream(group, now_ms - 2 * DAY_MS, 1)  # the newest event of the lake, with which the histories begin

    def checks() -> set[tuple[dg.AssetKey, str, bool]]:
        evaluations = tick(kappa, "group_health", instance).asset_events
        return {(evaluation.asset_key, evaluation.check_name, evaluation.passed) for evaluation in evaluations}

    assert checks() == {(speed_tiles_key(group), FRESH, False) for group in project.groups}
    days = 1 if streamed else 2
    for group in project.groups:
        alert = store.notes("alerts")[f"freshness:{group.name}"]
        assert alert["severity"] == "CRITICAL"
        assert f" is {days * DAY_MS // 100_000}" in alert["message"]
    progress(kappa, newest_event_ms=now_ms)
    assert checks() == {(speed_tiles_key(group), FRESH, True) for group in project.groups}
    assert store.notes("alerts") == {}


def test_the_speed_layer_is_observed(deployment: Settings, instance: dg.DagsterInstance) -> None:
    assert tick(deployment, "speed_layer", instance).skip_message == "The speed layer has not run yet."
    progress(deployment, lag=4, late_rows=2)
    observations = {
        observation.asset_key: observation.metadata for observation in tick(deployment, "speed_layer", instance).asset_events
    }
    assert set(observations) == {speed_tiles_key(user_features), speed_tiles_key(item_features), archive_key(user_events)}
    metadata = observations[speed_tiles_key(user_features)]
    assert (metadata["lag_messages"].value, metadata["late_rows"].value) == (4, 2)
    assert metadata["newest_event"].value == (MIDNIGHT + 10 * MINUTE_MS) / 1_000
    assert metadata["silent_seconds"].value < 60


@pytest.mark.parametrize(
    "name", ["batch_when_due_user_events", "late_events_heal_user_events", "lost_store_heals", "group_health", "speed_layer"]
)
def test_without_a_store_a_sensor_asks_for_nothing_and_says_why(
    settings: Settings, instance: dg.DagsterInstance, name: str
) -> None:
    gone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    materialized(instance, online_key(user_features), **{RECENT: [1]})
    result = tick(gone, name, instance)
    assert not result.run_requests
    assert result.skip_message


def test_what_is_automatic_is_what_the_settings_name(deployment: Settings) -> None:
    def running(*automation: str) -> set[str]:
        of = Deployment(project, deployment.model_copy(update={"automation": frozenset(automation)}))
        sensors = {sensor.name for sensor in sensors_of(of) if sensor.default_status is dg.DefaultSensorStatus.RUNNING}
        return sensors | {
            schedule.name for schedule in schedules_of(of) if schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        }

    always = {"speed_layer", "group_health", "lost_store_heals"}
    assert running() == always
    assert running("batch") == always | {"batch_when_due_user_events"}
    assert running("late") == always | {"late_events_heal_user_events"}
    assert running("retraining") == always | {"retraining_on_signal_repurchase", "weekly_training_repurchase"}


def test_every_monday_a_candidate_is_trained(deployment: Settings, instance: dg.DagsterInstance) -> None:
    [schedule] = [
        schedule for schedule in schedules_of(Deployment(project, deployment)) if schedule.name == "weekly_training_repurchase"
    ]
    monday = datetime(2026, 5, 18, 1, tzinfo=UTC)
    begin = datetime(2026, 5, 12, tzinfo=UTC).timestamp()
    times = schedule_execution_time_iterator(begin, schedule.cron_schedule, schedule.execution_timezone, True)
    assert [next(times) for _ in range(2)] == [monday, monday + timedelta(days=7)]
    assert schedule.job_name == "training_repurchase"
    [request] = schedule.evaluate_tick(dg.build_schedule_context(instance, scheduled_execution_time=monday)).run_requests
    assert request.job_name in (None, "training_repurchase")
