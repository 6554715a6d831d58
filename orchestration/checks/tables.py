"""A Great Expectations suite for each table that another asset reads, as asset checks.

A failed `…_whole` check blocks the publication: the online store keeps the last good view. A failed `…_plausible` check warns.
"""

from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from batch.tiles import tiles_table
from batch.view import view_table
from features.declaration import FeatureGroup
from features.model import Model
from features.objective import Objective
from features.sources import EventSource
from infra.settings import Settings
from orchestration.checks.suites import gx_expectations, validate
from orchestration.deployment import Deployment
from orchestration.materialized import built_version, latest_metadata
from orchestration.names import events_key, tiles_key, training_set_key, view_key
from orchestration.run_days import first_and_last_day


def quality_check(asset: dg.AssetKey, name: str, whole: str, plausible: str) -> Any:
    """Returns the decorator of a check function that yields both results of an asset's suite: `{name}_whole`, which blocks, and `{name}_plausible`.

    Args:
        asset: The asset.
        name: The prefix of the names of both checks.
        whole: The description of the check that blocks.
        plausible: The description of the check that warns.
    """
    specs = [
        dg.AssetCheckSpec(f"{name}_whole", asset=asset, blocking=True, description=whole),
        dg.AssetCheckSpec(f"{name}_plausible", asset=asset, description=plausible),
    ]
    return dg.multi_asset_check(name=f"{asset.to_user_string()}_quality", specs=specs)


def events_quality(deployment: Deployment, source: EventSource) -> Any:
    """Returns the check of a source's events."""
    settings = deployment.settings
    required = [column.name for column in source.columns if column.required]

    @quality_check(
        events_key(source), "events",
        f"Of the duplicates of an event one is there; every event has a time within its day, and values of {', '.join(required)}.",
        "The days have events.",
    )  # fmt: skip
    def check(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
        gxe = gx_expectations()
        frame = _days(settings, source.table, context, spark).selectExpr(
            *required, "day", "to_date(timestamp_millis(ts_ms)) = day AS in_its_day"
        )
        first, last = first_and_last_day(context)
        span = settings.deduplication_days
        verdict = validate(
            settings, frame, source.table,
            [
                _none_twice(source.event_id) if (last - first).days <= span else _none_twice_within(span, source.event_id),
                *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in required),
                *_always("in_its_day"),
                gxe.ExpectTableRowCountToBeBetween(min_value=1, severity="warning"),
            ],
        )  # fmt: skip
        yield from verdict.results(events_key(source), *_names("events"))

    return check


def tiles_quality(deployment: Deployment, group: FeatureGroup) -> Any:
    """Returns the check of a group's tiles."""
    settings, key = deployment.settings, tiles_key(group)

    @quality_check(
        key, "tiles",
        f"There is one tile per {group.entity_text} and hop; it begins at a hop and contains the times of its events.",
        "At most one tile in a thousand has more than a thousand events.",
    )  # fmt: skip
    def check(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
        gxe = gx_expectations()
        frame = _days(settings, tiles_table(group), context, spark).selectExpr(
            "entity", "tile_start_ms", "events", f"tile_start_ms % {group.tile_ms} = 0 AS begins_at_a_hop",
            f"first_ms >= tile_start_ms AND last_ms >= first_ms AND last_ms < tile_start_ms + {group.tile_ms} AS holds_its_events",
            "to_date(timestamp_millis(tile_start_ms)) = day AS in_its_day",
        )  # fmt: skip
        verdict = validate(
            settings, frame, key.to_user_string(),
            [
                _none_twice("entity", "tile_start_ms"),
                *_always("begins_at_a_hop", "holds_its_events", "in_its_day"),
                gxe.ExpectColumnValuesToBeBetween(column="events", min_value=1),
                gxe.ExpectColumnValuesToBeBetween(column="events", max_value=1_000, mostly=0.999, severity="warning"),
            ],
        )  # fmt: skip
        yield from verdict.results(key, *_names("tiles"))

    return check


def view_quality(deployment: Deployment, group: FeatureGroup) -> Any:
    """Returns the check of a group's batch view."""
    settings, key = deployment.settings, view_key(group)

    @quality_check(
        key, "view",
        f"There is one row per {group.entity_text}; no count is negative; all rows have the same version and batch_end.",
        "Every feature has a value for at least 5 % of the entities.",
    )  # fmt: skip
    def check(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
        gxe = gx_expectations()
        frame = view_of_run(context, spark, settings, group).drop("packed")
        counts = [
            f.name
            for i, f in enumerate(group.features)
            if group.value_sql_type(i) == "BIGINT" and f.aggregation.kind != "sum" and f.aggregation.empty == 0
        ]
        verdict = validate(
            settings, frame, key.to_user_string(),
            [
                _none_twice("entity"),
                gxe.ExpectColumnValuesToBeInSet(column="fingerprint", value_set=[group.fingerprint]),
                gxe.ExpectColumnUniqueValueCountToBeBetween(column="batch_end_ms", max_value=1),
                *(gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0) for name in counts),
                *(gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=0.05, severity="warning") for name in group.feature_names),
            ],
        )  # fmt: skip
        yield from verdict.results(key, *_names("view"))

    return check


