"""Log and wait: a training set of the values that were served.

Reads `served_features` and `events`. The features are not recomputed, so a model learns from the values that it gets in production, with
lag and without late events. In return the outcomes take time, and a new feature has no past. `models.training_set` recomputes features.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.point_in_time import point_in_time
from batch.tables import table_state
from features.model import Model
from infra.settings import Settings
from models.outcomes import with_outcome
from models.training_set import with_split
from monitoring.served import served_of


def write_logged_training_set(spark: SparkSession, settings: Settings, model: Model, known_until_ms: int) -> tuple[int, int]:
    """Writes `logged_training_set` to the model's table. Returns the number of rows, and the Delta version."""
    path = settings.table(model.logged_training_table)
    rows = logged_training_set(spark, settings, model, known_until_ms)
    rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(path)
    state = table_state(spark, path)
    assert state is not None
    return state.read(spark).count(), state.version


def logged_training_set(
    spark: SparkSession, settings: Settings, model: Model, known_until_ms: int, since_ms: int | None = None
) -> DataFrame:
    """Served answers whose outcome is known, with the columns and types of the training set of `models.training_set`.

    Each (entity, q) is one row, with the values that were served first. Degraded answers, answers from batch features alone, and answers
    of another version of the declaration are left out. The features with the prefix `batch_` are computed as of the batch_end of the
    answer.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        model: The declaration.
        known_until_ms: The instant up to which all events are in the lake; an outcome after this instant is not known yet.
        since_ms: Only answers that were served at this instant or later.
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
