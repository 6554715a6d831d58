"""Whether a group in the online store is fresh by event time, and covers its active entities. Reported each minute by a sensor, too."""

from typing import Any

import dagster as dg

from features.definitions import GROUPS
from monitoring.freshness import FeatureFreshnessMonitor
from orchestration.assets.serving import online
from orchestration.deployment import SETTINGS
from orchestration.health import COVERED, FRESH, health_checks, recently_active


def health_check(group: str, asset: dg.AssetsDefinition) -> Any:
    """The checks `fresh` and `covered` of a group."""
    bounds = SETTINGS.bounds(group)
    specs = [
        dg.AssetCheckSpec(FRESH, asset=asset, description=f"The newest event is at most {bounds.max_age_seconds:g} s old."),
        dg.AssetCheckSpec(
            COVERED, asset=asset, description=f"Of the recently active entities, {bounds.coverage:.0%} have features."
        ),
    ]

    @dg.multi_asset_check(name=f"online_{group}_health", specs=specs)
    def check(context: dg.AssetCheckExecutionContext) -> Any:
        monitor = FeatureFreshnessMonitor(SETTINGS, GROUPS)
        found = health_checks(monitor, group, recently_active(context.instance, group) or [])
        for name, result in zip((FRESH, COVERED), found, strict=True):
            yield result._replace(asset_key=asset.key, check_name=name)

    return check


checks = [health_check(name, asset) for name, asset in online.items()]
