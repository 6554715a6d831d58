"""Checks of served answers: differences from recomputed values have reasons, and the users of an experiment are split as declared."""

from typing import Any

import dagster as dg

from features.declaration import FeatureGroup
from features.model import Model
from monitoring.attribution import Reason
from monitoring.experiment import SRM_ALPHA
from orchestration.assets.models import ANSWERS, DEFECTS
from orchestration.deployment import Deployment
from orchestration.materialized import latest_metadata
from orchestration.names import consistency_key, experiment_key


def no_defects(group: FeatureGroup) -> Any:
    """Returns the check that every wrong served value has a known reason."""

    @dg.asset_check(
        asset=consistency_key(group), name="no_defects",
        description="Every served value that differs from the recomputed value has a reason: lag, late data, or a degraded answer.",
    )  # fmt: skip
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        checked = latest_metadata(context.instance, consistency_key(group))
        if not checked.get(ANSWERS):
            return dg.AssetCheckResult(
                passed=False, severity=dg.AssetCheckSeverity.WARN,
                metadata={ANSWERS: 0, "reason": f"No evidence: no served answer of {group.name} was checked. BRAID_SERVED_SHARE is the share that is logged."},
            )  # fmt: skip
        undecided = checked.get(str(Reason.UNDECIDED), 0)
        severity = dg.AssetCheckSeverity.ERROR if checked[DEFECTS] or not undecided else dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(
            passed=not checked[DEFECTS] and not undecided, severity=severity,
            metadata={ANSWERS: checked[ANSWERS], DEFECTS: checked[DEFECTS], str(Reason.UNDECIDED): undecided},
        )  # fmt: skip

    return check


def split_as_declared(model: Model) -> Any:
    """Returns the check that the users of an experiment are split as declared."""

    @dg.asset_check(
        asset=experiment_key(model),
        name="split_as_declared",
        description="The number of users of each variant fits its declared share.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        p_value = latest_metadata(context.instance, experiment_key(model)).get("sample ratio p value")
        return dg.AssetCheckResult(
            passed=p_value is None or p_value >= SRM_ALPHA,
            metadata={"p value": "no split" if p_value is None else p_value},
        )

    return check


def checks_of(deployment: Deployment) -> list[Any]:
    """Returns the checks of all groups, and of the experiment."""
    return [*map(no_defects, deployment.project.groups), *map(split_as_declared, deployment.experiment_models)]
