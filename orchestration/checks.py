"""Quality: a Great Expectations suite for each table that others build on, as asset checks.

A `…_whole` check blocks: one that fails keeps the day out of the online store, and the last good view in. A `…_plausible` warns.
"""

from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from batch.tiles import tiles_table
from batch.training_set import TABLE
from batch.view import view_table
from orchestration.assets.batch import events, user_feature_tiles, user_features_view
from orchestration.assets.models import training_set
from orchestration.deployment import GROUP, SETTINGS, SOURCE
from orchestration.quality import validate
from orchestration.run_days import first_and_last_day


def quality_check(asset: dg.AssetsDefinition, name: str, whole: str, plausible: str) -> Any:
    """A check function of one asset that gives both results of its suite."""
    specs = [
        dg.AssetCheckSpec(f"{name}_whole", asset=asset, blocking=True, description=whole),
        dg.AssetCheckSpec(f"{name}_plausible", asset=asset, description=plausible),
    ]
    return dg.multi_asset_check(name=f"{name}_quality", specs=specs)


def _none_twice(*columns: str) -> Any:
    """That no two rows share the columns; by one aggregation, where the expectation for it sorts the whole table."""
    from great_expectations import expectations as gxe

    names = ", ".join(columns)
    return gxe.UnexpectedRowsExpectation(
        unexpected_rows_query=f"SELECT {names} FROM {{batch}} GROUP BY {names} HAVING count(*) > 1", description=f"{names} twice"
    )


def _always(*columns: str) -> list[Any]:
    from great_expectations import expectations as gxe

    return [gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True]) for column in columns]


def _days(table: str, context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> DataFrame:
    """The rows of a table that are of the run's days."""
    first, last = first_and_last_day(context)
    return _read(spark, table).where(f"day BETWEEN DATE'{first}' AND DATE'{last}'")


def _read(spark: LazyPySparkResource, table: str) -> DataFrame:
    return spark.spark_session.read.format("delta").load(SETTINGS.table(table))


@quality_check(
    events, "events",
    "Every event has an id of its own, an entity, a type and a time within its day; at most one amount in ten is negative.",
    "Nearly no amount is negative or beyond a million, and the days have events.",
)  # fmt: skip
def events_quality(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
    """Reads the events of the run's days."""
    from great_expectations import expectations as gxe

    frame = _days(SOURCE.table, context, spark)
    required = [column.name for column in SOURCE.columns if column.required]
    frame = frame.selectExpr(*required, "CAST(amount AS DOUBLE) AS amount", "to_date(timestamp_millis(ts_ms)) = day AS in_its_day")
    verdict = validate(
        SETTINGS, frame, "events",
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


@quality_check(
    user_feature_tiles, "tiles",
    "One tile per user and hop, which begins at a hop and holds its events' times.",
    "No tile has more events than a person makes.",
)  # fmt: skip
def tiles_quality(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
    """Reads the tiles of the run's days."""
    from great_expectations import expectations as gxe

    frame = _days(tiles_table(GROUP), context, spark).selectExpr(
        "entity", "tile_start_ms", "events", f"tile_start_ms % {GROUP.tile_ms} = 0 AS begins_at_a_hop",
        f"first_ms >= tile_start_ms AND last_ms >= first_ms AND last_ms < tile_start_ms + {GROUP.tile_ms} AS holds_its_events",
        "to_date(timestamp_millis(tile_start_ms)) = day AS in_its_day",
    )  # fmt: skip
    verdict = validate(
        SETTINGS, frame, "tiles",
        [
            _none_twice("entity", "tile_start_ms"),
            *_always("begins_at_a_hop", "holds_its_events", "in_its_day"),
            gxe.ExpectColumnValuesToBeBetween(column="events", min_value=1),
            gxe.ExpectColumnValuesToBeBetween(column="events", max_value=1_000, mostly=0.999, severity="warning"),
        ],
    )  # fmt: skip
    yield from verdict.results(user_feature_tiles.key, *_names("tiles"))


@quality_check(
    user_features_view, "view",
    "One row per user, counts not negative, all of one version and one batch_end.",
    "No feature is without a value for nearly every user.",
)  # fmt: skip
def view_quality(spark: LazyPySparkResource) -> Any:
    """Reads the whole view, but for the packed values."""
    from great_expectations import expectations as gxe

    frame = _read(spark, view_table(GROUP)).drop("packed")
    counts = [f.name for i, f in enumerate(GROUP.features) if GROUP.value_sql_type(i) == "BIGINT" and f.aggregation.empty == 0]
    verdict = validate(
        SETTINGS, frame, "view",
        [
            _none_twice("entity"),
            gxe.ExpectColumnValuesToBeInSet(column="fingerprint", value_set=[GROUP.fingerprint]),
            gxe.ExpectColumnUniqueValueCountToBeBetween(column="batch_end_ms", min_value=1, max_value=1),
            *(gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0) for name in counts),
            *(gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=0.05, severity="warning") for name in GROUP.feature_names),
        ],
    )  # fmt: skip
    yield from verdict.results(user_features_view.key, *_names("view"))


@quality_check(
    training_set, "labels",
    "Every label is 0 or 1, of an entity, in one part of the split, and none is twice.",
    "Both labels occur, neither below one in a hundred.",
)  # fmt: skip
def labels_quality(spark: LazyPySparkResource) -> Any:
    """Reads the whole training set."""
    from great_expectations import expectations as gxe

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


def _names(name: str) -> tuple[str, str]:
    return f"{name}_whole", f"{name}_plausible"


checks = [events_quality, tiles_quality, view_quality, labels_quality]
