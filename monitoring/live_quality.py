"""Live quality: how good the champion's served predictions turned out, against its evaluation after training.

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
from models.registry import CHAMPION, version_by_alias
from monitoring.answers import ANSWER, answers_of

#: The smallest number of answers of which a value is computed.
MIN_ANSWERS = 200


@dataclass(frozen=True)
class LiveQuality:
    """The quality of the champion's answers whose outcome is known, by the first criterion of the objective.

    Attributes:
        version: The version of the champion.
        answers: How many answers have a known outcome.
        metric: The metric in words, such as "AUC".
        value: The metric of these answers; None while there are too few of them.
        evaluated: The metric of the champion's evaluation after training; None if the version has no such tag.
    """

    version: str
    answers: int
    metric: str
    value: float | None
    evaluated: float | None


def live_quality(spark: SparkSession, settings: Settings, model: Model, known_until_ms: int) -> LiveQuality | None:
    """The quality of the champion's answers whose outcome is known; None if there is no champion.

    Degraded answers are left out, because their features may not be those that the model was trained for. So are answers that do not name
    what their outcome is joined by, and answers without a label of the owner's own.
    """
    champion = version_by_alias(settings, model.name, CHAMPION)
    if champion is None:
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
    """The value of the objective's first criterion; None where the answers have none, such as an AUC of labels that are all equal.

    Args:
        model: The declaration.
        answers: Columns `entity`, `label`, and `prediction`: of several classes the probability of the label.
    """
    columns = (answers[name].to_numpy() for name in ("entity", "label", "prediction"))
    value = measured(model.objective, *columns).value()
    return None if np.isnan(value) else value


def prediction_of_label(answer: str) -> Column:
    """The prediction of an answer; of several classes the probability of the label."""
    classes = F.col(f"{answer}.predictions")
    of_label = F.coalesce(classes[F.col("label").cast("string")], F.lit(0.0))
    return F.when(classes.isNotNull(), of_label).otherwise(F.col(f"{answer}.prediction"))
