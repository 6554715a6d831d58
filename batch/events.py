"""The `events` table: every event once, typed, by day.

Reads typed rows of a load, or the stream's raw archive. Writes the Delta table of the source, partitioned by the UTC day of the event. Of the copies
of an event, which share an id, the first to arrive stays, both within a batch and against the table. A second or a concurrent write of the same rows
adds nothing. An ingestion reads only what was archived since the last ingestion. Its position in the archive is committed together with its events,
so the two agree even after a crash, or after a table was deleted and created again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.copies import first_copies, replace_later_copies
from batch.tables import TableState, create_table, partitions_of, retry_conflicts, table_state
from features.judgement import message_projections
from features.sources import EventSource
from infra.errors import NoEventsError, NotReadyError
from infra.settings import Settings

#: Serializable: of two concurrent merges, the later one sees the rows of the earlier one. No deletion vectors: a deletion writes a new file, so the
#: content of a file never changes under its name.
TABLE_PROPERTIES = {"delta.isolationLevel": "Serializable", "delta.enableDeletionVectors": "false"}
#: The hours for which the archive keeps files that were compacted: as long as its log (Delta's default), so that the change feed finds its files.
_KEPT_HOURS = 30 * 24
_FITS = "_reason IS NULL"


@dataclass(frozen=True)
class IngestReport:
    """The result of an ingestion.

    Attributes:
        read: The number of messages that were read from the archive.
        added: The number of events that were added.
        days: The days (UTC) of the messages that fit, also of events that the table had already.
        refused: The number of messages that do not fit.
    """

    read: int
    added: int
    days: tuple[date, ...]
    refused: int = 0


@dataclass(frozen=True)
class NewMessages:
    """The messages of a source's archive that are not ingested yet.

    Attributes:
        rows: The messages, with the columns of the archive.
        archive: The identity of the archive's table. A table that is deleted and created again has another identity.
        until: The last commit of the archive that the rows include.
    """

    rows: DataFrame
    archive: str
    until: int


def append_events(
    spark: SparkSession, settings: Settings, source: EventSource, rows: DataFrame, taken: NewMessages | None = None
) -> tuple[int, tuple[date, ...]]:
    """Adds the events that the table does not have.

    Events of one id are copies if their days lie at most `settings.deduplication_days` apart, as the days of exact copies always do. Of the copies
    the first to arrive stays, also if the table has had a later copy (`batch.copies`).

    Args:
        spark: The session.
        settings: The settings, with the place of the lake.
        source: The source of the events.
        rows: The source's typed columns, `ts_ms`, `arrival_ms`, `origin`, `kafka_partition`, `kafka_offset` (null for a load) and
            `_order`: of rows with the same arrival and partition, the row with the lower value arrived first.
        taken: The messages of the archive that the commit records as ingested; None for a load.

    Returns:
        The number of added events, and the days (UTC) of the rows.
    """
    path, key = settings.table(source.table), source.event_id
    span = settings.deduplication_days
    rows = with_day(rows)
    fresh = first_copies(rows, key, span).select(table_columns(source))
    arrivals = {row["day"]: row["first_ms"] for row in rows.groupBy("day").agg(F.min("arrival_ms").alias("first_ms")).collect()}
    days = sorted(arrivals)
    # Copies can only lie in the days around, so no other day is read.
    around = " OR ".join(f"t.day BETWEEN DATE'{a}' AND DATE'{b}'" for a, b in _spans(days, timedelta(span))) or "false"
    same = f"t.`{key}` = s.`{key}` AND abs(datediff(t.day, s.day)) <= {span} AND ({around})"

    if arrivals and table_state(spark, path) is not None:
        replace_later_copies(spark, path, fresh, key, same, min(arrivals.values()))

    def merge() -> int:
        create_table(spark, path, fresh.schema, ["day"], TABLE_PROPERTIES)
        session = spark
        if taken:
            session = spark.newSession()
            session.conf.set("spark.databricks.delta.write.txnAppId", taken.archive)
            session.conf.set("spark.databricks.delta.write.txnVersion", str(taken.until))
        target = DeltaTable.forPath(session, path).alias("t")
        done = target.merge(fresh.alias("s"), same).whenNotMatchedInsertAll().execute().first()
        return int(done["num_inserted_rows"]) if done else 0  # no row: another ingestion has committed these messages

    return retry_conflicts(merge), tuple(days)


def with_day(rows: DataFrame) -> DataFrame:
    """Adds the column by which the table of events is partitioned: the day (UTC) of `ts_ms`."""
    return rows.withColumn("day", F.to_date(F.timestamp_millis("ts_ms")))


def table_columns(source: EventSource) -> list[str]:
    """Returns the names of the columns of the table of events."""
    return [*(column.name for column in source.columns), "ts_ms", "arrival_ms", "origin", "kafka_partition", "kafka_offset", "day"]


def no_events(source: EventSource) -> NoEventsError:
    """Returns the error for a source that has no events yet."""
    return NoEventsError(
        f"There are no events of {source.name} yet.", "Load a file by `braid load FILE` or stream some by `braid replay FILE`."
    )


def require_events(spark: SparkSession, settings: Settings, source: EventSource) -> None:
    """Checks that the source's table of events exists.

    Raises:
        NoEventsError: The table does not exist.
    """
    if not DeltaTable.isDeltaTable(spark, settings.table(source.table)):
        raise no_events(source)


def ingest_archive(spark: SparkSession, settings: Settings, source: EventSource) -> IngestReport:
    """Adds the events that the stream has archived since the last ingestion to `events`, also those that were too late for the speed layer.

    Messages that do not fit are skipped, because the speed layer has sent them to the dead-letter topic. First the archive's many small files of past
    days are compacted. This ingestion reads the compacted files, so no later one needs the small ones.
    """
    compact_archive(spark, settings, source)
    new = _new_messages(spark, settings, source, archive_state(spark, settings, source))
    if new is None:
        return IngestReport(0, 0, ())
    return _ingest(spark, settings, source, new)


def archive_state(spark: SparkSession, settings: Settings, source: EventSource) -> TableState | None:
    """Returns the current state of a source's archive; None if there is no archive."""
    return table_state(spark, settings.table(source.archive_table))


