"""Dagster's event log with batches of events, beside Dagster's own on the same files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from infra.embedded.programs import prepare_dagster
from infra.settings import Settings
from orchestration import event_log
from orchestration.event_log import EventLog
from tests.instances import instance_of

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-03-02")


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def rows() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"of": "a range"})


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    prepare_dagster(settings)
    return settings


@pytest.fixture
def instance(home: Settings) -> Iterator[dg.DagsterInstance]:
    with instance_of(home) as opened:
        yield opened


def materialize(instance: dg.DagsterInstance, first: str, last: str) -> str:
    result = dg.materialize(
        [rows],
        instance=instance,
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )
    assert result.success
    return result.run_id


def test_days_of_a_range_are_stored_at_once_and_read_by_dagsters_own_log(
    instance: dg.DagsterInstance, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = list[int]()
    store = EventLog.store_event_batch
    monkeypatch.setattr(EventLog, "store_event_batch", lambda log, events: (batches.append(len(events)), store(log, events)))
    run_id = materialize(instance, "2026-01-01", "2026-03-01")
    assert batches == [60, 60], "what is planned, and what was made"
    (home.home / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with instance_of(home) as of_dagster:
        assert not isinstance(of_dagster.event_log_storage, EventLog)
        assert of_dagster.get_materialized_partitions(rows.key) == set(DAYS.get_partition_keys())
        kinds = [record.event_log_entry.dagster_event_type for record in of_dagster.get_records_for_run(run_id).records]
        assert kinds.count(dg.DagsterEventType.ASSET_MATERIALIZATION) == 60
        assert kinds.count(dg.DagsterEventType.RUN_SUCCESS) == 1


def test_a_batch_that_fails_leaves_nothing_and_is_then_stored_one_by_one(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stored, present = list[int](), list[int]()
    store = EventLog.store_event

    def failing(log: EventLog, event: dg.EventLogEntry) -> None:
        store(log, event)
        if event.dagster_event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
            stored.append(len(stored))
            if len(stored) == 5:
                raise OSError("The disk is full.")
            if len(stored) == 6:
                present.append(len(instance.get_materialized_partitions(rows.key)))

    monkeypatch.setattr(EventLog, "store_event", failing)
    run_id = materialize(instance, "2026-01-01", "2026-01-10")
    assert "The disk is full." in capfd.readouterr().err
    assert present == [1], "the first of those that are stored one by one"
    assert len(instance.get_materialized_partitions(rows.key)) == 10
    of_run = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    assert len(of_run.records) == 10


def test_the_log_reads_more_runs_than_it_keeps_engines(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "_MOST_ENGINES", 2)
    run_ids = [materialize(instance, f"2026-01-0{day}", f"2026-01-0{day}") for day in range(1, 5)]
    for run_id in [*run_ids, *reversed(run_ids)]:
        assert len(instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_SUCCESS).records) == 1


def test_a_log_that_was_wiped_begins_anew(instance: dg.DagsterInstance) -> None:
    run_id = materialize(instance, "2026-01-01", "2026-01-02")
    instance.wipe()
    assert not instance.get_records_for_run(run_id).records
    assert not instance.get_materialized_partitions(rows.key)
    materialize(instance, "2026-01-02", "2026-01-03")
    assert instance.get_materialized_partitions(rows.key) == {"2026-01-02", "2026-01-03"}
