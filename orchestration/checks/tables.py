"""A Great Expectations suite for each table that others build on, as asset checks.

A `…_whole` check blocks: one that fails keeps the day out of the online store, and the last good view in. A `…_plausible` warns.
"""

from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from batch.tiles import tiles_table
from batch.view import view_table
from features.declaration import FeatureGroup
from features.definitions import GROUPS
from models.training_set import TABLE
from orchestration.assets.batch import events, tiles, views
from orchestration.assets.models import training_set
from orchestration.checks.suites import gx_expectations, validate
from orchestration.deployment import SETTINGS, SOURCE
from orchestration.run_days import first_and_last_day


def quality_check(asset: dg.AssetsDefinition, name: str, whole: str, plausible: str) -> Any:
    """A check function of one asset that gives both results of its suite."""
    specs = [
        dg.AssetCheckSpec(f"{name}_whole", asset=asset, blocking=True, description=whole),
        dg.AssetCheckSpec(f"{name}_plausible", asset=asset, description=plausible),
    ]
    return dg.multi_asset_check(name=f"{asset.key.to_user_string()}_quality", specs=specs)


@quality_check(
    events, "events",
    "Every event has an id of its own, an entity, a type and a time within its day; at most one amount in ten is negative.",
    "Nearly no amount is negative or beyond a million, and the days have events.",
)  # fmt: skip
def events_quality(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
    """Reads the events of the run's days."""
    gxe = gx_expectations()
    frame = _days(SOURCE.table, context, spark)
    required = [column.name for column in SOURCE.columns if column.required]
    frame = frame.selectExpr(*required, "CAST(amount AS DOUBLE) AS amount", "to_date(timestamp_millis(ts_ms)) = day AS in_its_day")
    verdict = validate(
        SETTINGS, frame, SOURCE.table,
        [
            _none_twice(SOURCE.event_id),
            *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in required),
            *_always("in_its_day"),
            gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, mostly=0.9),
            gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, max_value=1_000_000, mostly=0.99, severity="warning"),
            gxe.ExpectTableRowCountToBeBetween(min_value=1, severity="warning"),
        ],
    )  # fmt: skip
    yield from verdict.results(events.key, *_names("events"))


def tiles_quality(group: FeatureGroup, asset: dg.AssetsDefinition) -> Any:
    """The check of a group's tiles."""

    @quality_check(
        asset, "tiles",
        f"One tile per {group.entity} and hop, which begins at a hop and holds its events' times.",
        "Nearly no tile has more than a thousand events.",
    )  # fmt: skip
    def check(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
        gxe = gx_expectations()
        frame = _days(tiles_table(group), context, spark).selectExpr(
            "entity", "tile_start_ms", "events", f"tile_start_ms % {group.tile_ms} = 0 AS begins_at_a_hop",
            f"first_ms >= tile_start_ms AND last_ms >= first_ms AND last_ms < tile_start_ms + {group.tile_ms} AS holds_its_events",
            "to_date(timestamp_millis(tile_start_ms)) = day AS in_its_day",
        )  # fmt: skip
        verdict = validate(
            SETTINGS, frame, asset.key.to_user_string(),
            [
                _none_twice("entity", "tile_start_ms"),
                *_always("begins_at_a_hop", "holds_its_events", "in_its_day"),
                gxe.ExpectColumnValuesToBeBetween(column="events", min_value=1),
                gxe.ExpectColumnValuesToBeBetween(column="events", max_value=1_000, mostly=0.999, severity="warning"),
            ],
        )  # fmt: skip
        yield from verdict.results(asset.key, *_names("tiles"))

    return check


def view_quality(group: FeatureGroup, asset: dg.AssetsDefinition) -> Any:
    """The check of a group's batch view."""

    @quality_check(
        asset, "view",
        f"One row per {group.entity}, counts not negative, all of one version and one batch_end.",
        "No feature is without a value for nearly every entity.",
    )  # fmt: skip
    def check(spark: LazyPySparkResource) -> Any:
        gxe = gx_expectations()
        frame = _read(spark, view_table(group)).drop("packed")
        counts = [f.name for i, f in enumerate(group.features) if group.value_sql_type(i) == "BIGINT" and f.aggregation.empty == 0]
        verdict = validate(
            SETTINGS, frame, asset.key.to_user_string(),
            [
                _none_twice("entity"),
                gxe.ExpectColumnValuesToBeInSet(column="fingerprint", value_set=[group.fingerprint]),
                gxe.ExpectColumnUniqueValueCountToBeBetween(column="batch_end_ms", max_value=1),
                *(gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0) for name in counts),
                *(gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=0.05, severity="warning") for name in group.feature_names),
            ],
        )  # fmt: skip
        yield from verdict.results(asset.key, *_names("view"))

    return check


@quality_check(
    training_set, "labels",
    "Every label is 0 or 1, of an entity, in one part of the split, and none is twice.",
    "Both labels occur, neither below one in a hundred.",
)  # fmt: skip
def labels_quality(spark: LazyPySparkResource) -> Any:
    """Reads the whole training set."""
    gxe = gx_expectations()
    frame = _read(spark, TABLE).select("entity", "q_ms", "label", "split", F.col("label").cast("double").alias("share"))
    verdict = validate(
        SETTINGS, frame, "training_set",
        [
            _none_twice("entity", "q_ms"),
            gxe.ExpectColumnValuesToNotBeNull(column="entity"),
            gxe.ExpectColumnValuesToBeInSet(column="label", value_set=[0, 1]),
            gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "evaluation"]),
            gxe.ExpectColumnMeanToBeBetween(column="share", min_value=0.01, max_value=0.99, severity="warning"),
        ],
    )  # fmt: skip
    yield from verdict.results(training_set.key, *_names("labels"))


def _none_twice(*columns: str) -> Any:
    """That no two rows share the columns; by one aggregation, where the expectation for it sorts the whole table."""
    gxe = gx_expectations()
    names = ", ".join(columns)
    return gxe.UnexpectedRowsExpectation(
        unexpected_rows_query=f"SELECT {names} FROM {{batch}} GROUP BY {names} HAVING count(*) > 1", description=f"{names} twice"
    )


def _always(*columns: str) -> list[Any]:
    gxe = gx_expectations()
    return [gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True]) for column in columns]


def _days(table: str, context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> DataFrame:
    """The rows of a table that are of the run's days."""
    first, last = first_and_last_day(context)
    return _read(spark, table).where(f"day BETWEEN DATE'{first}' AND DATE'{last}'")


def _read(spark: LazyPySparkResource, table: str) -> DataFrame:
    return spark.spark_session.read.format("delta").load(SETTINGS.table(table))


def _names(name: str) -> tuple[str, str]:
    return f"{name}_whole", f"{name}_plausible"


checks = [
    events_quality, labels_quality,
    *(tiles_quality(group, tiles[name]) for name, group in GROUPS.items()),
    *(view_quality(group, views[name]) for name, group in GROUPS.items()),
]  # fmt: skip
