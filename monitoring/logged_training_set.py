"""Log and wait: a training set of the values that were served.

Reads `served_features` and the events of the outcome, or the owner's labels. Writes the Delta table of the model's logged training set. The
features are the logged values, so a model learns from the values that it gets in production, with lag and without late events. The drawbacks:
outcomes become known only with time, and a new feature has no logged values. `models.training_set` recomputes the features instead.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from batch.point_in_time import point_in_time
from batch.tables import replace_table, retry_conflicts, table_state
from features.model import Model
from infra.settings import Settings
from models.outcomes import LABEL_JOIN, with_outcome
from models.registry import batch_only_name
from models.training_set import in_order, with_group, with_split
from monitoring.answers import ANSWER, end_column, with_inputs


def write_logged_training_set(spark: SparkSession, settings: Settings, model: Model, known_until_ms: int) -> tuple[int, int]:
    """Writes `logged_training_set` to the model's table. Returns the number of rows and the Delta version."""
    path = settings.table(model.logged_training_table)
    rows = logged_training_set(spark, settings, model, known_until_ms)
    retry_conflicts(lambda: replace_table(rows, path))
    state = table_state(spark, path)
    assert state is not None
    return state.read(spark).count(), state.version


def logged_training_set(spark: SparkSession, settings: Settings, model: Model, known_until_ms: int) -> DataFrame:
    """Returns the served answers whose outcome is known, with the columns and types of the training set of `models.training_set`.

    Equal requests as of the same time are one row, with the values that were served first. Degraded answers, answers from batch features alone,
    and answers of another version of a group's declaration are left out. The features with the prefix `batch_` are recomputed as of the
    batch_end of the answer.

    If the only input of the model is the features of one group, answers of `/features` count, too.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        model: The declaration.
        known_until_ms: The instant up to which all events are in the lake; an outcome after this instant is not known yet.
    """
    condition = F.col("model").isin(model.name, batch_only_name(model.name))
    if model.vector.is_plain and model.outcome_key is None:
        condition = condition | F.col("model").isNull()
    if model.labels is None:
        condition = condition & (F.col("q_ms") + model.horizon_ms <= known_until_ms)
    answers = with_inputs(spark, settings, model, condition)
    entries = model.vector.inputs
    asked = {
        "entity", "q_ms", *(key for entry in entries[1:] for key in entry.keys), *(column.name for column in model.request),
        *([LABEL_JOIN] if model.outcome_key else []),
    }  # fmt: skip
    first_served = F.row_number().over(Window.partitionBy(*sorted(asked)).orderBy(f"{ANSWER}.served_at_ms"))
    points = answers.withColumn("_place", first_served).where("_place = 1").drop("_place", ANSWER)
    labelled = with_outcome(spark, settings, model, points).where("label IS NOT NULL").drop(LABEL_JOIN)
    rows = with_split(labelled, model.horizon_ms)
    for place, entry in enumerate(entries):
        instants = {f"batch_{entry.prefix}": end_column(place)}
        if place:
            rows = with_group(spark, settings, entry.group, rows, instants, entry.id_sql)
        else:
            rows = point_in_time(spark, settings, entry.group, rows, instants)
    rows = rows.drop(*(end_column(place) for place in range(len(entries))))
    return rows.select(*in_order(model, rows.columns))
