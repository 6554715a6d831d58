"""A training set of many labels: braid's point-in-time join compared with hand-written SQL in Spark and in DuckDB.

    python -m benchmarks.training_set [--labels 1000000] [--runs 3] [--json]

The labels are distinct (user, instant) pairs over the demo's year of purchases. The peers run the SQL that an engineer would write by
hand: labels and events are joined by user and by one time range as long as the longest window, and each window is an aggregate under
a condition, grouped by label. Since `days_since_last` has no window, the range has no beginning. Spark uses its own adaptive plan;
DuckDB uses as many threads as Spark has cores. All three read the same Delta files and write Parquet. A sample of the results is
compared cell by cell.

The runs alternate. CPU time of the process and its children is reported beside wall-clock time, because CPU time depends less on other load of the
machine.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import duckdb
import typer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from batch.load import load_events
from batch.point_in_time import point_in_time
from benchmarks._cpu import cpu_seconds
from benchmarks._home import temporary_home
from examples.shop.definitions import user_events, user_features
from examples.shop.journey import write_journey
from features.declaration import FeatureGroup
from features.instants import now_ms
from features.windows import DAY_MS
from infra.settings import Settings
from infra.spark import spark_session
from orchestration.proof import UNIT_MS

#: The number of labels whose cells are compared.
_SAMPLE = 20_000


def main(
    labels: Annotated[int, typer.Option(help="Labels in the training set.")] = 1_000_000,
    runs: Annotated[int, typer.Option(help="Runs of each.")] = 3,
    memory: Annotated[str, typer.Option(help="Heap of Spark.")] = "3g",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares braid with a range join in Spark and in DuckDB."""
    with temporary_home() as settings:
        spark = spark_session(settings, "braid benchmark", memory)
        try:
            result = compare(spark, settings, labels, runs)
        finally:
            spark.stop()
    print(json.dumps(result) if as_json else _sentence(result))


