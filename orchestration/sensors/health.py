"""The sensor of freshness and coverage of every group: reports asset checks, and sends the alerts of these checks and of the watchdog."""

from collections.abc import Iterator

import dagster as dg

from features.declaration import FeatureGroup
from infra.errors import BraidError
from monitoring.alerts import Alerts
from monitoring.freshness import FeatureFreshnessMonitor, group_alerts
from monitoring.watchdog import guard_alerts, guards
from orchestration.deployment import Deployment
from orchestration.health import health_checks, recently_active


def sensors_of(deployment: Deployment) -> list[dg.SensorDefinition]:
    """Returns the sensor of all groups."""
    settings, groups = deployment.settings, deployment.project.groups

    @dg.sensor(
        minimum_interval_seconds=settings.sensor_seconds, default_status=dg.DefaultSensorStatus.RUNNING,
        description="Checks the freshness and coverage of each group and the conditions of the watchdog, and sends each alert once.",
    )  # fmt: skip
    def group_health(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """Checks the groups that have been published."""
        try:
            monitor, alerts = FeatureFreshnessMonitor(settings, groups), Alerts(settings)
            evaluations = [
                evaluation for group in groups for evaluation in _evaluations(context.instance, deployment, monitor, group)
            ]
            watched = guards(settings, deployment.project)
            alerts.update(
                [*monitor.checked, *(guard.key for guard in watched)],
                [*monitor.alerts, *(guard for guard in watched if not guard.holds)],
                {*group_alerts(settings, groups), *guard_alerts(settings, deployment.project)},
            )
        except BraidError as error:
            return dg.SkipReason(str(error))
        return dg.SensorResult(asset_events=evaluations) if evaluations else dg.SkipReason("No group has been published yet.")

    return [group_health]


def _evaluations(
    instance: dg.DagsterInstance, deployment: Deployment, monitor: FeatureFreshnessMonitor, group: FeatureGroup
) -> Iterator[dg.AssetCheckEvaluation]:
    online = deployment.online_key(group)
    ids = recently_active(instance, online)
    if ids is None and not (deployment.settings.kappa and monitor.published(group.name)):
        return
    for check, result in health_checks(monitor, group.name, ids).items():
        yield dg.AssetCheckEvaluation(online, check, result.passed, metadata=result.metadata, severity=result.severity)
