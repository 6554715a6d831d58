"""The `events` table: every event once, typed, by day.

Reads typed rows of a load, or the stream's raw archive; writes the Delta table of the source, partitioned by the UTC day of the
event. Duplicates fall by event id: the first to arrive stays, in a batch and against the table. Writing twice adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from features.sources import CORRUPT, EventSource
from infra.settings import Settings

ARCHIVE = "raw_events"


@dataclass(frozen=True)
class IngestReport:
    """What came out of the archive: rows read, events added, and the days (UTC) that have new events."""

    read: int
    added: int
    days: tuple[date, ...]


def append_events(spark: SparkSession, settings: Settings, source: EventSource, rows: DataFrame) -> tuple[int, tuple[date, ...]]:
    """Adds the events that the table does not have.

    Args:
        spark: The session.
        settings: Where the lake is.
        source: Whose events.
        rows: The source's typed columns, `ts_ms`, `arrival_ms`, `origin`, `kafka_partition`, `kafka_offset` (null for a load) and
            `_order`: among rows that arrived together, the lower came first.

    Returns:
        How many were added, and the days that they touch.
    """
    path = settings.table(source.table)
    first = Window.partitionBy(source.event_id).orderBy("arrival_ms", "kafka_partition", "_order")
    fresh = rows.withColumn("_rank", F.row_number().over(first)).where("_rank = 1").drop("_rank", "_order")
    exists = DeltaTable.isDeltaTable(spark, path)
    if exists:
        fresh = fresh.join(spark.read.format("delta").load(path).select(source.event_id), source.event_id, "left_anti")
    fresh = fresh.withColumn("day", F.to_date(F.timestamp_millis("ts_ms")))
    before = _version(spark, path) if exists else -1
    columns = [
        *(column.name for column in source.columns),
        "ts_ms",
        "arrival_ms",
        "origin",
        "kafka_partition",
        "kafka_offset",
        "day",
    ]
    fresh.select(*columns).repartition("day").write.format("delta").mode("append").partitionBy("day").save(path)
    return _added_since(spark, path, before)


def ingest_archive(spark: SparkSession, settings: Settings, source: EventSource) -> IngestReport:
    """Takes what the stream has archived since the last time into `events`: also what came too late for the speed layer.

    Misfits are passed over here: the speed layer has put them on the dead-letter topic.
    """
    raw = _new_messages(spark, settings, source)
    if raw is None:
        return IngestReport(0, 0, ())
    # Before the append, after which they would be no longer new.
    read = raw.count()
    added, days = append_events(spark, settings, source, _fitting(raw, settings, source))
    return IngestReport(read, added, days)


def read_archive(spark: SparkSession, settings: Settings, source: EventSource) -> DataFrame | None:
    """The archive's events that fit and are not ingested yet, typed; None where there is no archive."""
    raw = _new_messages(spark, settings, source)
    return None if raw is None else _fitting(raw, settings, source)


def _new_messages(spark: SparkSession, settings: Settings, source: EventSource) -> DataFrame | None:
    archive, path = settings.table(ARCHIVE), settings.table(source.table)
    if not DeltaTable.isDeltaTable(spark, archive):
        return None
    raw = spark.read.format("delta").load(archive)
    if not DeltaTable.isDeltaTable(spark, path):
        return raw
    done = (
        spark.read.format("delta").load(path).where("origin = 'stream'").groupBy("kafka_partition")
        .agg(F.max("kafka_offset").alias("done_offset"), F.max("arrival_ms").alias("done_ms"))
    )  # fmt: skip
    # A topic made anew counts its offsets from 0 again; its messages arrived later, or in the same millisecond. Those that are
    # read twice thereby fall as duplicates.
    new = "done_offset IS NULL OR offset > done_offset OR arrival_ms >= done_ms"
    return raw.join(F.broadcast(done), raw.partition == done.kafka_partition, "left").where(new)


def _fitting(raw: DataFrame, settings: Settings, source: EventSource) -> DataFrame:
    """The messages that fit the contract, as `append_events` takes them."""
    event = F.from_json(F.col("value").cast("string"), source.json_schema_sql(), {"columnNameOfCorruptRecord": CORRUPT})
    parsed = raw.select("partition", "offset", "arrival_ms", event.alias("e")).select("partition", "offset", "arrival_ms", "e.*")
    good = parsed.where(F.expr(source.reason_sql("arrival_ms", settings.future_seconds * 1_000, corrupt=True)).isNull())
    return good.selectExpr(
        *source.typed_select_sql(),
        "arrival_ms",
        "'stream' AS origin",
        "partition AS kafka_partition",
        "offset AS kafka_offset",
        "offset AS _order",
    )


def _version(spark: SparkSession, path: str) -> int:
    return int(DeltaTable.forPath(spark, path).history(1).first()["version"])  # type: ignore[index]


def _added_since(spark: SparkSession, path: str, version: int) -> tuple[int, tuple[date, ...]]:
    """Rows and days that one append since `version` has brought, from the table's own log."""
    latest = DeltaTable.forPath(spark, path).history(1).first()
    assert latest is not None
    if latest["version"] == version:
        return 0, ()
    added = int(latest["operationMetrics"].get("numOutputRows", 0))
    if not added:
        return 0, ()
    log = spark.read.json(f"{path}/_delta_log/{latest['version']:020d}.json").where("add IS NOT NULL")
    days = tuple(sorted({date.fromisoformat(row["day"]) for row in log.select("add.partitionValues.day").distinct().collect()}))
    return added, days
