"""`braid load`: anyone's file into the `events` table. What does not fit goes to `quarantine` with the reason; nothing is lost.

Reads a file that `batch.files` has opened; judges its rows by the contract, those of JSON as the messages that they are; writes `events`
and `quarantine`, and reports what a wrong reading of the file would show in: the first and last time, and the most frequent types.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.events import append_events
from batch.files import ColumnReading, EventFile, ReadOptions, open_events
from batch.spool import MESSAGE
from batch.tables import create_table, retry_conflicts
from features.judgement import message_projections, row_projections
from features.sources import ColumnType, EventSource
from infra.settings import Settings

QUARANTINE = "quarantine"
#: Rows that a check shows; values up to which a text column is a type rather than an id; those of them that are shown.
_SAMPLE_ROWS, _FEW_VALUES, _SHOWN_VALUES = 10, 50, 5


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's rows: read = loaded + duplicates + quarantined.

    Attributes:
        read: Rows of the file.
        loaded: Events that are new; of a check, those that fit, duplicates included.
        duplicates: Events that were known.
        quarantined: Rows that do not fit.
        reasons: The quarantined rows by reason.
        first_day: The first day of the rows that fit, where any is new.
        last_day: The last day of them.
        first_event: The earliest time of a row that fits, RFC 3339.
        last_event: The latest.
        types: Of each required text column with few values the most frequent ones, and how often they occur.
        dialect: What was decided of the file as a whole.
        columns: How each column was read.
        sample: Of a check the first rows as they were understood.
        checked: Whether nothing was loaded because only a check was asked for.
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
) -> LoadReport:
    """Loads a file. Loading it again adds no event, and no row to the quarantine.

    Args:
        spark: The session.
        settings: Where the lake is.
        source: The contract.
        path: CSV, JSON or Parquet.
        mapping: Contract column → column of the file.
        options: What the file does not say of itself.

    Raises:
        InputError: The file or the mapping cannot be used; nothing was loaded.
    """
    with open_events(path, source, mapping, options) as file:
        return load_file(spark, settings, source, file)


def load_file(spark: SparkSession, settings: Settings, source: EventSource, file: EventFile, check: bool = False) -> LoadReport:
    """Loads a file that is open, or only says what would be loaded."""
    scratch = settings.home / "scratch" / uuid.uuid4().hex
    scratch.mkdir(parents=True)
    days: tuple[date, ...] = ()
    loaded = 0
    try:
        raw_path, judged_path = scratch / "rows.parquet", scratch / "judged.parquet"
        read = file.write_parquet(raw_path)
        if not read:
            return LoadReport(0, 0, 0, 0, {}, None, None, dialect=file.dialect, columns=file.readings, checked=check)
        now_ms = int(time.time() * 1_000)
        # Judged once, for all that is asked of the rows below.
        _judged(spark.read.parquet(str(raw_path)), settings, source, file, now_ms).write.parquet(str(judged_path))
        judged = spark.read.parquet(str(judged_path))
        misfits, fitting = judged.where("_reason IS NOT NULL"), judged.where("_reason IS NULL")
        # A reason quotes the value; its clause before the value is what can be counted.
        counted = misfits.groupBy(F.expr("split_part(_reason, ': ', 1)").alias("reason")).count().collect()
        reasons = {row["reason"]: row["count"] for row in sorted(counted, key=lambda row: -row["count"])}
        quarantined = sum(reasons.values())
        first_ms, last_ms, types = _profile(fitting, source)
        sample: list[dict[str, Any]] = []
        if check:
            loaded = read - quarantined
            # As texts: Python has no year 0.
            texts = [f"CAST({name} AS STRING) AS {name}" for name in (f"`{column.name}`" for column in source.columns)]
            shown = judged.orderBy("_row").limit(_SAMPLE_ROWS).selectExpr("_row", *texts, "_reason")
            sample = [row.asDict() for row in shown.collect()]
        else:
            if quarantined:
                kept = misfits.select(
                    F.lit(str(file.path)).alias("file"), F.col("_row").alias("row"), F.col("_reason").alias("reason"),
                    F.col("_content").alias("content"), F.current_timestamp().alias("loaded_at"),
                )  # fmt: skip
                retry_conflicts(lambda: _quarantine(spark, settings.table(QUARANTINE), kept))
            good = fitting.drop("_reason", "_content").selectExpr(
                "* EXCEPT (_row)", f"{now_ms}L AS arrival_ms", "'load' AS origin", "CAST(NULL AS INT) AS kafka_partition",
                "CAST(NULL AS BIGINT) AS kafka_offset", "_row AS _order",
            )  # fmt: skip
            loaded, days = append_events(spark, settings, source, good)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if days:
        remember_first_day(settings, days[0])
    return LoadReport(
        read, loaded, read - quarantined - loaded, quarantined, reasons, days[0] if loaded and days else None,
        days[-1] if loaded and days else None, first_ms, last_ms, types, file.dialect, file.readings, sample, check,
    )  # fmt: skip


def _judged(rows: DataFrame, settings: Settings, source: EventSource, file: EventFile, now_ms: int) -> DataFrame:
    """`_row`, the typed columns, `ts_ms`, `_reason`, and `_content`: the row as it was, where it does not fit."""
    keep, future_ms = ["_row", "_content"], settings.future_seconds * 1_000
    if file.has_messages:
        rows = rows.selectExpr("_row", f"{MESSAGE} AS value", f"make_valid_utf8(CAST({MESSAGE} AS STRING)) AS _content")
        projections = message_projections(source, dict(zip(keep, keep, strict=True)), str(now_ms), future_ms)
    else:
        columns = F.struct(*(column.name for column in source.columns))
        rows = rows.withColumn("_content", F.coalesce("_line", F.to_json(columns)))
        projections = row_projections(source, keep, str(now_ms), future_ms)
    for projection in projections:
        rows = rows.selectExpr(*projection)
    return rows.withColumn("_content", F.expr("CASE WHEN _reason IS NOT NULL THEN _content END"))


def _profile(fitting: DataFrame, source: EventSource) -> tuple[str | None, str | None, dict[str, dict[str, int]]]:
    """The first and last time, and the most frequent values of each required text column that has few."""
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
    return _rfc3339(summary["first"]), _rfc3339(summary["last"]), types


def _rfc3339(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quarantine(spark: SparkSession, path: str, rows: DataFrame) -> None:
    """Adds the rows that are not there."""
    create_table(spark, path, rows.schema)
    # Not by reason, in which an event from the future says by how much, which is less each time.
    same = "t.file = s.file AND t.row = s.row AND t.content = s.content"
    DeltaTable.forPath(spark, path).alias("t").merge(rows.alias("s"), same).whenNotMatchedInsertAll().execute()


def remember_first_day(settings: Settings, day: date) -> None:
    """Keeps the earliest day that was seen: where Dagster's daily partitions begin."""
    path = settings.home / "first_day.json"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two loads at once: the earlier day of both
        known = date.fromisoformat(json.loads(path.read_text())) if path.exists() else day
        part = path.with_suffix(".part")
        part.write_text(json.dumps(min(known, day).isoformat()))
        part.replace(path)
