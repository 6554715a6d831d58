"""Quality: Great Expectations suites as asset checks.

A blocking one that fails keeps the day out of the online store, and the last good view in.
"""

import os
from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import DataFrame

from batch.training_set import TABLE
from batch.view import view_table
from orchestration.assets.batch import events, user_features_view
from orchestration.assets.models import training_set
from orchestration.deployment import GROUP, SETTINGS, SOURCE
from orchestration.run_days import first_and_last_day

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")


def validate(frame: DataFrame, name: str, expectations: Sequence[Any]) -> dg.AssetCheckResult:
    """Runs a suite on a data frame; the result names each expectation that does not hold."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = (
        context.data_sources.add_or_update_spark("spark", persist=False)
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe(name)
    )
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=list(expectations)))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    result = context.checkpoints.add(gx.Checkpoint(name=name, validation_definitions=[definition])).run(
        batch_parameters={"dataframe": frame}
    )
    [found] = result.run_results.values()
    failed = [one.expectation_config for one in found.results if not one.success]
    return dg.AssetCheckResult(
        passed=bool(found.success),
        metadata={
            "expectations": len(found.results),
            "rows": frame.count(),
            "failed": "; ".join(f"{one.type} {one.kwargs.get('column', '')}" for one in failed) or "none",
        },
    )


@dg.asset_check(asset=events, blocking=True)
def events_are_whole(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> dg.AssetCheckResult:
    """Every event of the days has an id of its own, an entity, a type and a time within its day."""
    from great_expectations import expectations as gxe

    first, last = first_and_last_day(context)
    table = spark.spark_session.read.format("delta").load(SETTINGS.table(SOURCE.table))
    frame = table.where(f"day BETWEEN DATE'{first}' AND DATE'{last}'").selectExpr(
        "*", "to_date(timestamp_millis(ts_ms)) = day AS in_its_day"
    )
    return validate(
        frame, "events",
        [
            gxe.ExpectColumnValuesToBeUnique(column=SOURCE.event_id),
            *(gxe.ExpectColumnValuesToNotBeNull(column=column.name) for column in SOURCE.columns if column.required),
            gxe.ExpectColumnValuesToBeInSet(column="in_its_day", value_set=[True]),
        ],
    )  # fmt: skip


@dg.asset_check(asset=events)
def amounts_are_plausible(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> dg.AssetCheckResult:
    """A warning: nearly no amount is negative."""
    from great_expectations import expectations as gxe

    first, last = first_and_last_day(context)
    table = spark.spark_session.read.format("delta").load(SETTINGS.table(SOURCE.table))
    frame = table.where(f"day BETWEEN DATE'{first}' AND DATE'{last}'").selectExpr("CAST(amount AS DOUBLE) AS amount")
    result = validate(frame, "amounts", [gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, mostly=0.99)])
    return result._replace(severity=dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=user_features_view, blocking=True)
def view_is_whole(spark: LazyPySparkResource) -> dg.AssetCheckResult:
    """One row per user, counts not negative, all of one version and one batch_end."""
    from great_expectations import expectations as gxe

    frame = spark.spark_session.read.format("delta").load(SETTINGS.table(view_table(GROUP))).drop("packed")
    whole = [f.name for i, f in enumerate(GROUP.features) if GROUP.value_sql_type(i) == "BIGINT" and f.aggregation.empty == 0]
    return validate(
        frame, "view",
        [
            gxe.ExpectColumnValuesToBeUnique(column="entity"),
            gxe.ExpectColumnValuesToBeInSet(column="fingerprint", value_set=[GROUP.fingerprint]),
            gxe.ExpectColumnUniqueValueCountToBeBetween(column="batch_end_ms", min_value=1, max_value=1),
            *(gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0) for name in whole),
        ],
    )  # fmt: skip


@dg.asset_check(asset=training_set, blocking=True)
def labels_are_whole(spark: LazyPySparkResource) -> dg.AssetCheckResult:
    """Every label is 0 or 1, of an entity, and in one part of the split."""
    from great_expectations import expectations as gxe

    frame = spark.spark_session.read.format("delta").load(SETTINGS.table(TABLE))
    return validate(
        frame, "labels",
        [
            gxe.ExpectColumnValuesToNotBeNull(column="entity"),
            gxe.ExpectColumnValuesToBeInSet(column="label", value_set=[0, 1]),
            gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "evaluation"]),
        ],
    )  # fmt: skip


checks = [events_are_whole, amounts_are_plausible, view_is_whole, labels_are_whole]
