"""Drift: how much the features have changed since the champion was trained, and the quality of the champion's served predictions.

Reads Delta versions of the group's view, `served_features`, the source's events table, and the tags of the champion in MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.view import view_table
from features.declaration import FeatureGroup
from features.model import Model
from infra.settings import Settings
from models.outcomes import with_outcome
from models.ranking import Ranking
from models.registry import CHAMPION, trained_fingerprint, version_by_alias
from monitoring.served import served_of

#: The largest and the smallest number of entities per view in a comparison; with fewer entities the distance is mostly chance.
SAMPLE, MIN_ENTITIES = 20_000, 200
#: The smallest number of answers from which a live AUC is computed.
MIN_ANSWERS = 200


@dataclass(frozen=True)
class LiveQuality:
    """The quality of the champion's answers whose outcome is known.

    Attributes:
        version: The version of the champion.
        answers: How many answers have a known outcome.
        auc: The AUC of these answers; None while there are too few of them.
        evaluated_auc: The AUC of the champion's evaluation after training; None if the version has no such tag.
    """

    version: str
    answers: int
    auc: float | None
    evaluated_auc: float | None


def feature_drift(spark: SparkSession, settings: Settings, model: Model) -> dict[str, float] | None:
    """For each numeric feature, the distance between its values in the current view and in the view at the champion's training.

    The distance lies in [0, 1]. It is the larger of two numbers: the Kolmogorov-Smirnov statistic of the values that are not null,
    and the change in the share of nulls. The result is None if there is no champion that was trained on this declaration, if the view
    at its training is no longer stored, or if a view has too few entities.
    """
    group = model.group
    champion = version_by_alias(settings, model.name, CHAMPION)
    version = champion.tags.get("view_version") if champion else None
    if champion is None or version is None or trained_fingerprint(champion.tags) != model.vector.fingerprint:
        return None
    path = settings.table(view_table(group))

    def sample(frame: DataFrame) -> pd.DataFrame:
        return frame.orderBy(F.xxhash64("entity")).limit(SAMPLE).select(*group.model_names).toArrow().to_pandas()

    try:
        then = sample(spark.read.format("delta").option("versionAsOf", version).load(path))
    except (PySparkException, Py4JJavaError):  # the table's log no longer has the version, or a vacuum has deleted its files
        return None
    now = sample(spark.read.format("delta").load(path))
    return distances(then, now) if min(len(then), len(now)) >= MIN_ENTITIES else None


def distances(then: pd.DataFrame, now: pd.DataFrame) -> dict[str, float]:
    """Column → its distance between two samples, as `feature_drift` describes it."""
    from scipy.stats import ks_2samp

    distance_of = {}
    for name in then.columns:
        a, b = then[name].dropna().astype("float64"), now[name].dropna().astype("float64")
        missing = abs(then[name].isna().mean() - now[name].isna().mean())
        statistic = ks_2samp(a, b).statistic if len(a) and len(b) else 0.0
        distance_of[name] = float(max(statistic, missing))
    return distance_of


def live_quality(spark: SparkSession, settings: Settings, model: Model, known_until_ms: int) -> LiveQuality | None:
    """The quality of the champion's answers whose outcome is known; None if there is no champion.

    Degraded answers are left out, because their features may not be those that the model was trained for.
    """
    champion = version_by_alias(settings, model.name, CHAMPION)
    if champion is None:
        return None
    served = served_of(spark, settings, model.group).where(
        (F.col("model") == model.name)
        & (F.col("model_version") == champion.version)
        & (F.col("q_ms") + model.horizon_ms <= known_until_ms)
        & (F.size("degraded") == 0)
    )
    evaluated = float(champion.tags["auc"]) if "auc" in champion.tags else None
    if not model.outcome_of_entity:  # the served log has not the column that joins an outcome
        return LiveQuality(champion.version, served.count(), None, evaluated)
    if served.isEmpty():  # without this line, `with_outcome` would fail where no events table exists yet
        return LiveQuality(champion.version, 0, None, evaluated)
    answers: pd.DataFrame = with_outcome(spark, settings, model, served.select("entity", "q_ms", "prediction")).toPandas()
    auc = Ranking(answers["entity"].to_numpy(), answers["label"].to_numpy(), answers["prediction"].to_numpy()).auc()
    enough = len(answers) >= MIN_ANSWERS and not pd.isna(auc)
    return LiveQuality(champion.version, len(answers), auc if enough else None, evaluated)


def view_version(spark: SparkSession, settings: Settings, group: FeatureGroup) -> int:
    """The current Delta version of the group's view. A model that is trained now gets it as the tag `view_version`."""
    latest = DeltaTable.forPath(spark, settings.table(view_table(group))).history(1).first()
    assert latest is not None
    return int(latest["version"])
