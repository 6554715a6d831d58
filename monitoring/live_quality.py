"""Live quality: the quality of the champion's served predictions, measured by their outcomes, beside its evaluation after training.

Reads `served_features`, the events of the outcome or the owner's labels, and the tags of the champion in MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from features.model import Model
from infra.errors import NoEventsError
from infra.settings import Settings
from models.evaluation import CRITERIA
from models.outcomes import with_outcome
from models.ranking import measured
from models.registry import CHAMPION, other_outcome, version_by_alias
from monitoring.answers import ANSWER, answers_of

#: The smallest number of answers from which a value is computed.
MIN_ANSWERS = 200


@dataclass(frozen=True)
class LiveQuality:
    """The quality of the champion's answers whose outcome is known, by the first criterion of the objective.

    Attributes:
        version: The version of the champion.
        answers: How many answers have a known outcome.
        metric: The metric in words, such as "AUC".
        value: The metric of these answers; None if there are fewer than `MIN_ANSWERS`, or if the metric is not defined for them.
        evaluated: The metric of the champion's evaluation after training; None if the version has no such tag.
    """

    version: str
    answers: int
    metric: str
    value: float | None
    evaluated: float | None


def live_quality(spark: SparkSession, settings: Settings, model: Model, known_until_ms: int) -> LiveQuality | None:
    """Measures the quality of the champion's answers whose outcome is known.

    Degraded answers are left out, because their features may differ from those that the model was trained on. Answers without a label are left
    out as well: those without a value of the column that joins their outcome, and those for which the owner has no label.

    Args:
        spark: The session.
        settings: The settings that name the lake and the registry.
        model: The declaration.
        known_until_ms: The instant up to which all events are in the lake; an outcome after this instant is not known yet.

    Returns:
        None if there is no champion, or if it predicts another outcome than is declared.
    """
    champion = version_by_alias(settings, model.name, CHAMPION)
    if champion is None or other_outcome(champion.tags, model):
        return None
    criterion = CRITERIA[model.objective][0]
    evaluated = float(champion.tags[criterion.metric]) if criterion.metric in champion.tags else None
    condition = (F.col("model") == model.name) & (F.col("model_version") == champion.version)
    condition = condition & (F.size("degraded") == 0) & (F.coalesce(F.size("degraded_inputs"), F.lit(0)) <= 0)
    if model.labels is None:
        condition = condition & (F.col("q_ms") + model.horizon_ms <= known_until_ms)
    served = answers_of(spark, settings, model, condition)
    try:
        labelled = with_outcome(spark, settings, model, served).where("label IS NOT NULL")
    except NoEventsError:
        return LiveQuality(champion.version, 0, criterion.words, None, evaluated)
    answers = labelled.select("entity", "label", prediction_of_label(ANSWER).alias("prediction")).toPandas()
    value = quality_of(model, answers) if len(answers) >= MIN_ANSWERS else None
    return LiveQuality(champion.version, len(answers), criterion.words, value, evaluated)


def quality_of(model: Model, answers: pd.DataFrame) -> float | None:
    """Returns the value of the objective's first criterion; None if the value is not defined, such as the AUC of labels that are all equal.

    Args:
        model: The declaration.
        answers: Columns `entity`, `label`, and `prediction`. For several classes, the prediction is the probability of the label.
    """
    columns = (answers[name].to_numpy() for name in ("entity", "label", "prediction"))
    value = measured(model.objective, *columns).value()
    return None if np.isnan(value) else value


def prediction_of_label(answer: str) -> Column:
    """Returns the column expression of an answer's prediction; for several classes, the probability of the label.

    Args:
        answer: The name of the struct column `monitoring.answers.ANSWER`. The column `label` must exist, too.
    """
    classes = F.col(f"{answer}.predictions")
    of_label = F.coalesce(classes[F.col("label").cast("string")], F.lit(0.0))
    return F.when(classes.isNotNull(), of_label).otherwise(F.col(f"{answer}.prediction"))
