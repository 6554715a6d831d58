"""What was served: it is right, and the experiment is split as it was declared."""

from typing import Any

import dagster as dg

from monitoring.experiment import SRM_ALPHA
from orchestration.assets.models import DEFECTS
from orchestration.assets.quality import consistency, experiment_report
from orchestration.materialized import latest_metadata


def no_defects(asset: dg.AssetsDefinition) -> Any:
    """The check that nothing was served that nobody can explain."""

    @dg.asset_check(
        asset=asset, name="no_defects",
        description="Every served value that differs from the right one has a reason: lag, late data, or the answer said so itself.",
    )  # fmt: skip
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        defects = latest_metadata(context.instance, asset.key).get(DEFECTS, 0)
        return dg.AssetCheckResult(passed=not defects, metadata={DEFECTS: defects})

    return check


@dg.asset_check(asset=experiment_report, description="The users of each variant are as many as its share gives.")
def split_as_declared(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """By the p value of the report."""
    p_value = latest_metadata(context.instance, experiment_report.key).get("sample ratio p value")
    return dg.AssetCheckResult(
        passed=p_value is None or p_value >= SRM_ALPHA,
        metadata={"p value": "no split" if p_value is None else p_value},
    )


checks = [*(no_defects(asset) for asset in consistency.values()), split_as_declared]
