"""What was known when: the arrivals of an entity's events, and the making of views. Reads `events` and the history of the view."""

from __future__ import annotations

from collections.abc import Sequence

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from batch.view import view_table
from features.declaration import FeatureGroup
from features.windows import HOUR_MS
from infra.settings import Settings

#: How long a batch may take from its reading of the archive to its view.
BATCH_MS = HOUR_MS


def arrivals_of(spark: SparkSession, settings: Settings, group: FeatureGroup, entities: DataFrame, live_from_ms: int) -> DataFrame:
    """The events of the entities: entity, ts_ms, arrival_ms, behind_ms, streamed, and the group's inputs.

    `behind_ms` is exact for events from `live_from_ms` on; what is older is the batch's.
    """
    events = spark.read.format("delta").load(settings.table(group.source.table))
    live = events.where(
        (F.col("origin") == "stream")
        & (F.col("ts_ms") >= live_from_ms)
        & (F.col("day") >= F.to_date(F.timestamp_millis(F.lit(live_from_ms))))
    )
    # The newest event before each arrival, by seconds first: one window over all events would be one task's.
    past = Window.rowsBetween(Window.unboundedPreceding, -1)
    arrived = live.groupBy("arrival_ms", F.expr("arrival_ms DIV 1000").alias("second")).agg(F.max("ts_ms").alias("newest_ms"))
    seconds = arrived.groupBy("second").agg(F.max("newest_ms").alias("newest_ms"))
    seconds = seconds.select("second", F.max("newest_ms").over(past.orderBy("second")).alias("before_ms"))
    within = F.max("newest_ms").over(past.partitionBy("second").orderBy("arrival_ms"))
    newest = arrived.withColumn("within_ms", within).join(seconds, "second")
    newest = newest.select("arrival_ms", F.greatest("within_ms", "before_ms").alias("newest_ms"))
    inputs = [f"CAST({one.sql} AS {one.sql_type}) AS input_{index}" for index, one in enumerate(group.inputs)]
    behind = f"coalesce(newest_ms - (ts_ms - pmod(ts_ms, {group.tile_ms}) + {group.tile_ms}), 0) AS behind_ms"
    mine = events.join(F.broadcast(entities), events[group.entity] == entities["entity"], "left_semi").join(
        newest, "arrival_ms", "left"
    )
    return mine.selectExpr(f"`{group.entity}` AS entity", "ts_ms", "arrival_ms", behind, "origin = 'stream' AS streamed", *inputs)


def views_made(spark: SparkSession, settings: Settings, group: FeatureGroup, since_end_ms: int) -> dict[int, list[int]]:
    """By batch_end, when the views were made that end at `since_end_ms` or later; from the history of the view's table."""
    path, found = settings.table(view_table(group)), dict[int, list[int]]()
    if not DeltaTable.isDeltaTable(spark, path):
        return found
    for commit in DeltaTable.forPath(spark, path).history().select("version", F.unix_millis("timestamp").alias("at_ms")).collect():
        try:
            view = spark.read.format("delta").option("versionAsOf", commit["version"]).load(path).select("batch_end_ms").first()
        except (PySparkException, Py4JJavaError):
            break  # a vacuum has taken it, and what is older
        if view is not None and view["batch_end_ms"] < since_end_ms:
            break
        if view is not None:
            found.setdefault(view["batch_end_ms"], []).append(commit["at_ms"])
    return found


def made_between(made_ms: Sequence[int], served_at_ms: int) -> tuple[int, int]:
    """Between which instants an answer's view was made; where its history is gone, at any time before the answer."""
    made = [one for one in made_ms if one <= served_at_ms]
    return (min(made) - BATCH_MS, max(made)) if made else (0, served_at_ms)
