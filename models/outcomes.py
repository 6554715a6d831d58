"""Outcomes: whether an entity purchased within some time after an instant. The label of the training set and of what was served."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.point_in_time import point_in_time
from features.declaration import FeatureGroup, count
from infra.settings import Settings

#: What an outcome counts: it has come where there are more of them at the horizon than there were at q.
PURCHASES = count("outcome_purchases", where="event_type = 'PURCHASE'")


def with_outcome(spark: SparkSession, settings: Settings, group: FeatureGroup, points: DataFrame, horizon_ms: int) -> DataFrame:
    """Adds `label` (INT): 1 where the entity has a purchase in [q_ms, q_ms + horizon).

    Args:
        spark: The session.
        settings: Where the lake is.
        group: Whose entity and source.
        points: Columns `entity`, `q_ms`; others are passed through.
        horizon_ms: How far after q the outcome looks.
    """
    purchases = FeatureGroup("label_of", group.entity, group.source, (PURCHASES,))
    points = points.withColumn("horizon_ms", F.col("q_ms") + horizon_ms)
    counted = point_in_time(spark, settings, purchases, points, {"before_": "q_ms", "within_": "horizon_ms"})
    label = F.expr(f"CAST(within_{PURCHASES.name} > before_{PURCHASES.name} AS INT)").alias("label")
    return counted.select(*(name for name in points.columns if name != "horizon_ms"), label)
