"""`braid load`: anyone's file into the `events` table. What does not fit goes to `quarantine` with the reason; nothing is lost."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.events import append_events
from batch.files import open_events
from batch.tables import create_table, retry_conflicts
from features.sources import EventSource
from infra.settings import Settings

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's rows: read = loaded + duplicates + quarantined.

    `reasons` counts the quarantined rows by reason; `first_day` and `last_day` are those of the rows that fit, where any is new.
    """

    read: int
    loaded: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    first_day: date | None
    last_day: date | None


def load_events(
    spark: SparkSession,
    settings: Settings,
    source: EventSource,
    path: Path,
    mapping: Mapping[str, str] | None = None,
    time_zone: str = "UTC",
) -> LoadReport:
    """Loads a file. Loading it again adds no event, and no row to the quarantine.

    Args:
        spark: The session.
        settings: Where the lake is.
        source: The contract.
        path: CSV, JSON lines or Parquet.
        mapping: Contract column → column of the file.
        time_zone: Of times without an offset.

    Raises:
        InputError: The file or the mapping cannot be used; nothing was loaded.
    """
    scratch = settings.home / "scratch" / uuid.uuid4().hex
    scratch.mkdir(parents=True)
    try:
        raw_path = scratch / "rows.parquet"
        with open_events(path, source, mapping, time_zone) as file:
            read = file.write_parquet(raw_path)
        if not read:
            return LoadReport(0, 0, 0, 0, {}, None, None)
        now_ms = int(time.time() * 1_000)
        reason = f"CASE WHEN _line IS NOT NULL THEN 'the line is not a JSON object' ELSE {source.reason_sql(str(now_ms), settings.future_seconds * 1_000)} END"
        judged = spark.read.parquet(str(raw_path)).withColumn("_reason", F.expr(reason))
        misfits = judged.where("_reason IS NOT NULL")
        # A reason quotes the value; its clause before the value is what can be counted.
        counted = misfits.groupBy(F.expr("split_part(_reason, ': ', 1)").alias("reason")).count().collect()
        reasons = {row["reason"]: row["count"] for row in sorted(counted, key=lambda row: -row["count"])}
        quarantined = sum(reasons.values())
        if quarantined:
            columns = F.struct(*(column.name for column in source.columns))
            kept = misfits.select(
                F.lit(str(path)).alias("file"), F.col("_row").alias("row"), F.col("_reason").alias("reason"),
                F.coalesce("_line", F.to_json(columns)).alias("content"), F.current_timestamp().alias("loaded_at"),
            )  # fmt: skip
            retry_conflicts(lambda: _quarantine(spark, settings.table(QUARANTINE), kept))
        good = judged.where("_reason IS NULL").selectExpr(
            *source.typed_select_sql(), f"{now_ms}L AS arrival_ms", "'load' AS origin", "CAST(NULL AS INT) AS kafka_partition",
            "CAST(NULL AS BIGINT) AS kafka_offset", "_row AS _order",
        )  # fmt: skip
        loaded, days = append_events(spark, settings, source, good)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if days:
        remember_first_day(settings, days[0])
    return LoadReport(
        read, loaded, read - quarantined - loaded, quarantined, reasons, days[0] if loaded else None, days[-1] if loaded else None
    )


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
