"""The report on an experiment, as Dagster shows it: its verdict, its arms, and the check of its split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from batch.events import append_events
from features.windows import DAY_MS
from infra.policies import Experiment
from infra.settings import Settings
from monitoring.served import SCHEMA, TABLE
from orchestration.assets.quality import DECISION, experiment_asset
from orchestration.checks.served import split_as_declared
from orchestration.deployment import Deployment
from orchestration.names import experiment_key
from serving.variants import assigned
from tests.declarations import project, repurchase, user_events

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HALVES = Experiment(name="halves", shares={"champion": 0.5, "batch_only": 0.5}, horizon_hours=48, min_entities=100)
BASE = 1_780_000_000_000
EVENTS = """event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DECIMAL(18,6), event_timestamp TIMESTAMP, item_id STRING,
    properties MAP<STRING,STRING>, ts_ms BIGINT, arrival_ms BIGINT, origin STRING, kafka_partition INT, kafka_offset BIGINT, _order BIGINT"""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def reported(settings: Settings, instance: dg.DagsterInstance, experiment: Experiment | None) -> tuple[dict[str, Any], bool]:
    """What the asset says, and whether its split passes the check."""
    deployment = Deployment(project, settings.model_copy(update={"experiment": experiment}))
    done = dg.materialize(
        [experiment_asset(deployment, repurchase), split_as_declared(repurchase)],
        instance=instance,
        resources={"spark": deployment.spark_resource},
    )
    [materialization] = done.asset_materializations_for_node(experiment_key(repurchase).to_user_string())
    [check] = done.get_asset_check_evaluations()
    return {name: value.value for name, value in materialization.metadata.items()}, check.passed


def test_the_verdict_is_in_words_and_a_broken_split_fails_its_check(
    spark: SparkSession, lake: Settings, instance: dg.DagsterInstance
) -> None:
    bought = {n: n * DAY_MS for n in range(10)} | {n: n + 5 for n in range(10, 400, 7)}
    events = [(f"e{n}", n, "s", "PURCHASE", None, None, None, None, BASE + at, BASE, "stream", 0, 0, 0) for n, at in bought.items()]
    append_events(spark, lake, user_events, spark.createDataFrame(events, EVENTS))
    assert reported(lake, instance, None) == ({"verdict": "No experiment runs: set BRAID_EXPERIMENT."}, True)
    metadata, passed = reported(lake, instance, HALVES)
    assert metadata["verdict"].startswith("Nothing was served in the experiment halves yet")
    assert passed

    def serve(experiment: Experiment, variants: list[str]) -> None:
        rows = [
            (f"{experiment.name}-{user}", "", "user_features", "", str(user), BASE + user, 0, 0, "{}", None, None, 0, [], [], experiment.name, variant,
             "m", "1", user % 7 / 10, {}, *[None] * 7)
            for user, variant in enumerate(variants)
        ]  # fmt: skip
        spark.createDataFrame(rows, SCHEMA).write.format("delta").mode("append").save(lake.table(TABLE))

    serve(HALVES, [assigned(HALVES, user) for user in range(400)])
    metadata, passed = reported(lake, instance, HALVES)
    assert passed
    assert metadata["experiment"] == "halves"
    assert metadata["sample ratio p value"] > 0.001
    arms = {record.data["variant"]: record.data["entities"] for record in metadata["arms"].records}
    assert arms.keys() == HALVES.shares.keys()
    assert sum(arms.values()) > 200
    assert "Decided once" in metadata["verdict"]

    # Purchases that arrive late, and a pause of the experiment, do not change what was decided.
    late = [(f"l{n}", n, "s", "PURCHASE", None, None, None, None, BASE + n + 1, BASE, "stream", 0, 0, 0) for n in range(0, 400, 3)]
    append_events(spark, lake, user_events, spark.createDataFrame(late, EVENTS))
    assert reported(lake, instance, None)[0]["verdict"].startswith("No experiment runs")
    again, _ = reported(lake, instance, HALVES)
    assert (again["verdict"], again["arms"], again[DECISION]) == (metadata["verdict"], metadata["arms"], metadata[DECISION])

    broken = HALVES.model_copy(update={"name": "broken"})
    serve(broken, ["champion"] * 350 + ["batch_only"] * 50)
    metadata, passed = reported(lake, instance, broken)
    assert not passed
    assert "not split as declared" in metadata["verdict"]
