"""The outcome of a model for given instants: whether the declared event followed within the horizon.

Experiments, drift and the training set of served features take their labels from here. Reads the source's events table.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.point_in_time import point_in_time
from features.model import Model
from infra.settings import Settings


def with_outcome(
    spark: SparkSession, settings: Settings, model: Model, points: DataFrame, horizon_ms: int | None = None
) -> DataFrame:
    """Adds `label` (INT): 1 where an event that meets the outcome's condition lies in [q_ms, q_ms + horizon), else 0.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        model: The model that declares the outcome.
        points: Columns `entity`, `q_ms`; other columns are passed through.
        horizon_ms: The length of the interval after q; by default the model's horizon.
    """
    group = model.outcome_group
    [name] = group.feature_names
    points = points.withColumn("horizon_ms", F.col("q_ms") + (model.horizon_ms if horizon_ms is None else horizon_ms))
    counted = point_in_time(spark, settings, group, points, {"before_": "q_ms", "within_": "horizon_ms"})
    label = F.expr(f"CAST(within_{name} > before_{name} AS INT)").alias("label")
    return counted.select(*(column for column in points.columns if column != "horizon_ms"), label)
