"""Outcomes: whether an event of a kind happened to an entity within some time after an instant. The label of the training set and of what was served."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.point_in_time import point_in_time
from features.project import Model
from infra.settings import Settings


def with_outcome(
    spark: SparkSession, settings: Settings, model: Model, points: DataFrame, horizon_ms: int | None = None
) -> DataFrame:
    """Adds `label` (INT): 1 where the entity has an event of the outcome's kind in [q_ms, q_ms + horizon).

    Args:
        spark: The session.
        settings: Where the lake is.
        model: Whose outcome.
        points: Columns `entity`, `q_ms`; others are passed through.
        horizon_ms: How far after q the outcome looks; by default as far as the model's.
    """
    group = model.outcome_group
    [name] = group.feature_names
    points = points.withColumn("horizon_ms", F.col("q_ms") + (model.horizon_ms if horizon_ms is None else horizon_ms))
    counted = point_in_time(spark, settings, group, points, {"before_": "q_ms", "within_": "horizon_ms"})
    label = F.expr(f"CAST(within_{name} > before_{name} AS INT)").alias("label")
    return counted.select(*(column for column in points.columns if column != "horizon_ms"), label)
