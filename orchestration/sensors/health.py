"""Freshness and coverage of every group, each minute: as asset checks of the online store's assets, and as alerts."""

from collections.abc import Iterator

import dagster as dg

from features.definitions import GROUPS
from infra.errors import BraidError
from monitoring.alerts import Alerts
from monitoring.freshness import FeatureFreshnessMonitor
from orchestration.deployment import SETTINGS
from orchestration.health import COVERED, FRESH, health_checks, recently_active


@dg.sensor(
    minimum_interval_seconds=SETTINGS.sensor_seconds, default_status=dg.DefaultSensorStatus.RUNNING,
    description="How fresh each group is by event time, and whether its active entities have features; tells alerts, once each.",
)  # fmt: skip
def group_health(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Checks the groups that have been published."""
    try:
        monitor, alerts = FeatureFreshnessMonitor(SETTINGS, GROUPS), Alerts(SETTINGS)
        found = list(_evaluations(context.instance, monitor))
        alerts.update(monitor.checked, monitor.alerts)
    except BraidError as error:
        return dg.SkipReason(str(error))
    return dg.SensorResult(asset_events=found) if found else dg.SkipReason("No group has been published yet.")


def _evaluations(instance: dg.DagsterInstance, monitor: FeatureFreshnessMonitor) -> Iterator[dg.AssetCheckEvaluation]:
    for name in GROUPS:
        ids = recently_active(instance, name)
        if ids is None:
            continue
        for check, result in zip((FRESH, COVERED), health_checks(monitor, name, ids), strict=True):
            yield dg.AssetCheckEvaluation(
                dg.AssetKey(f"online_{name}"), check, result.passed, metadata=result.metadata, severity=result.severity
            )