#: Objective → the description of its labels.
_LABELS = {Objective.BINARY: "0 or 1", Objective.REGRESSION: "a number", Objective.MULTICLASS: "the name of a class"}


def labels_quality(deployment: Deployment, model: Model) -> Any:
    """Returns the check of a model's training set."""
    settings, key = deployment.settings, training_set_key(model)

    @quality_check(
        key, "labels",
        f"Every label is {_LABELS[model.objective]}, has an entity, is in one part of the split, and occurs once.",
        "Of labels 0 and 1, each is at least 1 % of the rows.",
    )  # fmt: skip
    def check(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
        if reason := latest_metadata(context.instance, key).get("reason"):
            for name in _names("labels"):
                yield dg.AssetCheckResult(
                    passed=False, asset_key=key, check_name=name, severity=dg.AssetCheckSeverity.WARN, metadata={"reason": f"No evidence: {reason}"}
                )  # fmt: skip
            return
        gxe = gx_expectations()
        frame = _read(settings, spark, model.training_table).select("entity", "q_ms", "label", "split")
        of_label = [gxe.ExpectColumnValuesToNotBeNull(column="label")]
        if model.objective is Objective.BINARY:
            frame = frame.withColumn("share", F.col("label").cast("double"))
            of_label = [
                gxe.ExpectColumnValuesToBeInSet(column="label", value_set=[0, 1]),
                gxe.ExpectColumnMeanToBeBetween(column="share", min_value=0.01, max_value=0.99, severity="warning"),
            ]
        verdict = validate(
            settings, frame, key.to_user_string(),
            [
                # Two events of an entity at one millisecond are two label points.
                *([_none_twice("entity", "q_ms")] if not model.points_are_events else []),
                gxe.ExpectColumnValuesToNotBeNull(column="entity"),
                *of_label,
                gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "gap", "evaluation"]),
            ],
        )  # fmt: skip
        yield from verdict.results(key, *_names("labels"))

    return check


def _none_twice(*columns: str) -> Any:
    """Returns the expectation that no two rows are equal in the columns. It needs one aggregation; Great Expectations' own one sorts the table."""
    gxe = gx_expectations()
    names = ", ".join(columns)
    return gxe.UnexpectedRowsExpectation(
        unexpected_rows_query=f"SELECT {names} FROM {{batch}} GROUP BY {names} HAVING count(*) > 1", description=f"{names} twice"
    )


def _none_twice_within(days: int, event_id: str) -> Any:
    """The expectation that no two rows of an id lie at most some days apart. Those further apart are different events (`batch.copies`)."""
    gxe = gx_expectations()
    ordered = f"SELECT {event_id}, day, lag(day) OVER (PARTITION BY {event_id} ORDER BY day) AS before FROM {{batch}}"
    return gxe.UnexpectedRowsExpectation(
        unexpected_rows_query=f"SELECT {event_id} FROM ({ordered}) WHERE datediff(day, before) <= {days}",
        description=f"{event_id} twice",
    )


def _always(*columns: str) -> list[Any]:
    gxe = gx_expectations()
    return [gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True]) for column in columns]


def _days(settings: Settings, table: str, context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> DataFrame:
    """Returns the rows of a table that belong to the run's days."""
    first, last = first_and_last_day(context)
    return _read(settings, spark, table).where(f"day BETWEEN DATE'{first}' AND DATE'{last}'")


def view_of_run(
    context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource, settings: Settings, group: FeatureGroup
) -> DataFrame:
    """The view that the run of a check has built, else the latest view. Another run may have built one since."""
    built = built_version(context.run, context.instance, group)
    reader = spark.spark_session.read.format("delta")
    return (reader if built is None else reader.option("versionAsOf", built)).load(settings.table(view_table(group)))


def _read(settings: Settings, spark: LazyPySparkResource, table: str) -> DataFrame:
    return spark.spark_session.read.format("delta").load(settings.table(table))


def _names(name: str) -> tuple[str, str]:
    return f"{name}_whole", f"{name}_plausible"


def checks_of(deployment: Deployment) -> list[Any]:
    """Returns the checks of all sources, groups and models."""
    project = deployment.project
    return [
        *(events_quality(deployment, source) for source in project.sources),
        *(make(deployment, group) for group in deployment.batch_groups for make in (tiles_quality, view_quality)),
        *(labels_quality(deployment, model) for model in project.models),
    ]
