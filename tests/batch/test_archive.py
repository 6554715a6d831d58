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
from features.windows import DAY_MS
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
    sessions = {row["event_id"]: row["session_id"] for row in rows}
    assert len(sessions) == len(rows)
    return sessions


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
        added = [future.result(120) for future in [pool.submit(ingest), pool.submit(ingest)]]
    assert sum(added) == 50
    assert len(table(spark, lake)) == 50


def test_only_what_was_archived_since_is_read_also_after_files_were_joined(spark: SparkSession, lake: Settings) -> None:
    yesterday = BASE - DAY_MS
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


def test_what_arrived_first_counts_although_a_later_copy_was_ingested_before(spark: SparkSession, lake: Settings) -> None:
    """As when a partition is archived late, or a file is loaded before the archive is read."""
    archive(
        spark, lake, message(10, 1, BASE + 50), message(11, 2, BASE + 50, time="2025-12-31T00:00:00Z"), message(12, 3, BASE + 70)
    )
    archive(spark, lake, message(13, 4, BASE + 60), message(14, 5, time="2025-12-25T00:00:00Z"))
    ingest_archive(spark, lake, user_events)
    # Of e1 a copy that arrived earlier; of e2 too, with another time; of e3 in the same millisecond, at a higher offset; e4 later.
    archive(
        spark, lake,
        message(20, 1, BASE + 40), message(21, 1, BASE + 45), message(22, 2, BASE + 49), message(23, 3, BASE + 70), message(24, 4, BASE + 61),
        message(25, 6, BASE + 39),
    )  # fmt: skip
    untouched = partitions_of(spark.read.format("delta").load(lake.table(user_events.table)))["2025-12-25",]
    assert ingest_archive(spark, lake, user_events).added == 1
    assert table(spark, lake) == {"e1": "at 20", "e2": "at 22", "e3": "at 12", "e4": "at 13", "e5": "at 14", "e6": "at 25"}
    assert partitions_of(spark.read.format("delta").load(lake.table(user_events.table)))["2025-12-25",] == untouched
    rows = spark.read.format("delta").load(lake.table(user_events.table)).where("event_id = 'e2'").select("day", "ts_ms").collect()
    assert [(row["day"], row["ts_ms"]) for row in rows] == [(DAY, BASE)], "the day of the later copy has lost it"
    # Once more, as after a crash: nothing changes.
    version = spark.sql(f"DESCRIBE HISTORY delta.`{lake.table(user_events.table)}`").count()
    archive(spark, lake, message(20, 1, BASE + 40))
    ingest_archive(spark, lake, user_events)
    assert table(spark, lake)["e1"] == "at 20"
    assert spark.sql(f"DESCRIBE HISTORY delta.`{lake.table(user_events.table)}`").count() <= version + 1


def test_which_copies_count_does_not_depend_on_how_the_messages_are_cut(spark: SparkSession, lake: Settings) -> None:
    days = ["01", "02", "03", "05", "04", "07"]  # of one id, as they arrive; copies are two days apart at most
    messages = [message(n, 0, BASE + n, time=f"2025-12-{day}T00:00:00Z") for n, day in enumerate(days)]
    sessions_of = []
    for name, cuts in (
        ("once", [messages]),
        ("each", [[message] for message in messages]),
        ("halves", [messages[:3], messages[3:]]),
    ):
        settings = lake.model_copy(update={"deduplication_days": 2, "lake_uri": f"{lake.lake_uri}-{name}"})
        for cut in cuts:
            archive(spark, settings, *cut)
            ingest_archive(spark, settings, user_events)
        rows = spark.read.format("delta").load(settings.table(user_events.table)).select("session_id").collect()
        sessions_of.append(sorted(row["session_id"] for row in rows))
    assert sessions_of == [["at 0", "at 3"]] * 3
