"""Freshness and coverage of a group as asset checks of Dagster, from `monitoring.freshness`."""

from collections.abc import Callable, Sequence

import dagster as dg

from infra.errors import BraidError
from monitoring.freshness import Alert, FeatureFreshnessMonitor, Severity
from orchestration.materialized import latest_metadata

FRESH, COVERED = "fresh", "covered"
#: Metadata of `online_{group}`: the ids of the entities whose coverage is checked.
RECENT = "recently active"


def recently_active(instance: dg.DagsterInstance, online: dg.AssetKey) -> list[int | str] | None:
    """Returns the entities that were active last when the group was published; None before the first publication, and in Kappa."""
    return latest_metadata(instance, online).get(RECENT)


def health_checks(monitor: FeatureFreshnessMonitor, group: str, ids: Sequence[int | str] | None) -> dict[str, dg.AssetCheckResult]:
    """Runs the checks `fresh` and `covered`, and returns their results by name. The alerts stay in `monitor.alerts`.

    Args:
        monitor: The monitor of the group.
        group: The name of the group.
        ids: The entities whose coverage is checked; None to leave coverage out, as in Kappa, where no batch names the active entities.
    """
    checks: dict[str, Callable[[], object]] = {FRESH: lambda: monitor.check_freshness(group)}
    if ids is not None:
        checks[COVERED] = lambda: monitor.check_feature_coverage(group, ids)
    results = {}
    for name, check in checks.items():
        known = len(monitor.alerts)
        try:
            check()
            results[name] = _result(monitor.alerts[known:])
        except BraidError as error:  # nothing is published, or there are no entities
            results[name] = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"reason": str(error)})
    return results


def _result(alerts: Sequence[Alert]) -> dg.AssetCheckResult:
    if not alerts:
        return dg.AssetCheckResult(passed=True)
    [alert] = alerts
    severity = dg.AssetCheckSeverity.WARN if alert.severity is Severity.WARNING else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(
        passed=False, severity=severity, metadata={"severity": str(alert.severity), "reason": alert.message, **alert.details}
    )
