"""`braid load`: loads a file into the `events` table. Rows that do not fit go to `quarantine` with the reason, so no row is lost.

Reads a file that `batch.files` has opened; judges its rows, or its messages, by the contract; writes `events` and `quarantine`. The report
has the values by which a user recognizes a wrong reading of the file: the first and last time, and the most frequent types.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.events import append_events
from batch.files import ColumnReading, EventFile, ReadOptions, open_events
from batch.labels import put_labels
from batch.spool import MESSAGE
from batch.tables import create_table, retry_conflicts
from features.instants import now_ms, rfc3339
from features.judgement import message_projections, row_projections
from features.sources import ColumnType, EventSource
from infra.settings import Settings

QUARANTINE = "quarantine"
#: The number of rows that a check shows; the largest number of different values of a type column; the number of its values in a report.
_SAMPLE_ROWS, _FEW_VALUES, _SHOWN_VALUES = 10, 50, 5


@dataclass(frozen=True)
class LoadReport:
    """The result of a load: read = loaded + duplicates + quarantined.

    Attributes:
        read: Rows of the file.
        loaded: New events, and corrected labels; in a check, all rows that fit, duplicates included.
        duplicates: Events that were in the table already.
        quarantined: Rows that do not fit.
        reasons: Reason → number of quarantined rows.
        first_day: The first day of the rows that fit; None if no event is new, and in a check.
        last_day: The last day of the rows that fit; None if no event is new, and in a check.
        first_event: The earliest time of a row that fits, RFC 3339.
        last_event: The latest time of a row that fits, RFC 3339.
        types: Required text column with few values → its most frequent values → how often they occur.
        dialect: The format of the file, in words.
        columns: How each column was read.
        sample: In a check, the first rows with their typed values.
        checked: Whether this was a check, which loads nothing.
    """

    read: int
    loaded: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    first_day: date | None
    last_day: date | None
    first_event: str | None = None
    last_event: str | None = None
    types: dict[str, dict[str, int]] = field(default_factory=dict)
    dialect: str = ""
    columns: list[ColumnReading] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)
    checked: bool = False


def load_events(
    spark: SparkSession,
    settings: Settings,
    source: EventSource,
    path: Path,
    mapping: Mapping[str, str] | None = None,
    options: ReadOptions | None = None,
    correctable: str | None = None,
) -> LoadReport:
    """Loads a file. A second load of the file adds no event, and no row to the quarantine.

    Args:
        spark: The session.
        settings: The settings, with the place of the lake.
        source: The contract.
        path: CSV, JSON or Parquet.
        mapping: Contract column → column of the file, or a literal in single quotes.
        options: The options for a file that can be read in several ways.
        correctable: The column whose value a later row of the same id corrects, such as that of labels; None if the first row of an id stays.

    Raises:
        InputError: The file or the mapping cannot be used; nothing was loaded.
    """
    with open_events(path, source, mapping, options, correctable) as file:
        return load_file(spark, settings, source, file)


def load_file(spark: SparkSession, settings: Settings, source: EventSource, file: EventFile, check: bool = False) -> LoadReport:
    """Loads an open file, or only checks it and reports what would be loaded."""
    scratch = settings.home / "scratch" / uuid.uuid4().hex
    scratch.mkdir(parents=True)
    days: tuple[date, ...] = ()
    loaded = 0
    try:
        raw_path, judged_path = scratch / "rows.parquet", scratch / "judged.parquet"
        read = file.write_parquet(raw_path)
        if not read:
            return LoadReport(0, 0, 0, 0, {}, None, None, dialect=file.dialect, columns=file.readings, checked=check)
        arrival_ms = now_ms()
        # Written to a file, so that the rows are judged only once for all the queries below.
        _judged(spark.read.parquet(str(raw_path)), settings, source, file, arrival_ms).write.parquet(str(judged_path))
        judged = spark.read.parquet(str(judged_path))
        misfits, fitting = judged.where("_reason IS NOT NULL"), judged.where("_reason IS NULL")
        # A reason ends with the value, so rows are counted by the part before the value.
        counted = misfits.groupBy(F.expr("split_part(_reason, ': ', 1)").alias("reason")).count().collect()
        reasons = {row["reason"]: row["count"] for row in sorted(counted, key=lambda row: -row["count"])}
        quarantined = sum(reasons.values())
        first_ms, last_ms, types = _profile(fitting, source)
        sample: list[dict[str, Any]] = []
        if check:
            loaded = read - quarantined
            # As texts, because Python has no year 0.
            texts = [f"CAST({name} AS STRING) AS {name}" for name in (f"`{column.name}`" for column in source.columns)]
            shown = judged.orderBy("_row").limit(_SAMPLE_ROWS).selectExpr("_row", *texts, "_reason")
            sample = [row.asDict() for row in shown.collect()]
        else:
            if quarantined:
                rejected = misfits.select(
                    F.lit(str(file.path)).alias("file"), F.col("_row").alias("row"), F.col("_reason").alias("reason"),
                    F.col("_content").alias("content"), F.current_timestamp().alias("loaded_at"),
                )  # fmt: skip
                retry_conflicts(lambda: _quarantine(spark, settings.table(QUARANTINE), rejected))
            good = fitting.drop("_reason", "_content").selectExpr(
                "* EXCEPT (_row)", f"{arrival_ms}L AS arrival_ms", "'load' AS origin", "CAST(NULL AS INT) AS kafka_partition",
                "CAST(NULL AS BIGINT) AS kafka_offset", "_row AS _order",
            )  # fmt: skip
            put = append_events if file.correctable is None else put_labels
            loaded, days = put(spark, settings, source, good)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if days:
        remember_first_day(settings, days[0])
    return LoadReport(
        read, loaded, read - quarantined - loaded, quarantined, reasons, days[0] if loaded and days else None,
        days[-1] if loaded and days else None, first_ms, last_ms, types, file.dialect, file.readings, sample, check,
    )  # fmt: skip


def _judged(rows: DataFrame, settings: Settings, source: EventSource, file: EventFile, arrival_ms: int) -> DataFrame:
    """Returns `_row`, the typed columns, `ts_ms`, `_reason` (why a row does not fit, or NULL) and `_content` (its text if it does not fit)."""
    keep, future_ms = ["_row", "_content"], settings.future_seconds * 1_000
    if file.has_messages:
        rows = rows.selectExpr("_row", f"{MESSAGE} AS value", f"make_valid_utf8(CAST({MESSAGE} AS STRING)) AS _content")
        projections = message_projections(source, dict(zip(keep, keep, strict=True)), str(arrival_ms), future_ms)
    else:
        columns = F.struct(*(column.name for column in source.columns))
        rows = rows.withColumn("_content", F.coalesce("_line", F.to_json(columns)))
        projections = row_projections(source, keep, str(arrival_ms), future_ms)
    for projection in projections:
        rows = rows.selectExpr(*projection)
    return rows.withColumn("_content", F.expr("CASE WHEN _reason IS NOT NULL THEN _content END"))


def _profile(fitting: DataFrame, source: EventSource) -> tuple[str | None, str | None, dict[str, dict[str, int]]]:
    """Returns the first and last time, and the most frequent values of each required text column with few values."""
    names = [
        c.name for c in source.columns if c.required and c.type is ColumnType.STRING and c.name not in (source.event_id, source.key)
    ]
    distinct = [F.approx_count_distinct(name).alias(f"distinct_{name}") for name in names]
    summary = fitting.agg(F.min("ts_ms").alias("first"), F.max("ts_ms").alias("last"), *distinct).first()
    assert summary is not None, "an aggregation without keys has one row"
    types = {}
    for name in names:
        if 0 < summary[f"distinct_{name}"] <= _FEW_VALUES:
            counts = fitting.groupBy(F.col(name).alias("value")).count().orderBy(F.desc("count"), "value").limit(_SHOWN_VALUES)
            types[name] = {row["value"]: row["count"] for row in counts.collect()}
    if summary["first"] is None:
        return None, None, types
    return rfc3339(summary["first"]), rfc3339(summary["last"]), types


def _quarantine(spark: SparkSession, path: str, rows: DataFrame) -> None:
    """Adds the rows that are not in the quarantine yet."""
    create_table(spark, path, rows.schema)
    # The reason is not compared, because for an event from the future it has the milliseconds until then, which differ each time.
    same = "t.file = s.file AND t.row = s.row AND t.content = s.content"
    DeltaTable.forPath(spark, path).alias("t").merge(rows.alias("s"), same).whenNotMatchedInsertAll().execute()


def remember_first_day(settings: Settings, day: date) -> None:
    """Stores the earliest day of all events, with which Dagster's daily partitions begin."""
    path = settings.home / "first_day.json"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two concurrent loads the earlier day is stored
        known = date.fromisoformat(json.loads(path.read_text())) if path.exists() else day
        part = path.with_suffix(".part")
        part.write_text(json.dumps(min(known, day).isoformat()))
        part.replace(path)
