"""The labels of served answers: whether the declared outcome event followed within the horizon, or the owner's own labels.

Reads the events table of the outcome's source, or the table of the owner's own labels. Adds a column `label` to a frame of answers. Experiments,
live quality and the training set of served features take their labels from here.
"""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.events import require_events
from batch.point_in_time import point_in_time
from features.declaration.entity import has_value_sql
from features.model import Model, Outcome
from features.predicates import canonical_predicate
from infra.settings import Settings

#: The column with the value that an outcome shares with its label point, if the outcome declares `join`.
LABEL_JOIN = "_label_join"
_EVENTS = "_events"


def with_outcome(
    spark: SparkSession, settings: Settings, model: Model, points: DataFrame, horizon_ms: int | None = None
) -> DataFrame:
    """Adds the column `label` to served answers, with the meaning of the label in the training set.

    For an outcome, the label is 1 if an event that meets the outcome's condition lies in [q_ms, q_ms + horizon_ms), else 0. It is null if the outcome
    is joined by a column and the answer does not have the value of that column. If the outcome declares which events are label points (`Outcome.at`),
    the first such event since q is the event that the answer is about, and does not count as an outcome. The owner's own labels are joined by the
    keys and the time of the answer; without such a label, the label is null.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        model: The model that declares the outcome.
        points: Columns `entity`, `q_ms`; `LABEL_JOIN` if the outcome is joined by a column; the keys of the other inputs for the owner's own labels.
            Other columns are passed through.
        horizon_ms: The length of the interval after q; by default the model's horizon. The owner's own labels do not use it.

    Raises:
        NoEventsError: There are no events of the outcome's source, or no labels.
    """
    outcome, horizon_ms = model.outcome, model.horizon_ms if horizon_ms is None else horizon_ms
    if not isinstance(outcome, Outcome):
        return _with_labels(spark, settings, model, points)
    if outcome.join is not None or outcome.at is not None:
        return _with_events(spark, settings, model, outcome, points, horizon_ms)
    group = model.outcome_group
    require_events(spark, settings, group.source)
    [name] = group.feature_names
    points = points.withColumn("horizon_ms", F.col("q_ms") + horizon_ms)
    counted = point_in_time(spark, settings, group, points, {"before_": "q_ms", "within_": "horizon_ms"})
    label = F.expr(f"CAST(within_{name} > before_{name} AS INT)").alias("label")
    return counted.select(*(column for column in points.columns if column != "horizon_ms"), label)


def _with_events(
    spark: SparkSession, settings: Settings, model: Model, outcome: Outcome, points: DataFrame, horizon_ms: int
) -> DataFrame:
    """Adds the labels if the outcome is joined by a column, or if the answer's own event must be told apart from its outcomes."""
    group, key = model.outcome_group, LABEL_JOIN if outcome.join else "entity"
    require_events(spark, settings, group.source)
    where = f"coalesce({canonical_predicate(outcome.where, group.source, model.name)}, false)" if outcome.where else "true"
    # Label points are events of the first group's source only.
    own = "false"
    if outcome.at is not None and group.source == model.group.source:
        own = f"coalesce({canonical_predicate(outcome.at, group.source, model.name)}, false)"
    table = spark.read.format("delta").load(settings.table(group.source.table))
    event = F.struct("ts_ms", F.expr(where).alias("outcome"), F.expr(own).alias("own"))
    events = (
        table.where(f"{group.has_entity_sql} AND ({where} OR {own})")
        .select(F.expr(group.entity_sql).alias(key), event.alias("event"))
        .join(points.select(key).distinct(), key, "left_semi")
        .groupBy(key)
        .agg(F.collect_list("event").alias(_EVENTS))
    )
    inside = f"filter({_EVENTS}, e -> e.ts_ms >= q_ms AND e.ts_ms < q_ms + {horizon_ms})"
    # Structs are compared by their first field, so the smallest struct is that of the earliest event.
    own_event = "array_min(transform(filter(_inside, e -> e.own), e -> struct(e.ts_ms, e.outcome))).outcome"
    outcomes = f"size(filter(_inside, e -> e.outcome)) - CAST(coalesce({own_event}, false) AS INT)"
    # Without a value that an event can have the outcome stays unknown.
    known = has_value_sql(replace(group.entity_columns[0], name=key)) if outcome.join else f"{key} IS NOT NULL"
    label = F.expr(f"CASE WHEN {known} THEN CAST(coalesce({outcomes}, 0) > 0 AS INT) END")
    joined = points.join(events, key, "left").withColumn("_inside", F.expr(f"coalesce({inside}, array())"))
    return joined.withColumn("label", label).select(*points.columns, "label")


def _with_labels(spark: SparkSession, settings: Settings, model: Model, points: DataFrame) -> DataFrame:
    assert model.labels is not None
    require_events(spark, settings, model.labels)
    first, *others = model.vector.inputs
    keys = ["entity", *dict.fromkeys(key for entry in others for key in entry.keys)]
    labels = spark.read.format("delta").load(settings.table(model.labels.table)).select(
        F.expr(first.id_sql).alias("entity"), F.col("ts_ms").alias("q_ms"), *(F.col(f"`{key}`") for key in keys[1:]),
        F.col("label").cast(model.objective.label_sql_type).alias("label"),
    )  # fmt: skip
    labels = labels.groupBy(*keys, "q_ms").agg(F.max("label").alias("label"))
    return points.join(labels, [*keys, "q_ms"], "left").select(*points.columns, "label")
