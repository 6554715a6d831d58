"""Checks of a group in the online store: freshness by event time, and coverage of its active entities. `sensors.health` reports both, too."""

from typing import Any

import dagster as dg

from features.declaration import FeatureGroup
from monitoring.freshness import FeatureFreshnessMonitor
from orchestration.deployment import Deployment
from orchestration.health import COVERED, FRESH, health_checks, recently_active


def health_check(deployment: Deployment, group: FeatureGroup) -> Any:
    """Returns the checks `fresh` and `covered` of a group; in Kappa `fresh` alone, because no batch names the active entities."""
    settings, asset = deployment.settings, deployment.online_key(group)
    bounds = settings.bounds(group.name)
    specs = [dg.AssetCheckSpec(FRESH, asset=asset, description=f"The newest event is at most {bounds.max_age_seconds:g} s old.")]
    if not settings.kappa:
        coverage = f"Of the recently active entities, {bounds.coverage:.0%} have features."
        specs.append(dg.AssetCheckSpec(COVERED, asset=asset, description=coverage))

    @dg.multi_asset_check(name=f"online_{group.name}_health", specs=specs)
    def check(context: dg.AssetCheckExecutionContext) -> Any:
        monitor = FeatureFreshnessMonitor(settings, deployment.project.groups)
        ids = None if settings.kappa else recently_active(context.instance, asset) or []
        for name, result in health_checks(monitor, group.name, ids).items():
            yield result._replace(asset_key=asset, check_name=name)

    return check


def checks_of(deployment: Deployment) -> list[Any]:
    """Returns the checks of all groups."""
    return [health_check(deployment, group) for group in deployment.project.groups]
