"""Drift: how far the features have moved since the champion was trained, and how well its answers have turned out since.

Reads versions of the group's view, `served_features` and `events`, and the champion's tags.
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
from features.project import Model
from infra.settings import Settings
from models.outcomes import with_outcome
from models.ranking import Ranking
from models.registry import CHAMPION, version_by_alias
from monitoring.served import served_of

#: Entities of each view that are compared, at most and at least: the distance of a few is chance.
SAMPLE, MIN_ENTITIES = 20_000, 200
#: Answers that a live quality needs.
MIN_ANSWERS = 200


@dataclass(frozen=True)
class LiveQuality:
    """The champion's answers that have an outcome: how many, and their AUC beside the one of its evaluation (None: not known yet)."""

    version: str
    answers: int
    auc: float | None
    evaluated_auc: float | None


def feature_drift(spark: SparkSession, settings: Settings, model: Model) -> dict[str, float] | None:
    """Per numeric feature the distance between its values in the view now and in the view that the champion was trained beside.

    The distance is the Kolmogorov-Smirnov statistic of the values that are there, or the change in the share of those that are not,
    whichever is larger; in [0, 1]. None where there is no champion of this declaration, its view is gone, or too few entities are
    there.
    """
    group = model.group
    champion = version_by_alias(settings, model.name, CHAMPION)
    version = champion.tags.get("view_version") if champion else None
    if champion is None or version is None or champion.tags.get("group_fingerprint") != group.fingerprint:
        return None
    path = settings.table(view_table(group))

    def sample(frame: DataFrame) -> pd.DataFrame:
        return frame.orderBy(F.xxhash64("entity")).limit(SAMPLE).select(*group.model_names).toArrow().to_pandas()

    try:
        then = sample(spark.read.format("delta").option("versionAsOf", version).load(path))
    except (PySparkException, Py4JJavaError):  # the log no longer has the version, or a vacuum has taken its files
        return None
    now = sample(spark.read.format("delta").load(path))
    return distances(then, now) if min(len(then), len(now)) >= MIN_ENTITIES else None


def distances(then: pd.DataFrame, now: pd.DataFrame) -> dict[str, float]:
    """The distance of each column between two samples."""
    from scipy.stats import ks_2samp

    found = {}
    for name in then.columns:
        a, b = then[name].dropna().astype("float64"), now[name].dropna().astype("float64")
        missing = abs(then[name].isna().mean() - now[name].isna().mean())
        statistic = ks_2samp(a, b).statistic if len(a) and len(b) else 0.0
        found[name] = float(max(statistic, missing))
    return found


def live_quality(spark: SparkSession, settings: Settings, model: Model, known_until_ms: int) -> LiveQuality | None:
    """How the champion's answers have turned out; degraded ones do not count: they say nothing of the model. None without a champion."""
    champion = version_by_alias(settings, model.name, CHAMPION)
    if champion is None:
        return None
    served = served_of(spark, settings, model.group).where(
        (F.col("model") == model.name) & (F.col("model_version") == champion.version)
        & (F.col("q_ms") + model.horizon_ms <= known_until_ms) & (F.size("degraded") == 0)
    )  # fmt: skip
    evaluated = float(champion.tags["auc"]) if "auc" in champion.tags else None
    if served.isEmpty():  # also before there is any event
        return LiveQuality(champion.version, 0, None, evaluated)
    answers: pd.DataFrame = with_outcome(spark, settings, model, served.select("entity", "q_ms", "prediction")).toPandas()
    auc = Ranking(answers["entity"].to_numpy(), answers["label"].to_numpy(), answers["prediction"].to_numpy()).auc()
    enough = len(answers) >= MIN_ANSWERS and not pd.isna(auc)
    return LiveQuality(champion.version, len(answers), auc if enough else None, evaluated)


def view_version(spark: SparkSession, settings: Settings, group: FeatureGroup) -> int:
    """The Delta version of the group's view: the tag `view_version` of a model that is trained now."""
    latest = DeltaTable.forPath(spark, settings.table(view_table(group))).history(1).first()
    assert latest is not None
    return int(latest["version"])
