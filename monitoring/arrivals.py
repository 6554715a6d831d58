"""When events arrived and when views were built. `monitoring.attribution` explains answers by these times.

Reads the source's events table and the Delta history of the group's view.
"""

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

#: The longest time that a batch may take from reading the archive to writing the view.
BATCH_MS = HOUR_MS


def arrivals_of(spark: SparkSession, settings: Settings, group: FeatureGroup, entities: DataFrame, live_from_ms: int) -> DataFrame:
    """Returns the events of some entities with their arrival times.

    `behind_ms` is exact for each streamed event that lies at `live_from_ms` or later, or that arrived after another one that does. It may be too small for
    the others, which had arrived before the batch of that time read the archive.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        group: The declaration of the group.
        entities: A column `entity`.
        live_from_ms: The earliest batch_end of the answers to explain; 0 if one of them has no batch_end.

    Returns:
        Columns entity, ts_ms, arrival_ms, behind_ms, streamed, which `monitoring.attribution.Arrivals` describes, and the group's inputs as
        `input_{index}`.
    """
    events = spark.read.format("delta").load(settings.table(group.source.table))
    live = events.where(
        (F.col("origin") == "stream")
        & (F.col("ts_ms") >= live_from_ms)
        & (F.col("day") >= F.to_date(F.timestamp_millis(F.lit(live_from_ms))))
    )
    wanted = F.broadcast(entities.select(F.col("entity").alias("_entity")))
    of_entities = events.join(wanted, F.expr(f"{group.entity_sql} = _entity"), "left_semi")
    own = of_entities.where(F.col("origin") == "stream")
    arrivals = live.select("arrival_ms", "ts_ms").unionByName(own.select("arrival_ms", "ts_ms"))
    # The newest event before each arrival is computed first per second, then within the second. A single window would put all events in one task.
    past = Window.rowsBetween(Window.unboundedPreceding, -1)
    arrived = arrivals.groupBy("arrival_ms", F.expr("arrival_ms DIV 1000").alias("second")).agg(F.max("ts_ms").alias("newest_ms"))
    seconds = arrived.groupBy("second").agg(F.max("newest_ms").alias("newest_ms"))
    seconds = seconds.select("second", F.max("newest_ms").over(past.orderBy("second")).alias("before_ms"))
    within = F.max("newest_ms").over(past.partitionBy("second").orderBy("arrival_ms"))
    newest = arrived.withColumn("within_ms", within).join(seconds, "second")
    newest = newest.select("arrival_ms", F.greatest("within_ms", "before_ms").alias("newest_ms"))
    inputs = [f"CAST({column.sql} AS {column.sql_type}) AS input_{index}" for index, column in enumerate(group.inputs)]
    rows = of_entities.join(newest, "arrival_ms", "left")
    behind = "coalesce(newest_ms - ts_ms, 0) AS behind_ms"
    return rows.selectExpr(f"{group.entity_sql} AS entity", "ts_ms", "arrival_ms", behind, "origin = 'stream' AS streamed", *inputs)


def views_made(spark: SparkSession, settings: Settings, group: FeatureGroup, since_end_ms: int) -> dict[int, list[int]]:
    """Returns batch_end → the times at which a view with that batch_end was built, for each batch_end of at least `since_end_ms`."""
    path, made_ms = settings.table(view_table(group)), dict[int, list[int]]()
    if not DeltaTable.isDeltaTable(spark, path):
        return made_ms
    for commit in DeltaTable.forPath(spark, path).history().select("version", F.unix_millis("timestamp").alias("at_ms")).collect():
        try:
            view = spark.read.format("delta").option("versionAsOf", commit["version"]).load(path).select("batch_end_ms").first()
        except (PySparkException, Py4JJavaError):
            break  # a vacuum has deleted the files of this version and of all older versions
        if view is not None and view["batch_end_ms"] < since_end_ms:
            break
        if view is not None:
            made_ms.setdefault(view["batch_end_ms"], []).append(commit["at_ms"])
    return made_ms


def made_between(made_ms: Sequence[int], served_at_ms: int) -> tuple[int, int]:
    """Returns two instants between which the view of an answer was built; 0 and the time of the answer if no view is known.

    Args:
        made_ms: The times at which views with the answer's batch_end were built.
        served_at_ms: The time of the answer.
    """
    before_ms = [instant_ms for instant_ms in made_ms if instant_ms <= served_at_ms]
    return (min(before_ms) - BATCH_MS, max(before_ms)) if before_ms else (0, served_at_ms)
