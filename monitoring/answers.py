"""The answers of a model: a row per answer, with the columns that join its outcome and with the inputs of the model.

Reads `served_features`, which has a record per answer and input (`monitoring.served`). The record of the first input contains the prediction; the
records of the other inputs are joined by `answer_id`.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.declaration import ModelInput
from features.declaration.entity import value_sql
from features.model import Model
from features.sources import ColumnType
from infra.settings import Settings
from models.outcomes import LABEL_JOIN
from monitoring.served import served_of

#: The column with the data of the answer itself: a struct of columns of `monitoring.served`, because keys and request columns may have the same
#: names as these columns.
ANSWER = "_answer"
_COLUMNS = (
    "served_at_ms", "degraded", "experiment", "variant", "model", "model_version", "prediction", "predictions", "shadows",
    "shadow_predictions",
)  # fmt: skip


def end_column(place: int) -> str:
    """Returns the name of the column of `with_inputs` that has the batch_end of the input at a place, in milliseconds."""
    return f"_end_{place}"


def answers_of(spark: SparkSession, settings: Settings, model: Model, condition: Column) -> DataFrame:
    """Returns the answers of a model that meet a condition on the columns of `monitoring.served`.

    Returns:
        The columns that `models.outcomes.with_outcome` needs, and `ANSWER`: `entity` of the first input, `q_ms`, `LABEL_JOIN` if a column joins
        the outcome, and the keys of the other inputs if the labels are the owner's own.
    """
    rows = _answers(spark, settings, model, condition).drop("_input")
    for entry in model.vector.inputs[1:] if model.labels is not None else ():
        rows = _joined(spark, settings, rows, entry).drop("_input")
    return rows.drop("_answer_id", "_request")


def with_inputs(spark: SparkSession, settings: Settings, model: Model, condition: Column) -> DataFrame:
    """Returns the exact answers of a model that meet a condition, with the inputs of the model.

    Answers from batch features alone, answers of another version of a group's declaration, and degraded answers are left out.

    Returns:
        The columns of `answers_of`, the keys of the other inputs, the request columns (a time as BIGINT, in milliseconds), each feature under its
        name in the model, and `end_column` of each input.
    """
    rows = _answers(spark, settings, model, condition)
    entries = model.vector.inputs
    for place, entry in enumerate(entries):
        if place:
            rows = _joined(spark, settings, rows, entry)
        rows = rows.where(
            (F.col("_input.fingerprint") == entry.group.fingerprint)
            & (F.size("_input.degraded") == 0)
            & (F.col("_input.features_at_ms") == F.col("q_ms"))
        )
        types = ", ".join(f"`{name}` {entry.group.value_sql_type(index)}" for index, name in enumerate(entry.group.feature_names))
        value = F.from_json("_input.features", types)
        features = {f"{entry.prefix}{name}": value.getField(name) for name in entry.group.feature_names}
        rows = rows.withColumns({**features, end_column(place): F.col("_input.batch_end_ms")}).drop("_input")
    if model.request:
        kinds = {ColumnType.TIMESTAMP: "BIGINT"}
        columns = ", ".join(f"`{column.name}` {kinds.get(column.type, column.type.value)}" for column in model.request)
        request = F.from_json("_request", columns)
        rows = rows.withColumns({column.name: request.getField(column.name) for column in model.request})
    return rows.drop("_answer_id", "_request")


def _answers(spark: SparkSession, settings: Settings, model: Model, condition: Column) -> DataFrame:
    key = model.outcome_key
    shared = [F.col("outcome_id").cast(key.type.value).alias(LABEL_JOIN)] if key else []
    served = served_of(spark, settings, model.group).where(condition)
    answer = F.struct(*_COLUMNS).alias(ANSWER)
    own = F.col("answer_id").alias("_answer_id"), F.col("request").alias("_request")
    return served.select("entity", "q_ms", answer, *own, *shared, _input())


def _joined(spark: SparkSession, settings: Settings, rows: DataFrame, entry: ModelInput) -> DataFrame:
    """Joins answers with their records of an input that is not the first. Adds the keys of the input and the column `_input`."""
    served = served_of(spark, settings, entry.group).where(F.col("model").isNull() & (F.col("input") == entry.name))
    # Inputs may share keys.
    keys = [
        F.expr(value_sql("entity", place, len(entry.keys), kind)).alias(key)
        for place, (key, kind) in enumerate(entry.key_types.items())
        if key not in rows.columns
    ]
    records = served.select(F.col("answer_id").alias("_answer_id"), *keys, _input())
    return rows.join(records, "_answer_id")


def _input() -> Column:
    return F.struct("fingerprint", "degraded", "features_at_ms", "features", "batch_end_ms").alias("_input")
