"""What the stream has archived becomes events exactly once, whatever happened in between."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from batch import events
from batch.events import ARCHIVE, ingest_archive
from features.definitions import user_events
from infra.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: 2026-01-01T00:00:00Z
BASE = 1_767_225_600_000
DAY = date(2026, 1, 1)


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
    return 0, offset, BASE + offset if arrival_ms is None else arrival_ms, b"key", value


def archive(spark: SparkSession, settings: Settings, *messages: tuple[Any, ...]) -> None:
    rows = spark.createDataFrame(list(messages), "partition INT, offset BIGINT, arrival_ms BIGINT, key BINARY, value BINARY")
    rows.coalesce(1).write.format("delta").mode("append").save(settings.table(ARCHIVE))


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
        patch.setattr(events, "_added_since", lambda *_: 1 / 0)
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
