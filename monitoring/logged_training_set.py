"""Log and wait: a training set of the very values that were served.

Reads `served_features` and `events`. Nothing is recomputed, so a model learns what it will see, lag and late events included; the
price is the wait for outcomes, and that a new feature has no past. `models.training_set` is the other way.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.point_in_time import point_in_time
from batch.tables import table_state
from features.project import Model
from infra.settings import Settings
from models.outcomes import with_outcome
from models.training_set import with_split
from monitoring.served import served_of


def write_logged_training_set(spark: SparkSession, settings: Settings, model: Model, known_until_ms: int) -> tuple[int, int]:
    """Writes `logged_training_set` to the model's table; gives the number of rows, and the Delta version."""
    path = settings.table(model.logged_training_table)
    rows = logged_training_set(spark, settings, model, known_until_ms)
    rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(path)
    state = table_state(spark, path)
    assert state is not None
    return state.read(spark).count(), state.version


def logged_training_set(
    spark: SparkSession, settings: Settings, model: Model, known_until_ms: int, since_ms: int | None = None
) -> DataFrame:
    """The rows of `training_set`, its columns and types, from what was served and has an outcome.

    Each (entity, q) is one row, as it was served first. Degraded answers, those on batch features alone, and those of another
    version of the declaration are left out. The features with the prefix `batch_` are computed, as of the batch_end of the answer.

    Args:
        spark: The session.
        settings: Where the lake is.
        model: The declaration.
        known_until_ms: Up to when all events are in the lake: an outcome beyond is not known.
        since_ms: Only what was served from then on.
    """
    group = model.group
    served = served_of(spark, settings, group).where(
        (F.col("fingerprint") == group.fingerprint) & (F.size("degraded") == 0) & (F.col("features_at_ms") == F.col("q_ms"))
        & (F.col("q_ms") + model.horizon_ms <= known_until_ms)
    )  # fmt: skip
    if since_ms is not None:
        served = served.where(F.col("served_at_ms") >= since_ms)
    types = ", ".join(f"`{name}` {group.value_sql_type(index)}" for index, name in enumerate(group.feature_names))
    value = F.struct(F.from_json("features", types).alias("f"), "batch_end_ms")
    points = served.groupBy("entity", "q_ms").agg(F.min_by(value, "served_at_ms").alias("v")).select("entity", "q_ms", "v.*")
    labels = with_split(with_outcome(spark, settings, model, points), model.horizon_ms)
    rows = point_in_time(spark, settings, group, labels, {"batch_": "batch_end_ms"})
    batch = [f"batch_{name}" for name in group.feature_names]
    return rows.select("entity", "q_ms", "label", "split", "f.*", *batch)
