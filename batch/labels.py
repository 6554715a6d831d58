"""Loads the owner's own labels of a model into the table `labels_{model}`. Of a label that is loaded again, the last value stays.

A label is a verdict, and verdicts are corrected: a chargeback is withdrawn, a reviewer changes their mind. So a row replaces an earlier row of the
same id, whereas of the copies of an event the first stays. In a file without ids, the id of a row is derived from its keys, its time and its request
columns, and from its number among the rows of the file that are equal in these.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from batch.events import TABLE_PROPERTIES, table_columns, with_day
from batch.files import ReadOptions, open_events
from batch.load import LoadReport, load_file
from batch.tables import create_table, retry_conflicts
from features.sources import EventSource
from infra.settings import Settings

#: The column of the label, in the file and in the table.
LABEL = "label"


def load_labels(
    spark: SparkSession,
    settings: Settings,
    labels: EventSource,
    path: Path,
    mapping: Mapping[str, str] | None = None,
    options: ReadOptions | None = None,
) -> LoadReport:
    """Loads a file of labels. A second load of the file changes nothing; another label for a row that was loaded before replaces the earlier one.

    Args:
        spark: The session.
        settings: The settings, with the place of the lake.
        labels: The contract of the labels (`Model.labels`).
        path: CSV, JSON or Parquet.
        mapping: Contract column → column of the file, or a literal in single quotes.
        options: The options for a file that can be read in several ways.

    Raises:
        InputError: The file or the mapping cannot be used; nothing was loaded.
    """
    with open_events(path, labels, mapping, options, correctable=LABEL) as file:
        return load_file(spark, settings, labels, file, add=_put)


def _put(spark: SparkSession, settings: Settings, labels: EventSource, rows: DataFrame) -> tuple[int, tuple[date, ...]]:
    """Adds or replaces rows by their ids. Returns the number of rows that are new or differ, and the days of all."""
    path, key = settings.table(labels.table), labels.event_id
    rank = F.row_number().over(Window.partitionBy(key).orderBy(F.desc("_order")))
    last = with_day(rows).withColumn("_rank", rank).where("_rank = 1").select(table_columns(labels))
    differs = " OR ".join(f"NOT t.`{column.name}` <=> s.`{column.name}`" for column in labels.columns)

    def merge() -> int:
        create_table(spark, path, last.schema, ["day"], TABLE_PROPERTIES)
        target = DeltaTable.forPath(spark, path).alias("t").merge(last.alias("s"), f"t.`{key}` = s.`{key}`")
        done = target.whenMatchedUpdateAll(condition=differs).whenNotMatchedInsertAll().execute().first()
        return int(done["num_affected_rows"]) if done else 0

    days = sorted(row["day"] for row in last.select("day").distinct().collect())
    return retry_conflicts(merge), tuple(days)
