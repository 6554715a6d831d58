"""What the stream has archived becomes events exactly once, whatever happened in between."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch import events
from batch.erasure import erase_files
from batch.events import IngestReport, ingest_archive
from batch.tables import partitions_of, table_state
from features.sources import EventSource
from features.windows import DAY_MS
from infra.settings import Settings
from speed.archive import create_archive
from tests.archive import append_messages
from tests.declarations import user_events

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

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
    return user_events.topic, 0, offset, BASE + offset if arrival_ms is None else arrival_ms, b"key", value


def archive(spark: SparkSession, settings: Settings, *messages: tuple[Any, ...], source: EventSource = user_events) -> None:
    """As a micro-batch of the speed layer does."""
    create_archive(spark, settings, source)
    append_messages(spark, settings, source, messages)


def table(spark: SparkSession, settings: Settings) -> dict[str, str]:
    """event_id → session_id of every row; fails on two rows of one id."""
    rows = spark.read.format("delta").load(settings.table(user_events.table)).select("event_id", "session_id").collect()
    sessions = {row["event_id"]: row["session_id"] for row in rows}
    assert len(sessions) == len(rows)
    return sessions


@dataclass(frozen=True)
class Stage:
    """What an ingest says, and the table of events after it."""

    report: IngestReport
    rows: list[Row]
    files: dict[tuple[str, ...], list[str]]
    commits: int

    def sessions(self, *events: int) -> list[tuple[str, str]]:
        """event_id and session_id of each row of these events."""
        ids = {f"e{event}" for event in events}
        return sorted((row["event_id"], row["session_id"]) for row in self.rows if row["event_id"] in ids)


#: Of one id, as they arrive; copies are two days apart at most.
CUT = ["01", "02", "03", "05", "04", "07"]


def of_day(event: int, *places: int) -> list[tuple[Any, ...]]:
    return [message(place, event, BASE + place, time=f"2025-12-{CUT[place]}T00:00:00Z") for place in places]


#: The messages of each ingest. Each of the tests below has events of its own among them.
MISFITS = [message(i, value) for i, value in enumerate((b"[1]", b"nope", b"", b'{"event_id": "x"}', b"\xff\xfe"))]
INGESTS = [
    [
        message(0, 0), message(1, 1), message(2, 1), message(3, 2),
        *MISFITS, message(5, 5, time="2026-01-01T00:06:00Z"), message(6, 6, time="2026-01-01T00:04:00Z"),
        message(0, 10), message(7, 17),
        message(0, 20), message(1, 29, time="2025-11-30T00:00:00Z"),
        message(10, 31, BASE + 50), message(11, 32, BASE + 50, time="2025-12-31T00:00:00Z"), message(12, 33, BASE + 70),
        message(13, 34, BASE + 60), message(14, 35, time="2025-12-25T00:00:00Z"),
        *of_day(40, 0, 1, 2, 3, 4, 5), *of_day(41, 0, 1, 2), *of_day(42, 0),
    ],
    [
        message(4, 0), message(5, 3),
        # Offsets begin at 0 again; the first message arrives in the very millisecond of the last known one.
        message(0, 11, BASE + 7), message(1, 12, BASE + 8),
        message(2, 20, time="2025-12-30T23:59:59Z"), message(3, 29, time="2025-11-30T00:00:00Z"),
        # Of e31 a copy that arrived earlier; of e32 too, with another time; of e33 in the same millisecond, at a higher offset; e34 later.
        message(20, 31, BASE + 40), message(21, 31, BASE + 45), message(22, 32, BASE + 49), message(23, 33, BASE + 70),
        message(24, 34, BASE + 61), message(25, 36, BASE + 39),
        *of_day(41, 3, 4, 5), *of_day(42, 1),
    ],
    [message(4, 20, time="2025-12-29T23:59:59Z"), message(20, 31, BASE + 40), *of_day(42, 2)],
    *(of_day(42, place) for place in (3, 4, 5)),
]  # fmt: skip


@pytest.fixture(scope="module")
def stages(spark: SparkSession, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    """An archive that is ingested after each of `INGESTS`; copies are two days apart at most."""
    home = tmp_path_factory.mktemp("stages")
    lake = settings.model_copy(update={"deduplication_days": 2, "lake_uri": str(home / "lake"), "home": home})
    path, stages = lake.table(user_events.table), []
    assert ingest_archive(spark, lake, user_events).read == 0  # no archive yet
    for messages in INGESTS:
        archive(spark, lake, *messages)
        report = ingest_archive(spark, lake, user_events)
        events = spark.read.format("delta").load(path)
        rows = events.select("event_id", "session_id", "day", "ts_ms").collect()
        stages.append(
            Stage(
                report, rows, partitions_of(spark, table_state(spark, path)), spark.sql(f"DESCRIBE HISTORY delta.`{path}`").count()
            )
        )
        assert ingest_archive(spark, lake, user_events).added == 0
    return stages


def test_each_message_is_ingested_once_and_the_first_of_an_id_stays(stages: list[Stage]) -> None:
    assert [stage.report.read for stage in stages] == [len(messages) for messages in INGESTS]
    assert [stage.report.added for stage in stages] == [17, 5, 1, 1, 0, 0]
    assert [len(stage.rows) for stage in stages] == [17, 22, 23, 24, 24, 24]
    assert stages[0].sessions(0, 1, 2, 3) == [("e0", "at 0"), ("e1", "at 1"), ("e2", "at 3")]
    assert stages[1].sessions(0, 1, 2, 3) == [("e0", "at 0"), ("e1", "at 1"), ("e2", "at 3"), ("e3", "at 5")]


def test_misfits_and_events_from_the_future_are_passed_over(stages: list[Stage]) -> None:
    assert stages[0].report.refused == len(MISFITS) + 1
    events = {0, 1, 2, 6, 10, 17, 20, 29, 31, 32, 33, 34, 35, 40, 41, 42}
    assert {row["event_id"] for row in stages[0].rows} == {f"e{event}" for event in events}
    assert stages[0].sessions(5, 6) == [("e6", "at 6")]  # four minutes ahead of its arrival; five are allowed


def test_a_topic_made_anew_is_read_from_its_first_message(stages: list[Stage]) -> None:
    assert [event_id for event_id, _ in stages[0].sessions(10, 11, 12, 17)] == ["e10", "e17"]
    assert [event_id for event_id, _ in stages[1].sessions(10, 11, 12, 17)] == ["e10", "e11", "e12", "e17"]


def test_copies_fall_within_the_days_of_deduplication_and_an_exact_copy_always(stages: list[Stage]) -> None:
    assert stages[0].sessions(20, 29) == stages[1].sessions(20, 29) == [("e20", "at 0"), ("e29", "at 1")]
    # Three days apart: as another event.
    assert stages[2].sessions(20, 29) == [("e20", "at 0"), ("e20", "at 4"), ("e29", "at 1")]


def test_what_arrived_first_counts_although_a_later_copy_was_ingested_before(stages: list[Stage]) -> None:
    """As when a partition is archived late, or a file is loaded before the archive is read."""
    before, after, again = stages[:3]
    its = (31, 32, 33, 34, 35, 36)
    assert before.sessions(*its) == [("e31", "at 10"), ("e32", "at 11"), ("e33", "at 12"), ("e34", "at 13"), ("e35", "at 14")]
    assert after.sessions(*its) == [
        ("e31", "at 20"), ("e32", "at 22"), ("e33", "at 12"), ("e34", "at 13"), ("e35", "at 14"), ("e36", "at 25"),
    ]  # fmt: skip
    assert after.files["2025-12-25",] == before.files["2025-12-25",]
    moved = [(row["day"], row["ts_ms"]) for row in after.rows if row["event_id"] == "e32"]
    assert moved == [(DAY, BASE)], "the day of the later copy has lost it"
    # Once more, as after a crash: nothing changes.
    assert again.sessions(*its) == after.sessions(*its)
    assert again.commits <= after.commits + 1


def test_which_copies_count_does_not_depend_on_how_the_messages_are_cut(stages: list[Stage]) -> None:
    for event in (40, 41, 42):  # in one ingest, in two, in six
        assert stages[-1].sessions(event) == [(f"e{event}", "at 0"), (f"e{event}", "at 3")]


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
        ingest = events._ingest
        patch.setattr(events, "_ingest", lambda *arguments: (ingest(*arguments), 1 / 0))
        archive(spark, lake, message(3, 3))
        with pytest.raises(ZeroDivisionError):
            ingest_archive(spark, lake, user_events)
    assert ingest_archive(spark, lake, user_events).added == 0
    assert sorted(table(spark, lake)) == ["e0", "e1", "e2", "e3"]


def test_what_arrives_during_an_ingest_is_not_lost_when_older_files_are_erased(
    spark: SparkSession, lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(spark, lake, message(0, 0, BASE - DAY_MS, "2025-12-31T00:00:00Z"), message(1, 1))
    ingest = events._ingest

    def ingest_beside_the_stream(*arguments: Any) -> IngestReport:
        report = ingest(*arguments)
        # The stream is behind: a message of the day before.
        archive(spark, lake, message(2, 2, BASE - DAY_MS, "2025-12-31T00:00:00Z"), message(3, 3))
        return report

    with monkeypatch.context() as patch:
        patch.setattr(events, "_ingest", ingest_beside_the_stream)
        ingest_archive(spark, lake, user_events)
    assert erase_files(spark, lake, [user_events.archive_table]) == []  # as `braid forget` does
    assert ingest_archive(spark, lake, user_events).added == 2
    assert sorted(table(spark, lake)) == ["e0", "e1", "e2", "e3"]


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
    files = partitions_of(spark, table_state(spark, lake.table(user_events.archive_table)))
    assert {day: len(names) for (day,), names in files.items()} == {"2025-12-31": 1, "2026-01-01": 1}  # the two have become one
    assert ingest_archive(spark, lake, user_events).read == 0
    archive(spark, lake, message(3, 3, BASE))
    assert ingest_archive(spark, lake, user_events) == IngestReport(1, 1, (DAY,))
    assert sorted(table(spark, lake)) == ["e0", "e1", "e2", "e3"]


@pytest.fixture(scope="module")
def half_ingested(spark: SparkSession, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake with an event that was ingested and another that was archived since."""
    home = tmp_path_factory.mktemp("half")
    half = settings.model_copy(update={"lake_uri": str(home / "lake"), "home": home})
    archive(spark, half, message(0, 0))
    assert ingest_archive(spark, half, user_events).added == 1
    archive(spark, half, message(1, 1))
    return half.lake_uri


