"""What nobody reads any more leaves the lake, and nothing else does: on real tables."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest
from mlflow import MlflowClient
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from batch.housekeeping import InUse, delete_unused, delta_tables, vacuum
from features.windows import DAY_MS
from infra.lake import table_sizes
from infra.settings import Settings
from models.registry import CHAMPION, tracking
from orchestration.assets.lake import used
from speed.checkpoints import checkpoint_of
from store.clients import store
from store.keys import meta_key
from store.server import open_store
from tests.declarations import project, repurchase, user_events, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NOW = time.time_ns() // 1_000_000
DECLARED, PUBLISHED, TRAINED, OLD = user_features.fingerprint, "a" * 16, "b" * 16, "c" * 16
TABLES = [
    f"{kind}_{user_features.name}_{version}" for kind in ("tiles", "history") for version in (DECLARED, PUBLISHED, TRAINED, OLD)
]


def write(spark: SparkSession, settings: Settings, name: str, value: int = 1) -> None:
    spark.range(value, value + 3).coalesce(1).write.format("delta").mode("overwrite").save(settings.table(name))


TOKEN = "a" * 12
STREAMS = {"user_features@1": TOKEN}


def age(path: Path, days: float) -> None:
    """Lets everything in a folder have been written so long ago."""
    then = NOW / 1_000 - days * 86_400
    for entry in path.rglob("*"):
        os.utime(entry, (then, then))


@pytest.fixture
def registry(valkey: Settings, lake: Settings) -> Iterator[Settings]:
    """A deployment in which a version is published and a model was trained on another one."""
    settings = lake.model_copy(update={"mlflow_tracking_uri": f"sqlite:///{lake.home}/mlflow.db", "redis_url": valkey.redis_url})
    store(settings).hset(meta_key(user_features.name), mapping={"fingerprint": PUBLISHED, "batch_end_ms": 1})
    checkpoint_of(open_store(settings), user_events, STREAMS, 2)
    client = MlflowClient(settings.mlflow_tracking_uri)
    client.create_registered_model(repurchase.name)
    tags = {"group_fingerprint": TRAINED, "training_set_version": "1", "view_versions": '{"user_features": 0}'}
    with tracking(settings):
        mlflow.create_experiment(repurchase.name, artifact_location=str(lake.home / "artifacts"))
        version = client.create_model_version(repurchase.name, str(lake.home / "artifacts"), tags=tags).version
    client.set_registered_model_alias(repurchase.name, "champion", version)
    yield settings
    store(settings).delete(meta_key(user_features.name))


def test_what_is_declared_published_or_trained_on_is_in_use(registry: Settings) -> None:
    in_use = used(registry, project, TABLES)
    assert {DECLARED, PUBLISHED, TRAINED} <= in_use.fingerprints
    assert OLD not in in_use.fingerprints
    assert in_use.checkpoints == {checkpoint_of(open_store(registry), user_events, STREAMS, 2).name}
    assert in_use.versions == {repurchase.training_table: {1}, f"view_{user_features.name}": {0}}


def test_versions_that_are_not_in_use_go_after_their_time(spark: SparkSession, registry: Settings) -> None:
    root, in_use = Path(registry.lake_uri), used(registry, project, TABLES)
    for name in TABLES:
        write(spark, registry, name)
    recent = f"tiles_{user_features.name}_{'d' * 16}"
    for name in (recent, "events", "another_table_of_the_owner"):
        write(spark, registry, name)
    stays = [
        f"online_user_events_{checkpoint_of(open_store(registry), user_events, STREAMS, 2).name}",
        "archive_user_events",
    ]
    of_a_former_layout = [
        f"online_{user_features.name}_{DECLARED}_{TOKEN}_topic-1",
        f"offline_{user_features.name}_{DECLARED}_topic-1",
    ]
    goes = ["online_user_events_0123456789ab", *of_a_former_layout]
    for name in (*stays, *goes):
        (root / "_checkpoints" / name / "offsets").mkdir(parents=True)
        (root / "_checkpoints" / name / "offsets" / "0").write_text("v1")
    age(root, 31)
    age(root / recent, 29)

    deleted = delete_unused(spark, registry, in_use, NOW)

    assert sorted(deleted) == sorted([*(name for name in TABLES if name.endswith(OLD)), *(f"_checkpoints/{name}" for name in goes)])
    assert sorted(path.name for path in (root / "_checkpoints").iterdir()) == sorted(stays)
    left = {*(name for name in TABLES if not name.endswith(OLD)), recent, "events"}
    assert set(delta_tables(spark, registry, project)) == left, "what else its owner keeps there is not braid's to clean"
    left.add("another_table_of_the_owner")
    sizes = table_sizes(registry)
    assert sizes is not None
    assert sizes.keys() == left
    assert min(sizes.values()) > 1_000
    assert delete_unused(spark, registry, in_use, NOW + 2 * DAY_MS) == [recent]


def test_what_a_model_was_trained_on_is_in_use_also_behind_many_models_of_others(
    registry: Settings, tmp_path: Path, empty_registry: Callable[[Path], str]
) -> None:
    settings = registry.model_copy(update={"mlflow_tracking_uri": empty_registry(tmp_path)})
    client = MlflowClient(settings.mlflow_tracking_uri)
    for name in (*(f"another_{n:03}" for n in range(120)), repurchase.name):
        client.create_registered_model(name)
    version = client.create_model_version(repurchase.name, "nowhere", tags={"training_set_version": "17"})
    client.set_registered_model_alias(repurchase.name, CHAMPION, version.version)
    assert used(settings, project, []).versions[repurchase.training_table] == {17}


def test_older_versions_of_a_table_go_but_those_that_a_model_was_trained_on(spark: SparkSession, lake: Settings) -> None:
    for name in ("training_set_m", "view_g"):
        for version in range(3):
            write(spark, lake, name, 10 * version)
    at_once = lake.model_copy(update={"keep_days": 0})
    vacuum(spark, at_once, ["training_set_m", "view_g"], InUse(frozenset(), frozenset(), {"training_set_m": {1}}))

    def read_version_1(name: str) -> list[int]:
        return [row["id"] for row in spark.read.format("delta").option("versionAsOf", 1).load(lake.table(name)).collect()]

    assert sorted(read_version_1("training_set_m")) == [10, 11, 12]
    with pytest.raises((PySparkException, Py4JJavaError)):
        read_version_1("view_g")
    assert spark.read.format("delta").load(lake.table("view_g")).count() == 3
