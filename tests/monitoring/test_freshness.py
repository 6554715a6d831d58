"""Freshness by event time and coverage, on a real store, told as alerts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from features.declaration import FeatureGroup, count
from features.packed import FORMAT, BatchValue, FeatureView, batch_field, encode
from infra.errors import InputError, NotReadyError, ServiceError
from infra.policies import GroupBounds
from infra.settings import Settings
from monitoring.alerts import Alerts
from monitoring.freshness import FeatureFreshnessMonitor, Severity
from store.clients import store
from store.keys import PROGRESS_KEY, meta_key, notes_key
from tests.declarations import user_events, user_features

NOW = 1_780_000_000_000
items = FeatureGroup("item_features", "item_id", user_events, (count("events_1d", window="1d"),))
GROUPS = {group.name: group for group in (user_features, items)}
NAME = user_features.name


@pytest.fixture
def deployment(valkey: Settings) -> Iterator[Settings]:
    store(valkey).flushdb()
    yield valkey
    store(valkey).flushdb()


def monitor(settings: Settings) -> FeatureFreshnessMonitor:
    return FeatureFreshnessMonitor(settings, GROUPS.values(), NOW)


def newest(settings: Settings, batch_seconds: int | None = None, speed_seconds: int | None = None) -> None:
    """The newest event of either layer, as old as that."""
    client = store(settings)
    client.delete(meta_key(NAME), PROGRESS_KEY)
    if batch_seconds is not None:
        newest_ms = NOW - batch_seconds * 1_000
        meta = {"batch_end_ms": NOW, "fingerprint": user_features.fingerprint, "newest_event_ms": newest_ms}
        client.hset(meta_key(NAME), mapping=meta)
    if speed_seconds is not None:
        client.hset(PROGRESS_KEY, f"online:{NAME}", json.dumps({"offsets": {}, "newest_event_ms": NOW - speed_seconds * 1_000}))


@pytest.mark.parametrize(
    ("batch", "speed", "severity"),
    [
        (86_400, 5, None), (86_400, 900, None), (86_400, 901, Severity.WARNING), (86_400, 3_600, Severity.WARNING),
        (86_400, 3_601, Severity.CRITICAL), (60, None, None), (60, 7_200, None), (None, 5, None), (90_000, None, Severity.CRITICAL),
    ],
)  # fmt: skip
def test_a_group_is_as_fresh_as_the_newest_event_of_either_layer(
    deployment: Settings, batch: int | None, speed: int | None, severity: Severity | None
) -> None:
    newest(deployment, batch, speed)
    checks = monitor(deployment)
    assert checks.check_freshness(NAME) is (severity is None)
    assert [(alert.kind, alert.severity) for alert in checks.alerts] == ([("freshness", severity)] if severity else [])
    assert checks.checked == [f"freshness:{NAME}"]


def test_the_bound_is_the_groups_own_or_the_callers(deployment: Settings) -> None:
    newest(deployment, speed_seconds=120)
    strict = deployment.model_copy(update={"group_bounds": {NAME: GroupBounds(max_age_seconds=60)}})
    assert monitor(strict).check_freshness(NAME) is False
    assert monitor(strict).check_freshness(NAME, timedelta(minutes=3)) is True
    assert monitor(deployment).check_freshness(NAME) is True
    checks = monitor(deployment)
    assert checks.check_freshness(NAME, timedelta(seconds=30)) is False
    assert checks.alerts[0].details == {"age_seconds": 120.0, "max_age_seconds": 30.0}
    assert "120 s old; 30 s are allowed" in checks.alerts[0].message


def publish(settings: Settings, group: FeatureGroup, *ids: int | str, fingerprint: str | None = None) -> None:
    for entity_id in ids:
        views = [FeatureView(1, [], []) for _ in group.features]
        value = BatchValue(FORMAT, fingerprint or group.fingerprint, NOW, NOW, views)
        store(settings).hset(group.key(entity_id), batch_field(group.fingerprint), encode(value))


def test_coverage_is_the_share_of_entities_that_a_request_would_find(deployment: Settings) -> None:
    publish(deployment, user_features, *range(2_000))
    checks = monitor(deployment)
    assert checks.check_feature_coverage(NAME, list(range(2_000))) == 1.0
    assert checks.check_feature_coverage(NAME, list(range(2_100))) == pytest.approx(2_000 / 2_100)
    assert checks.alerts == []
    assert checks.check_feature_coverage(NAME, list(range(1_900, 2_100))) == 0.5
    [alert] = checks.alerts
    assert (alert.severity, alert.details["missing_count"]) == (Severity.HIGH, 100)
    publish(deployment, user_features, 1, fingerprint="0" * 16)
    store(deployment).set(user_features.key(2), "no hash")
    assert checks.check_feature_coverage(NAME, [0, 1, 2, 3]) == 0.5, "another version, or something else, is no feature"
    publish(deployment, items, "i1")
    assert checks.check_feature_coverage("item_features", ["i1", "i2"]) == 0.5
    strict = deployment.model_copy(update={"group_bounds": {"item_features": GroupBounds(coverage=0.5)}})
    assert monitor(strict).check_feature_coverage("item_features", ["i1", "i2"]) == 0.5


def test_what_cannot_be_checked_is_an_error_and_not_a_good_result(deployment: Settings) -> None:
    checks = monitor(deployment)
    with pytest.raises(InputError, match="needs entities"):
        checks.check_feature_coverage(NAME, [])
    for check in (checks.check_freshness, lambda name: checks.check_feature_coverage(name, [1])):
        with pytest.raises(InputError, match="not declared"):
            check("nothing")
    with pytest.raises(NotReadyError, match="no events"):
        checks.check_freshness(NAME)
    with pytest.raises(ServiceError, match="cannot be reached"):
        FeatureFreshnessMonitor(deployment.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}), GROUPS.values())


def test_alerts_are_told_of_what_was_checked(deployment: Settings) -> None:
    newest(deployment, speed_seconds=2_000)
    store(deployment).delete(notes_key("alerts"))
    checks = monitor(deployment)
    checks.check_freshness(NAME)
    checks.check_feature_coverage(NAME, [1])
    assert len(Alerts(deployment).update(checks.checked, checks.alerts)) == 2
    newest(deployment, speed_seconds=1)
    again = monitor(deployment)
    again.check_freshness(NAME)
    assert Alerts(deployment).update(again.checked, again.alerts) == [f"Cleared: {checks.alerts[0].message}"]
    assert list(Alerts(deployment).open()) == [f"coverage:{NAME}"]
