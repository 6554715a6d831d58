"""The `events` table: every event once, typed, by day.

Reads typed rows of a load, or the stream's raw archive; writes the Delta table of the source, partitioned by the UTC day of the
event. Duplicates fall by event id: the first to arrive stays, in a batch and against the table. Writing twice adds nothing, nor
do two that write at once. What an ingest costs depends on what was archived since the last one: how far that was is committed
with its events, so that neither a crash nor a table made anew can part them.
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

#: Two that merge at once see each other, and a deleted row leaves its file, whose name then changes with its content.
_PROPERTIES = {"delta.isolationLevel": "Serializable", "delta.enableDeletionVectors": "false"}
#: As long as the archive's log, which is Delta's own default, so that its change feed finds the files that it names.
_KEPT_HOURS = 30 * 24
_FITS = "_reason IS NULL"


@dataclass(frozen=True)
class IngestReport:
    """What came out of the archive: messages read, events added, the days (UTC) of those read, whether added or known, and misfits."""

    read: int
    added: int
    days: tuple[date, ...]
    refused: int = 0


@dataclass(frozen=True)
class NewMessages:
    """What the archive holds of a source and `events` does not yet.

    Attributes:
        rows: Columns of the archive.
        archive: Which one: a table made anew is another.
        until: The commit of the archive up to which they go.
    """

    rows: DataFrame
    archive: str
    until: int


def append_events(
    spark: SparkSession, settings: Settings, source: EventSource, rows: DataFrame, taken: NewMessages | None = None
) -> tuple[int, tuple[date, ...]]:
    """Adds the events that the table does not have.

    Copies of an event fall where their days lie at most `settings.deduplication_days` apart, as those of exact copies do; the first to
    arrive stays, also where the table has had another one (`batch.copies`).

    Args:
        spark: The session.
        settings: Where the lake is.
        source: Whose events.
        rows: The source's typed columns, `ts_ms`, `arrival_ms`, `origin`, `kafka_partition`, `kafka_offset` (null for a load) and
            `_order`: among rows that arrived together, the lower came first.
        taken: What of the archive is done with this commit.

    Returns:
        How many were added, and the days of the rows.
    """
    path, key = settings.table(source.table), source.event_id
    span = settings.deduplication_days
    rows = rows.withColumn("day", F.to_date(F.timestamp_millis("ts_ms")))
    names = [column.name for column in source.columns]
    names += ["ts_ms", "arrival_ms", "origin", "kafka_partition", "kafka_offset", "day"]
    fresh = first_copies(rows, key, span).select(names)
    arrivals = {row["day"]: row["first_ms"] for row in rows.groupBy("day").agg(F.min("arrival_ms").alias("first_ms")).collect()}
    days = sorted(arrivals)
    # The events that could be copies lie in the days around, and no other day is read.
    around = " OR ".join(f"t.day BETWEEN DATE'{a}' AND DATE'{b}'" for a, b in _spans(days, timedelta(span))) or "false"
    same = f"t.`{key}` = s.`{key}` AND abs(datediff(t.day, s.day)) <= {span} AND ({around})"

    if arrivals and table_state(spark, path) is not None:
        replace_later_copies(spark, path, fresh, key, same, min(arrivals.values()))

    def merge() -> int:
        create_table(spark, path, fresh.schema, ["day"], _PROPERTIES)
        session = spark
        if taken:
            session = spark.newSession()
            session.conf.set("spark.databricks.delta.write.txnAppId", taken.archive)
            session.conf.set("spark.databricks.delta.write.txnVersion", str(taken.until))
        target = DeltaTable.forPath(session, path).alias("t")
        done = target.merge(fresh.alias("s"), same).whenNotMatchedInsertAll().execute().first()
        return int(done["num_inserted_rows"]) if done else 0  # none: another ingest has committed as much

    return retry_conflicts(merge), tuple(days)


def no_events(source: EventSource) -> NoEventsError:
    """The error of who needs events before there are any."""
    return NoEventsError(
        f"There are no events of {source.name} yet.", "Load a file by `braid load FILE` or stream some by `braid replay FILE`."
    )


def require_events(spark: SparkSession, settings: Settings, source: EventSource) -> None:
    """Makes sure that the table is there.

    Raises:
        NoEventsError: There are no events.
    """
    if not DeltaTable.isDeltaTable(spark, settings.table(source.table)):
        raise no_events(source)


def ingest_archive(spark: SparkSession, settings: Settings, source: EventSource) -> IngestReport:
    """Takes what the stream has archived since the last time into `events`: also what came too late for the speed layer.

    Misfits are passed over here: the speed layer has put them on the dead-letter topic. Afterwards the archive's many small files
    of past days are made few.
    """
    new = _new_messages(spark, settings, source, archive_state(spark, settings, source))
    if new is None:
        return IngestReport(0, 0, ())
    report = _ingest(spark, settings, source, new)
    compact_archive(spark, settings, source)
    return report


def archive_state(spark: SparkSession, settings: Settings, source: EventSource) -> TableState | None:
    """The archive of a source as of now; None where there is none."""
    return table_state(spark, settings.table(source.archive_table))


def events_up_to(spark: SparkSession, settings: Settings, source: EventSource, archive: TableState | None) -> DataFrame | None:
    """The table of events with exactly the messages that the archive had, and what was loaded from files; None where there are no events.

    Raises:
        NotReadyError: Another process has taken later messages into the table meanwhile.
    """
    new = _new_messages(spark, settings, source, archive)
    if new is not None and not new.rows.isEmpty():
        _ingest(spark, settings, source, new)
    events = table_state(spark, settings.table(source.table))
    if events is None:
        return None
    # It may lie before: a commit without an event need not be written.
    if archive is not None and events.transactions.get(archive.id, -1) > archive.version:
        raise NotReadyError(f"The table of {source.name} has later events than the archive had.", "Begin again.")
    return events.read(spark)


def _ingest(spark: SparkSession, settings: Settings, source: EventSource, new: NewMessages) -> IngestReport:
    judged = _judged(new.rows, settings, source).persist()  # read and parsed once
    try:
        read = judged.count()
        if not read and not table_state(spark, settings.table(source.table)):
            return IngestReport(0, 0, ())  # a table without an event would look like one that has some
        refused = read - judged.where(_FITS).count()
        added, days = append_events(spark, settings, source, judged.where(_FITS), new)
    finally:
        judged.unpersist()
    return IngestReport(read, added, days, refused)


def read_archive(spark: SparkSession, settings: Settings, source: EventSource) -> DataFrame | None:
    """The archive's events that fit and are not ingested yet, typed; None where there are none."""
    new = _new_messages(spark, settings, source, archive_state(spark, settings, source))
    return None if new is None else _judged(new.rows, settings, source).where(_FITS)


