"""What the stream has archived becomes events exactly once, whatever happened in between."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from batch import events
from batch.events import IngestReport, ingest_archive
from batch.tables import partitions_of
from features.sources import EventSource
from infra.settings import Settings
from speed.archive import COLUMNS, create_archive
from tests.declarations import user_events

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: 2026-01-01T00:00:00Z
BASE = 1_767_225_600_000
DAY = date(2026, 1, 1)
DAY_COLUMN = "arrival_day"


def message(offset: int, event: int | bytes, arrival_ms: int | None = None, time: str = "2026-01-01T00:00:00Z") -> tuple[Any, ...]:
    """An event by its number, or a message by its bytes."""
    value = event
    if isinstance(event, int):
        fields = {
            "event_id": f"e{event}",
            "user_id": event,
            "session_id": f"at {offset}",
            "event_type": "VIEW",
            "event_timestamp": time,
        }
        value = json.dumps(fields).encode()
    return user_events.topic, 0, offset, BASE + offset if arrival_ms is None else arrival_ms, b"key", value


def archive(spark: SparkSession, settings: Settings, *messages: tuple[Any, ...], source: EventSource = user_events) -> None:
    """As a micro-batch of the speed layer does."""
    create_archive(spark, settings, source)
    columns, day = COLUMNS.rsplit(", ", 1)[0], F.to_date(F.timestamp_millis("arrival_ms")).alias(DAY_COLUMN)
    rows = spark.createDataFrame(list(messages), columns).select("*", day)
    rows.coalesce(1).write.format("delta").mode("append").save(settings.table(source.archive_table))


def table(spark: SparkSession, settings: Settings) -> dict[str, str]:
    """event_id → session_id of every row; fails on two rows of one id."""
    rows = spark.read.format("delta").load(settings.table(user_events.table)).select("event_id", "session_id").collect()
    found = {row["event_id"]: row["session_id"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_each_message_is_ingested_once_and_the_first_of_an_id_stays(spark: SparkSession, lake: Settings) -> None:
    assert ingest_archive(spark, lake, user_events).read == 0  # no archive yet
    archive(spark, lake, message(0, 0), message(1, 1), message(2, 1), message(3, 2))
    report = ingest_archive(spark, lake, user_events)
    assert (report.read, report.added, report.days) == (4, 3, (DAY,))
    assert table(spark, lake) == {"e0": "at 0", "e1": "at 1", "e2": "at 3"}
    assert ingest_archive(spark, lake, user_events).added == 0
    archive(spark, lake, message(4, 0), message(5, 3))
    report = ingest_archive(spark, lake, user_events)
    assert report.added == 1
    assert report.read >= 2  # the newest known message may be read again
    assert table(spark, lake)["e0"] == "at 0"


def test_misfits_and_events_from_the_future_are_passed_over(spark: SparkSession, lake: Settings) -> None:
    misfits = [message(i, value) for i, value in enumerate((b"[1]", b"nope", b"", b'{"event_id": "x"}', b"\xff\xfe"))]
    archive(spark, lake, *misfits, message(5, 5, time="2026-01-01T00:06:00Z"), message(6, 6, time="2026-01-01T00:04:00Z"))
    report = ingest_archive(spark, lake, user_events)
    assert (report.read, report.added) == (7, 1)
    assert table(spark, lake) == {"e6": "at 6"}  # four minutes ahead of its arrival; five are allowed


def test_a_crash_before_the_commit_loses_nothing_and_doubles_nothing(
    spark: SparkSession, lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(spark, lake, message(0, 0))
    ingest_archive(spark, lake, user_events)
    archive(spark, lake, message(1, 1), message(2, 2))
    with monkeypatch.context() as patch:
        patch.setattr(events, "append_events", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest_archive(spark, lake, user_events)
    assert ingest_archive(spark, lake, user_events).added == 2
    with monkeypatch.context() as patch:  # the commit is made, its report is not
        patch.setattr(events, "compact_archive", lambda *_: 1 / 0)
        archive(spark, lake, message(3, 3))
        with pytest.raises(ZeroDivisionError):
            ingest_archive(spark, lake, user_events)
    assert ingest_archive(spark, lake, user_events).added == 0
    assert sorted(table(spark, lake)) == ["e0", "e1", "e2", "e3"]


def test_a_topic_made_anew_is_read_from_its_first_message(spark: SparkSession, lake: Settings) -> None:
    archive(spark, lake, message(0, 0), message(7, 7))
    ingest_archive(spark, lake, user_events)
    # Offsets begin at 0 again; the first message arrives in the very millisecond of the last known one.
    archive(spark, lake, message(0, 20, BASE + 7), message(1, 21, BASE + 8))
    assert ingest_archive(spark, lake, user_events).added == 2
    assert sorted(table(spark, lake)) == ["e0", "e20", "e21", "e7"]


def test_two_ingests_at_once_take_each_message_once(spark: SparkSession, lake: Settings) -> None:
    archive(spark, lake, *(message(n, n) for n in range(50)))
    begun = threading.Barrier(2)

    def ingest() -> int:
        session = spark.newSession()
        begun.wait(60)
        return ingest_archive(session, lake, user_events).added

    with ThreadPoolExecutor(2) as pool:
        added = [one.result(120) for one in [pool.submit(ingest), pool.submit(ingest)]]
    assert sum(added) == 50
    assert len(table(spark, lake)) == 50


def test_only_what_was_archived_since_is_read_also_after_files_were_joined(spark: SparkSession, lake: Settings) -> None:
    yesterday = BASE - 86_400_000
    for n in range(2):
        archive(spark, lake, message(n, n, yesterday, time="2025-12-31T00:00:00Z"))
    archive(spark, lake, message(2, 2, BASE))
    assert ingest_archive(spark, lake, user_events).read == 3
    files = partitions_of(spark.read.format("delta").load(lake.table(user_events.archive_table)))
    assert {day: len(names) for (day,), names in files.items()} == {"2025-12-31": 1, "2026-01-01": 1}  # the two have become one
    assert ingest_archive(spark, lake, user_events).read == 0
    archive(spark, lake, message(3, 3, BASE))
    assert ingest_archive(spark, lake, user_events) == IngestReport(1, 1, (DAY,))
    assert sorted(table(spark, lake)) == ["e0", "e1", "e2", "e3"]


def test_events_that_were_deleted_come_back_from_the_archive(spark: SparkSession, lake: Settings) -> None:
    archive(spark, lake, message(0, 0))
    ingest_archive(spark, lake, user_events)
    archive(spark, lake, message(1, 1))
    ingest_archive(spark, lake, user_events)
    shutil.rmtree(lake.table(user_events.table))
    assert ingest_archive(spark, lake, user_events) == IngestReport(2, 2, (DAY,))
    assert sorted(table(spark, lake)) == ["e0", "e1"]


def test_an_archive_made_anew_is_read_from_its_first_commit(spark: SparkSession, lake: Settings) -> None:
    archive(spark, lake, message(0, 0))
    archive(spark, lake, message(1, 1))
    ingest_archive(spark, lake, user_events)
    shutil.rmtree(lake.table(user_events.archive_table))
    archive(spark, lake, message(0, 2))
    assert ingest_archive(spark, lake, user_events) == IngestReport(1, 1, (DAY,))
    assert sorted(table(spark, lake)) == ["e0", "e1", "e2"]


def test_where_the_archives_log_is_gone_all_of_it_is_read_and_nothing_doubled(spark: SparkSession, lake: Settings) -> None:
    for n in range(3):
        archive(spark, lake, message(n, n))
        if n == 0:
            ingest_archive(spark, lake, user_events)
    path = lake.table(user_events.archive_table)
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path).checkpoint()
    for commit in Path(path, "_delta_log").glob("*[0-2].json"):  # as Delta does after a month
        commit.unlink()
    assert ingest_archive(spark, lake, user_events) == IngestReport(3, 2, (DAY,))
    assert sorted(table(spark, lake)) == ["e0", "e1", "e2"]


def test_two_sources_have_archives_of_their_own(spark: SparkSession, lake: Settings) -> None:
    other = dataclasses.replace(user_events, name="others", topic="others", table="other_events")
    archive(spark, lake, message(0, 0))
    archive(spark, lake, (other.topic, *message(0, 1)[1:]), source=other)
    assert ingest_archive(spark, lake, user_events).added == ingest_archive(spark, lake, other).added == 1
    assert list(table(spark, lake)) == ["e0"]
    assert spark.read.format("delta").load(lake.table(other.table)).first()["event_id"] == "e1"


def test_copies_fall_within_the_days_of_deduplication_and_an_exact_copy_always(spark: SparkSession, lake: Settings) -> None:
    lake = lake.model_copy(update={"deduplication_days": 2})
    archive(spark, lake, message(0, 0), message(1, 9, time="2025-11-30T00:00:00Z"))
    ingest_archive(spark, lake, user_events)
    archive(spark, lake, message(2, 0, time="2025-12-30T23:59:59Z"), message(3, 9, time="2025-11-30T00:00:00Z"))
    assert ingest_archive(spark, lake, user_events).added == 0
    archive(spark, lake, message(4, 0, time="2025-12-29T23:59:59Z"))
    assert ingest_archive(spark, lake, user_events).added == 1  # three days apart: as another event
