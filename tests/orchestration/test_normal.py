"""A bad day of each kind is noticed: what is new is held against the weeks before it, by the declared thresholds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from batch.events import append_events
from batch.tiles import build_tiles, stale_days
from batch.view import ViewReport, build_view, published_version, read_view, view_table
from braid import Column, ColumnType, DeclarationError, EventSource, FeatureGroup, GroupChecks, Project, SourceChecks, count, total
from features.instants import rfc3339
from infra.errors import NotReadyError
from infra.settings import Settings
from models.training_set import training_end_ms
from monitoring.normal import days_to_check, normal_day, normal_view
from orchestration.assets.batch import DUPLICATES, READ, REFUSED, view_asset
from orchestration.assets.serving import online_asset, version_to_publish_again
from orchestration.checks.normal import day_expectations, day_frame, verdict_on_days, view_expectations
from orchestration.checks.suites import Verdict, validate
from orchestration.checks.tables import view_quality
from orchestration.deployment import BatchEnd, Deployment
from orchestration.materialized import VIEW_VERSION, published_ends_ms
from orchestration.names import online_key, view_key
from store.server import open_store
from tests.declarations import repurchase, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CHECKS = SourceChecks(volume=(0.5, 2), nulls=0.2, categories=("kind",), bounds={"amount": (0, 1_000)}, late=0.1)
SOURCE = EventSource(
    "usual", "usual", "usual",
    (
        Column("event_id", required=True), Column("user_id", ColumnType.INT64, required=True), Column("kind", required=True),
        Column("amount", ColumnType.DECIMAL), Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
    checks=CHECKS,
)  # fmt: skip
GROUP = FeatureGroup(
    "usual_users", "user_id", SOURCE, (count("events_7d", window="7d"), total("spend_7d", of="amount", window="7d"))
)
DAY = date(2026, 5, 20)
ROWS = 40


def day_rows(day: date, count: int = ROWS, **changed: Any) -> list[tuple[Any, ...]]:
    """Events of a day, in steps of a minute; `changed` gives kind, amount, or how late each arrived in the stream."""
    begin = datetime(day.year, day.month, day.day, 9, tzinfo=UTC)
    kind, amount, late = (changed.get(name) for name in ("kind", "amount", "late"))
    rows = []
    for index in range(count):
        at = begin + timedelta(minutes=index)
        if late and index % 3 == 0:
            at -= timedelta(hours=1)
        ts_ms = int(at.timestamp() * 1_000)
        value = 10.0 if amount is None else amount(index)
        of_kind = ("VIEW", "PURCHASE")[index % 2] if kind is None else kind(index)
        rows.append((f"{day}-{index}", index % 20, of_kind, value, at, ts_ms, ts_ms, "stream", 0, index, index))
    return rows


def write(spark: SparkSession, settings: Settings, rows: list[tuple[Any, ...]]) -> None:
    ddl = (
        "event_id STRING, user_id BIGINT, kind STRING, amount DOUBLE, event_timestamp TIMESTAMP, ts_ms BIGINT, arrival_ms BIGINT, origin STRING, "
        "kafka_partition INT, kafka_offset BIGINT, _order BIGINT"
    )
    frame = spark.createDataFrame(rows, ddl)
    append_events(spark, settings, SOURCE, frame.withColumn("amount", frame["amount"].cast("decimal(18, 6)")))


@pytest.fixture(scope="module")
def weeks(spark: SparkSession, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Four weeks of usual days, the judged day not among them, and one event of the day after it."""
    home: Path = tmp_path_factory.mktemp("usual")
    lake = settings.model_copy(update={"lake_uri": str(home / "lake"), "home": home})
    usual = [row for back in range(1, 29) for row in day_rows(DAY - timedelta(days=back))]
    write(spark, lake, [*usual, *day_rows(DAY + timedelta(days=1), count=1)])
    return lake


def verdict_on(
    spark: SparkSession, settings: Settings, rows: list[tuple[Any, ...]], ingested: dict[str, int] | None = None, source: EventSource = SOURCE
) -> Verdict:  # fmt: skip
    from delta.tables import DeltaTable

    write(spark, settings, rows)
    assert days_to_check(spark, settings, SOURCE, DAY - timedelta(days=9), DAY + timedelta(days=1)) == [DAY]
    norm = normal_day(spark, settings, SOURCE, DAY)
    verdict = validate(
        settings, day_frame(spark, settings, source, str(DAY)), "usual", day_expectations(source, norm, ingested or {})
    )
    DeltaTable.forPath(spark, settings.table(SOURCE.table)).delete(f"day = DATE'{DAY}'")
    return verdict


def test_a_usual_day_passes(spark: SparkSession, weeks: Settings) -> None:
    verdict = verdict_on(spark, weeks, day_rows(DAY), {READ: 1_000, REFUSED: 10, DUPLICATES: 100})
    assert (verdict.critical, verdict.warnings) == ((), ())
    assert verdict.expectations >= 6


