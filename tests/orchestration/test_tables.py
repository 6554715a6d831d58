"""The suite of each table notices each thing that it is there for; that a good table passes is shown by every backfill of the tests."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from batch.tiles import tiles_table
from batch.view import view_table
from features.windows import DAY_MS
from infra.settings import Settings
from orchestration.assets import assets_of
from orchestration.checks.tables import checks_of
from orchestration.deployment import BatchEnd, Deployment
from orchestration.names import events_key, tiles_key, training_set_key, view_key
from orchestration.run_days import RANGE_END, RANGE_START
from tests.declarations import project, repurchase, user_events, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = date(2026, 5, 20)
NOON = int(datetime(2026, 5, 20, 12, tzinfo=UTC).timestamp() * 1_000)


def write(spark: SparkSession, settings: Settings, table: str, ddl: str, *rows: tuple[Any, ...]) -> None:
    spark.createDataFrame(list(rows), ddl).coalesce(1).write.format("delta").save(settings.table(table))


def failures(settings: Settings, key: dg.AssetKey, first: date = DAY) -> dict[str, tuple[bool, str]]:
    """By check of the days from the first on whether it passed, and what has failed."""
    deployment = Deployment(project, settings)
    defs = dg.Definitions(
        assets=assets_of(deployment), asset_checks=checks_of(deployment), executor=dg.in_process_executor,
        jobs=[dg.define_asset_job("checks", dg.AssetSelection.checks_for_assets(key))],
        resources={"spark": deployment.spark_resource, "batch_end": BatchEnd.configure_at_launch()},
    )  # fmt: skip
    with dg.instance_for_test() as instance:
        tags = {RANGE_START: str(first), RANGE_END: str(DAY)}
        done = defs.resolve_job_def("checks").execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    return {
        evaluation.check_name: (evaluation.passed, str(evaluation.metadata["failed"].value))
        for evaluation in done.get_asset_check_evaluations()
    }


def assert_failed(results: dict[str, tuple[bool, str]], name: str, *what: str) -> None:
    passed, failed = results[name]
    assert not passed
    assert [words for words in what if words not in failed] == [], failed


def test_events(spark: SparkSession, lake: Settings) -> None:
    ddl = "event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DECIMAL(18, 6), event_timestamp TIMESTAMP, ts_ms BIGINT, day DATE"
    at = datetime(2026, 5, 20, 12, tzinfo=UTC)
    rows = [(f"e{n}", n, "s", "VIEW", None, at, NOON, DAY) for n in range(5)]
    rows += [
        ("e0", 9, "s", "VIEW", None, at, NOON, DAY),
        ("e6", None, "s", "VIEW", None, at, NOON, DAY),
        ("e7", 7, "s", None, None, at, NOON, DAY),
    ]
    rows += [("e8", 8, "s", "VIEW", None, at, NOON - DAY_MS, DAY)]
    write(spark, lake, user_events.table, ddl, *rows)
    results = failures(lake, events_key(user_events))
    assert_failed(results, "events_whole", "event_id twice", "not_be_null user_id", "not_be_null event_type", "in_its_day")


def test_an_id_that_comes_again_after_the_time_of_duplicates_does_not_keep_the_days_out(
    spark: SparkSession, lake: Settings
) -> None:
    ddl = "event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DECIMAL(18, 6), event_timestamp TIMESTAMP, ts_ms BIGINT, day DATE"
    span = lake.deduplication_days
    first = DAY - timedelta(days=2 * (span + 1))

    def event(days_ago: int) -> tuple[Any, ...]:
        day, ms = DAY - timedelta(days=days_ago), NOON - days_ago * DAY_MS
        return "invoice 1", 1, "s", "VIEW", None, datetime.fromtimestamp(ms / 1_000, UTC), ms, day

    write(spark, lake, user_events.table, ddl, event(0), event(span + 1), event(2 * (span + 1)))
    passed, failed = failures(lake, events_key(user_events), first)["events_whole"]
    assert passed, failed
    near = spark.createDataFrame([event(span)], ddl)
    near.coalesce(1).write.format("delta").mode("append").save(lake.table(user_events.table))
    assert_failed(failures(lake, events_key(user_events), first), "events_whole", "event_id twice")


def test_tiles(spark: SparkSession, lake: Settings) -> None:
    ddl, hop = (
        "entity BIGINT, tile_start_ms BIGINT, first_ms BIGINT, last_ms BIGINT, events BIGINT, day DATE",
        user_features.tile_ms,
    )
    start = NOON // hop * hop
    good = (1, start, start, start + hop - 1, 2, DAY)
    rows = [good, good, (2, start + 1, start + 1, start + 1, 1, DAY), (3, start, start, start + hop, 1, DAY)]
    rows += [(4, start, start, start, 0, DAY), (5, start - DAY_MS, start - DAY_MS, start - DAY_MS, 1, DAY)]
    rows += [(6, start, start, start, 5_000, DAY)]
    write(spark, lake, tiles_table(user_features), ddl, *rows)
    results = failures(lake, tiles_key(user_features))
    assert_failed(
        results, "tiles_whole", "entity, tile_start_ms twice", "begins_at_a_hop", "holds_its_events", "in_its_day", "between events"
    )
    assert_failed(results, "tiles_plausible", "between events")


def test_view(spark: SparkSession, lake: Settings) -> None:
    ddl = "entity BIGINT, fingerprint STRING, batch_end_ms BIGINT, packed BINARY, events_last_hour BIGINT, spend_last_hour DOUBLE, "
    ddl += "sessions_last_hour BIGINT, purchase_count_7d BIGINT, avg_purchase_30d DOUBLE, days_since_last DOUBLE"
    right = user_features.fingerprint
    write(
        spark, lake, view_table(user_features), ddl,
        (1, right, NOON, b"", 1, 1.0, 1, 1, None, 1.0), (1, right, NOON, b"", 1, 1.0, 1, 1, None, 1.0), (2, "0" * 16, NOON, b"", 1, 1.0, 1, 1, None, 1.0),
        (3, right, NOON + 1, b"", 1, 1.0, 1, -1, None, 1.0),
    )  # fmt: skip
    results = failures(lake, view_key(user_features))
    assert_failed(results, "view_whole", "entity twice", "in_set fingerprint", "batch_end_ms", "between purchase_count_7d")
    assert_failed(results, "view_plausible", "not_be_null avg_purchase_30d")


def test_labels(spark: SparkSession, lake: Settings) -> None:
    rows = [
        (1, NOON, 1, "train"),
        (1, NOON, 1, "train"),
        (None, NOON, 1, "train"),
        (2, NOON, 2, "train"),
        (3, NOON, 1, "elsewhere"),
    ]
    write(spark, lake, repurchase.training_table, "entity BIGINT, q_ms BIGINT, label INT, split STRING", *rows)
    results = failures(lake, training_set_key(repurchase))
    assert_failed(results, "labels_whole", "entity, q_ms twice", "not_be_null entity", "in_set label", "in_set split")
    assert_failed(results, "labels_plausible", "share")