def compact_archive(spark: SparkSession, settings: Settings, source: EventSource) -> int:
    """Joins the archive's files of each day that is over, by the arrival of its messages; gives the number of the days."""
    path = settings.table(source.archive_table)
    state = table_state(spark, path)
    files = partitions_of(state.read(spark)) if state else {}
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
            # What was appended since, not what only moved from many files to one, nor what was deleted.
            rows = changes.option("startingVersion", done + 1).option("endingVersion", archive.version).load(archive.path)
            rows = rows.where("_change_type = 'insert'")
        except (AnalysisException, Py4JJavaError):
            # The log does not go back so far: all is read, and what is known falls by its id.
            pass
    return NewMessages(rows, archive.id, archive.version)


def _spans(days: list[date], around: timedelta) -> list[tuple[date, date]]:
    """The days and those around them, as few spans."""
    spans: list[tuple[date, date]] = []
    for day in days:
        begin = spans.pop()[0] if spans and day - around <= spans[-1][1] else day - around
        spans.append((begin, day + around))
    return spans


def _judged(raw: DataFrame, settings: Settings, source: EventSource) -> DataFrame:
    """The messages as `append_events` takes them, and why one does not fit: `_reason`."""
    places = {"kafka_partition": "partition", "kafka_offset": "offset", "arrival_ms": "arrival_ms"}
    for projection in message_projections(source, places, "arrival_ms", settings.future_seconds * 1_000):
        raw = raw.selectExpr(*projection)
    return raw.selectExpr("*", "'stream' AS origin", "kafka_offset AS _order")