def test_a_bad_day_is_noticed_in_each_of_its_ways_and_what_the_declaration_blocks_is_critical(
    spark: SparkSession, weeks: Settings
) -> None:
    bad = day_rows(
        DAY, count=12, late=True, kind=lambda index: ("VIEW", "REFUND")[index % 2], amount=lambda index: None if index % 2 else -5.0
    )  # fmt: skip
    strict = replace(SOURCE, checks=replace(CHECKS, blocking=frozenset({"volume"})))
    verdict = verdict_on(spark, weeks, bad, {READ: 1_000, REFUSED: 100, DUPLICATES: 800}, strict)
    [critical] = verdict.critical
    assert "row_count" in critical
    for words in (
        "not_be_null amount", "be_in_set kind", "contain_set kind", "between amount", "in_set in_time", "refused: 10% of 1000",
        "duplicates: 80% of 1000",
    ):  # fmt: skip
        assert any(words in warning for warning in verdict.warnings), (words, verdict.warnings)
    assert len(verdict.warnings) == 7


def test_a_day_that_was_kept_out_stays_out_on_later_days(spark: SparkSession, weeks: Settings) -> None:
    from delta.tables import DeltaTable

    strict = replace(SOURCE, checks=replace(CHECKS, blocking=frozenset({"volume"})))
    after, today = DAY + timedelta(days=1), DAY + timedelta(days=2)
    write(spark, weeks, [*day_rows(DAY, count=12), *day_rows(after)[1:], *day_rows(today, count=1)])
    try:
        # The run of the day after covers both, as that of the sensor, or the later alone, as a backfill behind a blocked one.
        for first in (DAY, after):
            days = days_to_check(spark, weeks, strict, first, after, published=DAY)
            assert days == [DAY, after]
        verdict = verdict_on_days(spark, weeks, strict, days, {})
        [critical] = verdict.critical
        assert critical.startswith(f"{DAY}: expect_table_row_count")
        # A first backfill of a long history is not held up by its old days, and a published day is not judged again.
        assert days_to_check(spark, weeks, strict, DAY - timedelta(days=28), after) == [after]
        assert days_to_check(spark, weeks, strict, after, after, published=after) == [after]
    finally:
        DeltaTable.forPath(spark, weeks.table(SOURCE.table)).delete(
            f"day = DATE'{DAY}' OR day = DATE'{today}' OR (day = DATE'{after}' AND event_id <> '{after}-0')"
        )


def test_a_ledger_of_negative_amounts_is_not_kept_out(spark: SparkSession, weeks: Settings) -> None:
    ledger = replace(SOURCE, checks=SourceChecks())
    verdict = verdict_on(spark, weeks, day_rows(DAY, amount=lambda index: -5.0), source=ledger)
    assert (verdict.critical, verdict.warnings) == ((), ())


def test_vanished_entities_and_moved_features_are_noticed(spark: SparkSession, weeks: Settings) -> None:
    end_ms = int(datetime(2026, 5, 20, tzinfo=UTC).timestamp() * 1_000)
    build_tiles(spark, weeks, GROUP, stale_days(spark, weeks, GROUP))
    build_view(spark, weeks, GROUP, end_ms)
    assert normal_view(spark, weeks, GROUP, None) is None, "nothing was published"
    norm = normal_view(spark, weeks, GROUP, read_view(spark, weeks, GROUP).version)
    assert norm is not None
    assert norm.entities == 20
    view = spark.read.format("delta").load(weeks.table("view_usual_users")).select("entity", *GROUP.model_names)
    good = validate(weeks, view, "usual_users", view_expectations(GROUP, norm))
    assert (good.critical, good.warnings) == ((), ())
    worse = view.where("entity < 10").withColumn("spend_7d", view["spend_7d"] * 100)
    strict = replace(GROUP, checks=GroupChecks(blocking=frozenset({"distribution"})))
    bad = validate(weeks, worse, "usual_users", view_expectations(strict, norm))
    assert any("row_count" in warning for warning in bad.warnings)
    assert any("median_to_be_between spend_7d" in failure for failure in bad.critical)