def events_up_to(spark: SparkSession, settings: Settings, source: EventSource, archive: TableState | None) -> DataFrame | None:
    """Returns the table of events with exactly the messages of the archive's given state, and the events that were loaded from files.

    Messages that are not in the table yet are ingested first.

    Returns:
        None if there are no events.

    Raises:
        NotReadyError: Another process has ingested later messages meanwhile.
    """
    new = _new_messages(spark, settings, source, archive)
    if new is not None and not new.rows.isEmpty():
        _ingest(spark, settings, source, new)
    events = table_state(spark, settings.table(source.table))
    if events is None:
        return None
    # The ingested commit may be earlier than `archive.version`, because a commit without an event need not be written.
    if archive is not None and events.transactions.get(archive.id, -1) > archive.version:
        raise NotReadyError(f"The table of {source.name} has later events than the archive had.", "Begin again.")
    return events.read(spark)


def _ingest(spark: SparkSession, settings: Settings, source: EventSource, new: NewMessages) -> IngestReport:
    judged = _judged(new.rows, settings, source).persist()  # so that the messages are read and parsed once
    try:
        read = judged.count()
        if not read and not table_state(spark, settings.table(source.table)):
            return IngestReport(0, 0, ())  # an empty table would look like a table with events
        refused = read - judged.where(_FITS).count()
        added, days = append_events(spark, settings, source, judged.where(_FITS), new)
    finally:
        judged.unpersist()
    return IngestReport(read, added, days, refused)


def read_archive(spark: SparkSession, settings: Settings, source: EventSource) -> DataFrame | None:
    """Returns the archive's events that fit and are not ingested yet, typed; None if everything is ingested or there is no archive."""
    new = _new_messages(spark, settings, source, archive_state(spark, settings, source))
    return None if new is None else _judged(new.rows, settings, source).where(_FITS)


def compact_archive(spark: SparkSession, settings: Settings, source: EventSource) -> int:
    """Compacts the archive's files of each day of arrival except the latest. Returns the number of days whose files were compacted."""
    path = settings.table(source.archive_table)
    state = table_state(spark, path)
    files = partitions_of(spark, state) if state else {}
    over = sorted(files)[:-1]
    days = [day for (day,) in over if len(files[day,]) > 1]
    if days:
        chosen = ", ".join(f"DATE'{day}'" for day in days)
        table = DeltaTable.forPath(spark, path)
        retry_conflicts(lambda: table.optimize().where(f"arrival_day IN ({chosen})").executeCompaction())
        table.vacuum(_KEPT_HOURS)
    return len(days)


def _new_messages(spark: SparkSession, settings: Settings, source: EventSource, archive: TableState | None) -> NewMessages | None:
    events = table_state(spark, settings.table(source.table))
    done = events.transactions.get(archive.id, -1) if archive and events else -1
    if archive is None or archive.version <= done:
        return None
    rows = archive.read(spark)
    if done >= 0:
        changes = spark.read.format("delta").option("readChangeFeed", "true")
        try:
            # Only messages that were appended since, neither those that a compaction moved nor those that were deleted.
            rows = changes.option("startingVersion", done + 1).option("endingVersion", archive.version).load(archive.path)
            rows = rows.where("_change_type = 'insert'")
        except (AnalysisException, Py4JJavaError):
            # The log does not go back that far. The whole archive is read, and events that the table has are dropped by their ids.
            pass
    return NewMessages(rows, archive.id, archive.version)


def _spans(days: list[date], around: timedelta) -> list[tuple[date, date]]:
    """Returns the days, each with the days `around` before and after it, as few spans (first day, last day)."""
    spans: list[tuple[date, date]] = []
    for day in days:
        begin = spans.pop()[0] if spans and day - around <= spans[-1][1] else day - around
        spans.append((begin, day + around))
    return spans


def _judged(raw: DataFrame, settings: Settings, source: EventSource) -> DataFrame:
    """Returns the messages with the columns that `append_events` reads, and `_reason`: why a message does not fit, or NULL."""
    places = {"kafka_partition": "partition", "kafka_offset": "offset", "arrival_ms": "arrival_ms"}
    for projection in message_projections(source, places, "arrival_ms", settings.future_seconds * 1_000):
        raw = raw.selectExpr(*projection)
    return raw.selectExpr("*", "'stream' AS origin", "kafka_offset AS _order")
