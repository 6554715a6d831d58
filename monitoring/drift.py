"""Drift: how much the inputs of a model have changed since the champion was trained.

Reads Delta versions of the views of the model's groups and of its training set, `served_features`, and the tags of the champion in MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pandas as pd
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.view import published_version, view_table
from features.declaration import FeatureGroup
from features.model import Model
from infra.settings import Settings
from models.registry import CHAMPION, TABLE_TAG, RegisteredVersion, trained_fingerprint, version_by_alias
from monitoring.answers import ANSWER, with_inputs

#: The largest and the smallest number of entities or answers in a comparison. With fewer the distance is mostly chance.
SAMPLE, MIN_ENTITIES = 20_000, 200


def feature_drift(spark: SparkSession, settings: Settings, model: Model, published: Mapping[str, int]) -> dict[str, float] | None:
    """Measures the distance between the values of each input of the model now and at the champion's training.

    For a feature, the old and the new values come from two versions of the view of its group. The new ones are those of the view that was published
    last, because a check may have kept a later view out of the online store. For a request column or a derived feature, the old
    values come from the training set and the new values from the latest answers of the champion. Features that are lists are not compared.

    The distance lies in [0, 1]. For numbers it is the larger of the Kolmogorov-Smirnov statistic of the values that are not null and the change in
    the share of nulls. For texts it is the largest change in the share of a text, where null counts as a text.

    Args:
        spark: The session.
        settings: The settings that name the lake and the registry.
        model: The model.
        published: Group → the Delta version of its view that was published last.

    Returns:
        Name of the feature or column → distance. An input is left out if one of its views or the training set is no longer stored, or if either sample
        has fewer than `MIN_ENTITIES` rows. None if nothing can be compared, such as without a champion that was trained on this declaration.
    """
    champion = version_by_alias(settings, model.name, CHAMPION)
    if champion is None or trained_fingerprint(champion.tags) != model.vector.fingerprint:
        return None
    versions: dict[str, int] = json.loads(champion.tags.get("view_versions", "{}"))
    of_groups = {
        group.name: _view_drift(spark, settings, group, versions[group.name], published[group.name])
        for group in model.groups
        if group.name in versions and group.name in published
    }
    drift = {
        f"{entry.prefix}{name}": distance
        for entry in model.vector.inputs
        for name, distance in (of_groups.get(entry.group.name) or {}).items()
    }
    if model.request or model.derived:
        drift |= _request_drift(spark, settings, model, champion) or {}
    return drift or None


def _view_drift(
    spark: SparkSession, settings: Settings, group: FeatureGroup, version: int, published: int
) -> dict[str, float] | None:
    """Returns feature → distance between the published view and an older version of it; None if the views cannot be compared."""
    path = settings.table(view_table(group))

    def sample(frame: DataFrame) -> pd.DataFrame:
        return frame.orderBy(F.xxhash64("entity")).limit(SAMPLE).select(*group.model_names).toArrow().to_pandas()

    current = published_version(spark, settings, group, published)
    then = _of_version(spark, path, version, sample)
    now = None if current is None else _of_version(spark, path, current, sample)
    return distances(then, now) if then is not None and now is not None and min(len(then), len(now)) >= MIN_ENTITIES else None


def _request_drift(spark: SparkSession, settings: Settings, model: Model, champion: RegisteredVersion) -> dict[str, float] | None:
    """Returns request column or derived feature → distance between the training set and the latest answers; None if they cannot be compared."""
    path = settings.table(champion.tags.get(TABLE_TAG, model.training_table))

    def sample(frame: DataFrame) -> pd.DataFrame:
        return frame.orderBy(F.xxhash64("entity", "q_ms")).limit(SAMPLE).toPandas()

    then = _of_version(spark, path, int(champion.tags.get("training_set_version", -1)), sample)
    if then is None:
        return None
    its = (F.col("model") == model.name) & (F.col("model_version") == champion.version)
    answers = with_inputs(spark, settings, model, its)
    now = answers.orderBy(F.desc(f"{ANSWER}.served_at_ms")).limit(SAMPLE).drop(ANSWER).toPandas()
    if min(len(then), len(now)) < MIN_ENTITIES:
        return None
    return distances(*(_asked(model, rows) for rows in (then, now)))


def _asked(model: Model, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the request columns and the derived features of rows."""
    names, matrix = model.vector.names, model.vector.matrix(rows)
    derived = {expression.name: matrix[:, names.index(expression.name)] for expression in model.derived}
    return pd.DataFrame({**{column.name: rows[column.name] for column in model.request}, **derived})


def _of_version(spark: SparkSession, path: str, version: int, sample: Callable[[DataFrame], pd.DataFrame]) -> pd.DataFrame | None:
    """Returns a sample of a version of a table; None if the version is no longer stored."""
    try:
        return sample(spark.read.format("delta").option("versionAsOf", version).load(path))
    except (PySparkException, Py4JJavaError):  # the table's log no longer has the version, or a vacuum has deleted its files
        return None


def distances(then: pd.DataFrame, now: pd.DataFrame) -> dict[str, float]:
    """Returns column → distance between its values in two samples. `feature_drift` defines the distance."""
    from scipy.stats import ks_2samp

    distance_of = {}
    for name in then.columns:
        if any(isinstance(value, str) for value in (*then[name], *now[name])):
            shares = (rows[name].value_counts(normalize=True, dropna=False) for rows in (then, now))
            distance_of[name] = float(pd.concat(list(shares), axis=1).fillna(0).diff(axis=1).iloc[:, 1].abs().max())
            continue
        a, b = then[name].dropna().astype("float64"), now[name].dropna().astype("float64")
        missing = abs(then[name].isna().mean() - now[name].isna().mean())
        statistic = ks_2samp(a, b).statistic if len(a) and len(b) else 0.0
        distance_of[name] = float(max(statistic, missing))
    return distance_of


def view_versions(spark: SparkSession, settings: Settings, model: Model, published: Mapping[str, int]) -> dict[str, int]:
    """Returns group → the Delta version of its view with which later views are compared. A model that is trained now stores them in its tag `view_versions`.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        model: The model.
        published: Group → the Delta version of its view that was published last; the latest view counts for the other groups.

    Returns:
        Groups are left out whose published view has another declaration or is no longer stored.
    """
    versions = {
        group.name: published_version(spark, settings, group, published[group.name])
        if group.name in published
        else _view_version(spark, settings, group)
        for group in model.groups
    }
    return {name: version for name, version in versions.items() if version is not None}


def _view_version(spark: SparkSession, settings: Settings, group: FeatureGroup) -> int:
    latest = DeltaTable.forPath(spark, settings.table(view_table(group))).history(1).first()
    assert latest is not None
    return int(latest["version"])