def test_a_view_that_was_blocked_is_neither_the_norm_nor_published_again(spark: SparkSession, lake: Settings) -> None:
    from delta.tables import DeltaTable

    path = lake.table(view_table(GROUP))

    def build(entities: int) -> int:
        rows = spark.range(entities).selectExpr("id AS entity", *(f"1.0D AS {name}" for name in GROUP.model_names))
        metadata = json.dumps({"batch_end_ms": 1, "fingerprint": GROUP.fingerprint})
        rows.coalesce(1).write.format("delta").mode("overwrite").option("userMetadata", metadata).save(path)
        return read_view(spark, lake, GROUP).version

    def erase(entity: int) -> None:
        metadata = json.dumps({"batch_end_ms": 1, "fingerprint": GROUP.fingerprint})
        spark.conf.set("spark.databricks.delta.commitInfo.userMetadata", metadata)
        DeltaTable.forPath(spark, path).delete(f"entity = {entity}")
        spark.conf.unset("spark.databricks.delta.commitInfo.userMetadata")

    good = build(10)
    erase(7)
    with dg.instance_for_test() as instance:
        assert version_to_publish_again(instance, spark, lake, GROUP) is None
        instance.report_runless_asset_event(dg.AssetMaterialization(online_key(GROUP), metadata={VIEW_VERSION: good}))
        for _ in range(2):
            build(2)  # blocked, and the same once more
            norm = normal_view(spark, lake, GROUP, good)
            assert norm is not None
            assert norm.entities == 9
            version = version_to_publish_again(instance, spark, lake, GROUP)
            assert version is not None
            assert read_view(spark, lake, GROUP, version).rows.count() == 9, "without who was erased since"
        # Who is erased behind a blocked view is still in the published one.
        erase(1)
        assert published_version(spark, lake, GROUP, good) is None
        with pytest.raises(NotReadyError, match="not stored any more"):
            version_to_publish_again(instance, spark, lake, GROUP)


def test_training_ends_where_the_published_view_ends_unless_the_run_has_built_a_view_itself(
    spark: SparkSession, lake: Settings
) -> None:
    rows = spark.range(3).selectExpr("id AS entity", "20L AS batch_end_ms")
    rows.coalesce(1).write.format("delta").save(lake.table(view_table(user_features)))

    @dg.asset(key=view_key(user_features))
    def built() -> None: ...

    with dg.instance_for_test() as instance:

        def end_ms(run_id: str | None = None) -> int:
            return training_end_ms(spark, lake, repurchase, published_ends_ms(instance, lake, repurchase, run_id))

        assert end_ms() == 20, "an earlier version of braid has published it"
        metadata = {VIEW_VERSION: 0, "batch_end": rfc3339(10)}
        instance.report_runless_asset_event(dg.AssetMaterialization(online_key(user_features), metadata=metadata))
        run = dg.materialize([built], instance=instance)
        assert end_ms() == end_ms("another run") == 10, "a check has kept the later view out"
        assert end_ms(run.run_id) == 20, "its checks have passed, else the step that asks would not run"


def test_a_run_checks_and_publishes_the_view_that_it_has_built_although_another_run_has_built_one_since(
    spark: SparkSession, weeks: Settings, valkey: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = weeks.model_copy(update={"redis_url": valkey.redis_url})
    deployment = Deployment(Project((SOURCE,), (GROUP,)), settings)
    end_ms = int(datetime(2026, 5, 20, tzinfo=UTC).timestamp() * 1_000)
    if stale := stale_days(spark, settings, GROUP):  # another test of this lake may have built the tiles
        build_tiles(spark, settings, GROUP, stale)

    def build_and_be_overtaken(*arguments: Any) -> ViewReport:
        report = build_view(*arguments)
        view = read_view(spark, settings, GROUP).rows
        metadata = json.dumps({"batch_end_ms": end_ms + 1, "fingerprint": GROUP.fingerprint})
        twice = view.union(view).coalesce(1).write.format("delta").mode("overwrite").option("userMetadata", metadata)
        twice.save(settings.table(view_table(GROUP)))  # the other run's, which its checks will keep out
        return report

    monkeypatch.setattr("orchestration.assets.batch.build_view", build_and_be_overtaken)
    defs = dg.Definitions(
        assets=[view_asset(deployment, GROUP), online_asset(deployment, GROUP)], asset_checks=[view_quality(deployment, GROUP)],
        jobs=[dg.define_asset_job("batch", dg.AssetSelection.all(include_sources=False), executor_def=dg.in_process_executor)],
        resources={"spark": deployment.spark_resource, "batch_end": BatchEnd.configure_at_launch()},
    )  # fmt: skip
    with dg.instance_for_test() as instance:
        done = defs.resolve_job_def("batch").execute_in_process(
            instance=instance, run_config=BatchEnd.run_config(end_ms), raise_on_error=False
        )
    failed = {
        check.check_name: str(check.metadata["failed"].value) for check in done.get_asset_check_evaluations() if not check.passed
    }
    assert "view_whole" not in failed, failed
    assert done.success
    published = open_store(settings).published(GROUP.name)
    assert published is not None
    assert (published.batch_end_ms, published.entities) == (end_ms, 20)


def test_thresholds_of_unknown_names_are_refused() -> None:
    with pytest.raises(DeclarationError, match="no check 'volumes'"):
        SourceChecks(blocking=frozenset({"volumes"}))
    with pytest.raises(DeclarationError, match="'user_id', which is not a column of STRING"):
        replace(SOURCE, checks=SourceChecks(categories=("user_id",)))