def compare(spark: SparkSession, settings: Settings, labels: int, runs: int) -> dict[str, object]:
    """Returns the median seconds of alternating runs of braid, Spark and DuckDB, and the number of cells of their results that differ."""
    journey = write_journey(settings.home / "journey", now_ms())
    for path in (journey.history, journey.live):
        load_events(spark, settings, user_events, path)
    points = str(settings.home / "labels.parquet")
    write_labels(spark, settings, labels, points)
    contenders: dict[str, Callable[[str], None]] = {
        "braid": lambda target: braid(spark, settings, points, target),
        "spark": lambda target: spark_join(spark, settings, points, target),
        "duckdb": lambda target: duckdb_join(spark, settings, points, target),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for run in range(runs):
        for name, contend in contenders.items():
            target = str(settings.home / f"{name}.parquet")
            shutil.rmtree(target, ignore_errors=True)
            Path(target).unlink(missing_ok=True)
            began, before = time.monotonic(), cpu_seconds()
            contend(target)
            seconds[name].append((time.monotonic() - began, cpu_seconds() - before))
            wall_seconds, used_seconds = seconds[name][-1]
            print(f"run {run + 1}: {name} {wall_seconds:.1f} s, {used_seconds:.1f} CPU seconds", file=sys.stderr, flush=True)
    differing, cells = differences(settings, ["spark", "duckdb"])
    wall = {name: statistics.median(wall_seconds for wall_seconds, _ in pairs) for name, pairs in seconds.items()}
    cpu = {name: statistics.median(used_seconds for _, used_seconds in pairs) for name, pairs in seconds.items()}
    return {
        "labels": labels,
        "events": journey.history_events + journey.live_events,
        "cells_compared": cells,
        "cells_different": differing,
        "seconds": {name: round(median, 1) for name, median in wall.items()},
        "cpu_seconds": {name: round(median, 1) for name, median in cpu.items()},
        "times_faster_than_spark": round(wall["spark"] / wall["braid"], 1),
        "times_faster_than_duckdb": round(wall["duckdb"] / wall["braid"], 2),
        "cpu_times_less_than_spark": round(cpu["spark"] / cpu["braid"], 1),
    }


def write_labels(spark: SparkSession, settings: Settings, labels: int, target: str) -> None:
    """Writes distinct pairs (entity, q_ms): about half anywhere in the year after its first 30 days, the rest within the hour after an event."""
    events = spark.read.format("delta").load(settings.table(user_events.table)).select(F.col("user_id").alias("entity"), "ts_ms")
    begin_ms, end_ms = events.agg(F.min("ts_ms"), F.max("ts_ms")).first() or (0, 0)
    share = labels * 1.02 / events.count()
    copies = events.withColumn("n", F.explode(F.sequence(F.lit(1), F.lit(int(share) + 1)))).sample(share / (int(share) + 1), seed=1)
    anywhere = F.expr(f"{begin_ms + 30 * DAY_MS} + CAST(rand(2) * {end_ms - begin_ms - 30 * DAY_MS} AS BIGINT)")
    soon = F.expr("ts_ms + 1 + CAST(rand(3) * 3600000 AS BIGINT)")
    rows = copies.select("entity", F.when(F.rand(4) < 0.5, anywhere).otherwise(soon).alias("q_ms")).distinct().limit(labels)
    rows.write.parquet(target)


def braid(spark: SparkSession, settings: Settings, labels: str, target: str) -> None:
    """Runs the product's point-in-time join."""
    point_in_time(spark, settings, user_features, spark.read.parquet(labels)).write.parquet(target)


def spark_join(spark: SparkSession, settings: Settings, labels: str, target: str) -> None:
    """Runs the hand-written SQL in Spark."""
    spark.read.format("delta").load(settings.table(user_events.table)).createOrReplaceTempView("e")
    spark.read.parquet(labels).createOrReplaceTempView("l")
    spark.sql(range_join_sql(user_features, "div")).write.parquet(target)


def duckdb_join(spark: SparkSession, settings: Settings, labels: str, target: str) -> None:
    """Runs the hand-written SQL in DuckDB, over the same files."""
    files = [path.removeprefix("file:") for path in spark.read.format("delta").load(settings.table(user_events.table)).inputFiles()]
    with duckdb.connect(config={"threads": spark.sparkContext.defaultParallelism}) as connection:
        connection.execute(f"CREATE VIEW e AS SELECT * FROM read_parquet({files})")
        connection.execute(f"CREATE VIEW l AS SELECT * FROM read_parquet('{labels}/*.parquet')")
        connection.execute(f"COPY ({range_join_sql(user_features, '//')}) TO '{target}' (FORMAT parquet)")


def range_join_sql(group: FeatureGroup, div: str) -> str:
    """Returns the hand-written SQL: the features of the labels `l` (entity, q_ms) from the events `e`.

    Args:
        group: The declaration of the group.
        div: The operator of integer division: "div" in Spark, "//" in DuckDB.
    """
    selected = []
    for feature in group.features:
        conditions = [feature.where] if feature.where else []
        if feature.window:
            conditions.append(f"ts_ms >= (q_ms - {feature.window.size_ms}) {div} {feature.window.hop_ms} * {feature.window.hop_ms}")
        condition = f"FILTER (WHERE {' AND '.join(['ts_ms IS NOT NULL', *conditions])})"
        value = {
            "count": f"count(*) {condition}",
            "sum": f"coalesce(CAST(sum({feature.of}) {condition} AS DOUBLE), 0)",
            "mean": f"CAST(sum({feature.of}) {condition} AS DOUBLE) / nullif(count({feature.of}) {condition}, 0)",
            "distinct": f"count(DISTINCT {feature.of}) {condition}",
            "since_last": f"(q_ms - max(ts_ms) {condition}) / CAST({UNIT_MS.get(getattr(feature.aggregation, 'unit', ''), 1)} AS DOUBLE)",
        }[feature.aggregation.kind]
        selected.append(f"{value} AS {feature.name}")
    # If a feature has no window, the range has no beginning.
    sizes = [feature.window and feature.window.size_ms + feature.window.hop_ms for feature in group.features]
    begin = "" if None in sizes else f" AND ts_ms >= q_ms - {max(size for size in sizes if size)}"
    return f"SELECT entity, q_ms, {', '.join(selected)} FROM l LEFT JOIN e ON entity = {group.entity} AND ts_ms < q_ms{begin} GROUP BY entity, q_ms"


def differences(settings: Settings, peers: list[str]) -> tuple[int, int]:
    """Compares a sample of labels. Returns the number of the peers' cells that differ from braid's, and the number of cells compared."""
    different = cells = 0
    names = user_features.feature_names
    with duckdb.connect() as connection:
        mine = f"(SELECT * FROM '{settings.home}/braid.parquet/*.parquet' ORDER BY hash(entity, q_ms) LIMIT {_SAMPLE})"
        for peer in peers:
            files = f"{settings.home}/{peer}.parquet" + ("/*.parquet" if peer == "spark" else "")
            unequal = " + ".join(
                f"CAST(m.{name} IS DISTINCT FROM p.{name} AND NOT coalesce(abs(m.{name} - p.{name}) <= 1e-9 * abs(p.{name}), false) AS INT)"
                for name in names
            )
            counts = connection.execute(
                f"SELECT coalesce(sum({unequal}), 0), count(*) FROM {mine} m LEFT JOIN '{files}' p USING (entity, q_ms)"
            ).fetchone()
            assert counts is not None
            different, cells = different + int(counts[0]), cells + counts[1] * len(names)
    return different, cells


def _sentence(result: dict[str, object]) -> str:
    return (
        f"{result['labels']:,} labels: {result['seconds']} seconds; braid is {result['times_faster_than_spark']} times as fast as Spark's "
        f"range join, {result['times_faster_than_duckdb']} times as fast as DuckDB's; {result['cells_different']} of "
        f"{result['cells_compared']:,} cells differ (medians)."
    )


if __name__ == "__main__":
    typer.run(main)
