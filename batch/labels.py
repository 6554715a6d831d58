"""Writes the owner's own labels of a model to the table `labels_{model}`. Of a label that is loaded again, the last value stays.

A label is a verdict, and verdicts are corrected: a chargeback is withdrawn, a reviewer changes their mind. So a row replaces an earlier row of the
same id, whereas of the copies of an event the first stays. In a file without ids, the id of a row is derived from its keys, its time and its request
columns, and from its number among the rows of the file that are equal in these.
"""

from __future__ import annotations

from datetime import date

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from batch.events import TABLE_PROPERTIES, table_columns, with_day
from batch.tables import create_table, retry_conflicts
from features.sources import EventSource
from infra.settings import Settings

#: The column of the label, in the file and in the table.
LABEL = "label"


def put_labels(spark: SparkSession, settings: Settings, labels: EventSource, rows: DataFrame) -> tuple[int, tuple[date, ...]]:
    """Adds or replaces rows by their ids.

    Args:
        spark: The session.
        settings: The settings, with the place of the lake.
        labels: The contract of the labels (`Model.labels`).
        rows: The columns that `batch.events.append_events` needs.

    Returns:
        The number of rows that are new or differ, and the days (UTC) of all rows.
    """
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