@pytest.fixture
def half(half_ingested: str, lake: Settings) -> Settings:
    """The deployment with a copy of that lake."""
    shutil.copytree(half_ingested, lake.lake_uri)
    return lake


def test_events_that_were_deleted_come_back_from_the_archive(spark: SparkSession, half: Settings) -> None:
    shutil.rmtree(half.table(user_events.table))
    assert ingest_archive(spark, half, user_events) == IngestReport(2, 2, (DAY,))
    assert sorted(table(spark, half)) == ["e0", "e1"]


def test_an_archive_made_anew_is_read_from_its_first_commit(spark: SparkSession, half: Settings) -> None:
    shutil.rmtree(half.table(user_events.archive_table))
    archive(spark, half, message(0, 2))
    assert ingest_archive(spark, half, user_events) == IngestReport(1, 1, (DAY,))
    assert sorted(table(spark, half)) == ["e0", "e2"]


def test_where_the_archives_log_is_gone_all_of_it_is_read_and_nothing_doubled(spark: SparkSession, half: Settings) -> None:
    archive(spark, half, message(2, 2))
    path = half.table(user_events.archive_table)
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path).checkpoint()
    for commit in Path(path, "_delta_log").glob("*[0-2].json"):  # as Delta does after a month
        commit.unlink()
    assert ingest_archive(spark, half, user_events) == IngestReport(3, 2, (DAY,))
    assert sorted(table(spark, half)) == ["e0", "e1", "e2"]


def test_two_sources_have_archives_of_their_own(spark: SparkSession, lake: Settings) -> None:
    other = dataclasses.replace(user_events, name="others", topic="others", table="other_events")
    archive(spark, lake, message(0, 0))
    archive(spark, lake, (other.topic, *message(0, 1)[1:]), source=other)
    assert ingest_archive(spark, lake, user_events).added == ingest_archive(spark, lake, other).added == 1
    assert list(table(spark, lake)) == ["e0"]
    assert spark.read.format("delta").load(lake.table(other.table)).first()["event_id"] == "e1"
