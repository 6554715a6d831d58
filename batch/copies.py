"""Decides which of the copies of an event count, among new rows and against the table of events: the rule of `features.arrival`, in Spark.

Events of one id are copies if their days (UTC) lie at most `span` days apart. In the order of arrival, an event counts unless it is a copy of an
earlier event that counts. The table may hold a copy that arrived later than a new row, because a partition was archived late or a file was loaded
first. The new row then replaces that copy.
"""

from __future__ import annotations

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from batch.tables import retry_conflicts
from features.arrival import ARRIVAL_ORDER

#: The columns of `ARRIVAL_ORDER` in new rows, whose `_order` is the offset or the number of the row in a file; and in the table.
_NEW = {"arrival_ms": "arrival_ms", "partition": "kafka_partition", "offset": "_order"}
_STORED = {"arrival_ms": "arrival_ms", "partition": "kafka_partition", "offset": "kafka_offset"}


def first_copies(rows: DataFrame, key: str, span: int) -> DataFrame:
    """Returns the rows that count, compared with each other only.

    Args:
        rows: `key`, `day`, and the columns of the order of arrival.
        key: The column of the event's id.
        span: The largest number of days between two copies.
    """
    by_key = Window.partitionBy(key)
    arrival = [F.col(_NEW[name]) for name in ARRIVAL_ORDER]
    spread = F.datediff(F.max("day").over(by_key), F.min("day").over(by_key))
    ranked = rows.withColumn("_rank", F.row_number().over(by_key.orderBy(*arrival))).withColumn("_wide", spread > span)
    # Lists are collected only for ids with events more than `span` days apart, which are rare. Of any other id the first event to arrive counts.
    place = F.when(F.col("_wide"), F.struct("_rank", "day"))
    counting = F.aggregate(
        F.array_sort(F.collect_list(place).over(by_key)),
        F.array().cast("array<struct<_rank: int, day: date>>"),
        lambda first, place: F.when(
            F.exists(first, lambda earlier: F.abs(F.datediff(earlier["day"], place["day"])) <= span), first
        ).otherwise(F.concat(first, F.array(place))),
    )
    ranks = F.transform(counting, lambda place: place["_rank"])
    counts = F.when(F.col("_wide"), F.array_contains(ranks, F.col("_rank"))).otherwise(F.col("_rank") == 1)
    return ranked.withColumn("_counts", counts).where("_counts").drop("_rank", "_wide", "_counts")


def replace_later_copies(spark: SparkSession, path: str, rows: DataFrame, key: str, same: str, since_ms: int) -> int:
    """Replaces copies in the table that arrived later than a new row by this new row. Returns the number of the new rows that replaced a copy.

    Args:
        spark: The session.
        path: The path of the table.
        rows: The new rows, with the columns of the table. Of each id only the first row to arrive is considered.
        key: The column of the event's id.
        same: A SQL condition that is true if `t`, a row of the table, and `s`, a new row, are copies.
        since_ms: The arrival of the first new row, in ms since 1970.
    """
    # Delta's statistics skip the files with earlier arrivals. If nothing is out of order, these are all files.
    table = spark.read.format("delta").load(path).alias("t").where(f"arrival_ms >= {since_ms}")
    if table.isEmpty():
        return 0
    first = rows.withColumn("_rank", F.row_number().over(Window.partitionBy(key).orderBy(*map(_stored, ARRIVAL_ORDER))))
    new = first.where("_rank = 1").drop("_rank").alias("s")
    earlier = F.struct(*(_stored(name, "s") for name in ARRIVAL_ORDER)) < F.struct(*(_stored(name, "t") for name in ARRIVAL_ORDER))
    ahead = new.join(table, F.expr(same) & earlier, "left_semi")
    if ahead.isEmpty():
        return 0
    # A new row replaces nothing if the table also has a copy that arrived before the new row.
    ahead = ahead.alias("s").join(spark.read.format("delta").load(path).alias("t"), F.expr(same) & ~earlier, "left_anti").persist()
    try:
        # One commit does both: each new row occurs once with a key, which deletes the copies, and once without a key, which is inserted.
        twice = ahead.withColumn("_key", F.col(key)).unionByName(
            ahead.withColumn("_key", F.lit(None).cast(ahead.schema[key].dataType))
        )
        matching = same.replace(f"s.`{key}`", "s._key")
        values = {f"`{name}`": f"s.`{name}`" for name in ahead.columns}

        def merge() -> None:
            target = DeltaTable.forPath(spark, path).alias("t").merge(twice.alias("s"), matching)
            target.whenMatchedDelete().whenNotMatchedInsert(condition="s._key IS NULL", values=values).execute()  # type: ignore[arg-type]

        retry_conflicts(merge)
        return ahead.count()
    finally:
        ahead.unpersist()


def _stored(name: str, alias: str = "") -> Column:
    """Returns a column of the order of arrival from a row of the table. A row from a file has no partition and no offset; -1 puts it first."""
    return F.coalesce(F.col(f"{alias}.{_STORED[name]}" if alias else _STORED[name]), F.lit(-1))
