"""Drift since the champion was trained, and how its answers have turned out, on real Delta tables and MLflow's registry in SQLite."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from mlflow import MlflowClient

from batch.events import append_events
from features.windows import DAY_MS
from infra.settings import Settings
from models.registry import CHAMPION
from monitoring.drift import MIN_ENTITIES, feature_drift, view_versions
from monitoring.live_quality import MIN_ANSWERS, LiveQuality, live_quality
from monitoring.served import SCHEMA, TABLE
from tests.declarations import repurchase, user_events, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NAMES = user_features.feature_names
BASE = 1_780_000_000_000


@pytest.fixture
def deployment(lake: Settings) -> Settings:
    return lake.model_copy(update={"mlflow_tracking_uri": f"sqlite:///{lake.home}/mlflow.db"})


def crown(settings: Settings, **tags: str) -> str:
    """A champion with tags; nobody loads it."""
    client = MlflowClient(settings.mlflow_tracking_uri)
    if not client.search_registered_models():
        client.create_registered_model(repurchase.name)
    version = client.create_model_version(repurchase.name, "nowhere", tags={"group_fingerprint": user_features.fingerprint, **tags})
    client.set_registered_model_alias(repurchase.name, CHAMPION, version.version)
    return str(version.version)


def views(version: int) -> str:
    return json.dumps({user_features.name: version})


def write_view(spark: SparkSession, settings: Settings, entities: int = 1_000, spend: float = 1.0, missing: float = 0.2) -> int:
    """A view of users; gives its version."""
    source = np.random.default_rng(entities)
    rows = [
        (user, int(source.poisson(3)), float(source.gamma(2, 10)) * spend, 1, int(source.poisson(8)),
         None if source.random() < missing else float(source.gamma(2, 5)), float(source.exponential(4)))
        for user in range(entities)
    ]  # fmt: skip
    columns = ", ".join(f"{name} {user_features.value_sql_type(index)}" for index, name in enumerate(NAMES))
    frame = spark.createDataFrame(rows, f"entity BIGINT, {columns}")
    metadata = json.dumps({"batch_end_ms": BASE, "fingerprint": user_features.fingerprint})
    frame.write.format("delta").mode("overwrite").option("userMetadata", metadata).save(settings.table("view_user_features"))
    return view_versions(spark, settings, repurchase, {})[user_features.name]


def drift_of(spark: SparkSession, settings: Settings, published: int) -> dict[str, float] | None:
    return feature_drift(spark, settings, repurchase, {user_features.name: published})


def test_what_has_moved_since_the_training_is_told_by_feature(spark: SparkSession, deployment: Settings) -> None:
    then = write_view(spark, deployment)
    assert drift_of(spark, deployment, then) is None, "there is no champion"
    crown(deployment, view_versions=views(then))
    assert feature_drift(spark, deployment, repurchase, {}) is None, "nothing was published"
    assert drift_of(spark, deployment, write_view(spark, deployment)) == dict.fromkeys(NAMES, 0.0)
    others = drift_of(spark, deployment, write_view(spark, deployment, entities=1_100))
    assert max(others.values()) < 0.1, "other users of the same kind"
    drift = drift_of(spark, deployment, write_view(spark, deployment, spend=3.0, missing=0.7))
    assert drift["spend_last_hour"] > 0.5
    assert drift["avg_purchase_30d"] == pytest.approx(0.5, abs=0.05), "values that are no longer there"
    assert drift["events_last_hour"] < 0.1
    few = write_view(spark, deployment, entities=MIN_ENTITIES - 1)
    assert drift_of(spark, deployment, few) is None, "of a few, any distance is chance"


def test_a_view_that_was_blocked_is_neither_drift_nor_what_drift_is_measured_against(
    spark: SparkSession, deployment: Settings
) -> None:
    then = write_view(spark, deployment)
    crown(deployment, view_versions=views(then))
    good = write_view(spark, deployment, entities=1_100)
    write_view(spark, deployment, spend=100.0)  # a check keeps it out of the online store
    assert max(drift_of(spark, deployment, good).values()) < 0.1
    assert view_versions(spark, deployment, repurchase, {user_features.name: good}) == {user_features.name: good}
    assert view_versions(spark, deployment, repurchase, {user_features.name: 99}) == {}


def test_a_view_that_is_gone_is_not_compared(spark: SparkSession, deployment: Settings) -> None:
    then = write_view(spark, deployment)
    crown(deployment, view_versions=views(then))
    latest = write_view(spark, deployment, spend=3.0)
    assert drift_of(spark, deployment, latest) is not None
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    spark.sql(f"VACUUM delta.`{deployment.table('view_user_features')}` RETAIN 0 HOURS")
    assert drift_of(spark, deployment, latest) is None
    crown(deployment, view_versions=views(99))
    assert drift_of(spark, deployment, latest) is None
    crown(deployment)
    assert drift_of(spark, deployment, latest) is None, "one that was trained without a view"
    crown(deployment, view_versions=views(0), group_fingerprint="0" * 16)
    assert drift_of(spark, deployment, latest) is None, "one of another declaration"


def test_live_quality_is_of_the_champions_answers_that_have_an_outcome(spark: SparkSession, deployment: Settings) -> None:
    assert live_quality(spark, deployment, repurchase, BASE) is None, "there is no champion"
    other, version = crown(deployment), crown(deployment, auc="0.75")
    nothing = LiveQuality(version, 0, "AUC", None, 0.75)
    assert live_quality(spark, deployment, repurchase, BASE) == nothing

    def record(user: int, q_ms: int, prediction: float, model: str = "repurchase", its: str = version, degraded: tuple = ()) -> Any:
        features = (q_ms, q_ms, q_ms, "{}", BASE, None, 0, list(degraded), [])
        return (
            f"{user}-{q_ms}-{prediction}",
            "",
            "user_features",
            "",
            str(user),
            *features,
            None,
            "champion",
            model,
            its,
            prediction,
            {},
            *[None] * 7,
        )

    # Users of an even number buy within a week, and were given more.
    served = [record(user, BASE, 0.6 if user % 2 == 0 else 0.4) for user in range(MIN_ANSWERS)]
    wrong = [
        record(0, BASE, 0.0, degraded=("stale",)), record(0, BASE, 0.0, its=other), record(0, BASE, 0.0, model="another"),
        record(0, BASE + 1, 0.0),
    ]  # fmt: skip
    at = BASE + 7 * DAY_MS - 1
    events = [
        (f"e{user}", user, "s", "PURCHASE", None, datetime.fromtimestamp(at / 1_000, UTC), None, None, at, at, "stream", 0, 0, 0)
        for user in range(0, MIN_ANSWERS, 2)
    ]
    schema = """event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DECIMAL(18,6), event_timestamp TIMESTAMP,
        item_id STRING, properties MAP<STRING,STRING>, ts_ms BIGINT, arrival_ms BIGINT, origin STRING, kafka_partition INT,
        kafka_offset BIGINT, _order BIGINT"""
    append_events(spark, deployment, user_events, spark.createDataFrame(events, schema))
    spark.createDataFrame([*served[1:], *wrong], SCHEMA).write.format("delta").save(deployment.table(TABLE))
    known = BASE + 7 * DAY_MS
    assert live_quality(spark, deployment, repurchase, known) == LiveQuality(version, MIN_ANSWERS - 1, "AUC", None, 0.75), "too few"
    spark.createDataFrame(served[:1], SCHEMA).write.format("delta").mode("append").save(deployment.table(TABLE))
    assert live_quality(spark, deployment, repurchase, known) == LiveQuality(version, MIN_ANSWERS, "AUC", 1.0, 0.75)
    assert live_quality(spark, deployment, repurchase, known - 1) == nothing, "a week has not passed"
