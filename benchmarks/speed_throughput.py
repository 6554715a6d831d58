"""The speed layer beside the seed's sliding window: events per second of one and the other, from one topic on one machine.

    python -m benchmarks.speed_throughput [--events 1000000] [--runs 3] [--json]

The peer is the query that the seed shows: windows of 1 hour every 5 minutes with a count, a conditional sum and a distinct count
(approx_count_distinct, since Spark refuses countDistinct in a stream), state in RocksDB. It writes to a sink that takes nothing.
braid's query is the real one of `speed.online`, deduplicating, with a month's worth of features, and writes to Valkey. Runs
alternate in one warm session; each has a checkpoint and, for braid, a store of its own. Services live in a home that is deleted.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming import DataStreamWriter

from features.definitions import user_events, user_features
from infra import services
from infra.redis import store
from infra.settings import Settings
from speed.online import online_writer
from speed.session import SQL_PROPERTIES, speed_session

PARTITIONS = 4
_SEED_SCHEMA = "event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DOUBLE, event_timestamp TIMESTAMP"


def main(
    events: Annotated[int, typer.Option(help="Events in the topic.")] = 1_000_000,
    users: Annotated[int, typer.Option(help="Different users.")] = 100_000,
    minutes: Annotated[int, typer.Option(help="Event time that they span.")] = 60,
    runs: Annotated[int, typer.Option(help="Runs of each query.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares the throughput of the seed's query and braid's."""
    home = Path(tempfile.mkdtemp(prefix="braid-bench-"))
    settings = Settings.load(home).model_copy(update={"speed_memory": "2g"})
    try:
        services.up(settings, {user_events.topic: PARTITIONS}, only={"kafka", "valkey"})
        result = compare(settings, events, users, minutes, runs)
    finally:
        services.down(settings)
        shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(result) if as_json else _sentence(result))


def compare(settings: Settings, events: int, users: int, minutes: int, runs: int) -> dict[str, object]:
    """Alternating runs of both; rates in events per second."""
    spark = speed_session(settings)
    defaults = {name: None for name in SQL_PROPERTIES}
    contenders: dict[str, tuple[Callable[[], DataStreamWriter], dict[str, str | None]]] = {
        "seed": (lambda: seed_writer(spark, settings), {**defaults, "spark.sql.shuffle.partitions": SQL_PROPERTIES["spark.sql.shuffle.partitions"]}),
        "braid": (lambda: online_writer(spark, settings, user_features), dict(SQL_PROPERTIES)),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for run, n in enumerate([max(1, events // 10), *[events] * runs]):
            if run < 2:
                produce(spark, settings, n, users, minutes)
            for name, (writer, conf) in contenders.items():
                store(settings).flushdb()
                rate = measure(spark, writer(), conf)
                if run:
                    rates[name].append(rate)
                    print(f"run {run}: {name} {rate:,.0f} events/s", file=sys.stderr, flush=True)
    finally:
        spark.stop()
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "events": events, "users": users, "minutes": minutes, "runs": {name: [round(rate) for rate in found] for name, found in rates.items()},
        "seed_events_per_second": round(medians["seed"]), "braid_events_per_second": round(medians["braid"]),
        "ratio": round(medians["braid"] / medians["seed"], 2),
    }  # fmt: skip


def measure(spark: SparkSession, writer: DataStreamWriter, conf: dict[str, str | None]) -> float:
    """Events per second of a query over all that is in the topic."""
    for name, value in conf.items():
        if value is None:
            spark.conf.unset(name)
        else:
            spark.conf.set(name, value)
    with tempfile.TemporaryDirectory() as checkpoint:
        began = time.monotonic()
        query = writer.option("checkpointLocation", checkpoint).trigger(availableNow=True).start()
        query.awaitTermination()
        seconds = time.monotonic() - began
        return sum(progress.numInputRows for progress in query.recentProgress) / seconds


def seed_writer(spark: SparkSession, settings: Settings) -> DataStreamWriter:
    """The seed's streaming query."""
    stream = spark.readStream.format("kafka").options(**{
        "kafka.bootstrap.servers": settings.kafka_bootstrap, "subscribe": user_events.topic, "startingOffsets": "earliest",
    }).load()  # fmt: skip
    events = stream.select(F.from_json(F.col("value").cast("string"), _SEED_SCHEMA).alias("data")).select("data.*")
    features = (
        events.withWatermark("event_timestamp", "10 minutes")
        .groupBy(F.col("user_id"), F.window("event_timestamp", "1 hour", "5 minutes"))
        .agg(
            F.count("*").alias("events_last_hour"),
            F.sum(F.when(F.col("event_type") == "PURCHASE", F.col("amount")).otherwise(0)).alias("spend_last_hour"),
            F.approx_count_distinct("session_id").alias("sessions_last_hour"),
        )
    )
    return features.writeStream.format("noop").outputMode("update")


def produce(spark: SparkSession, settings: Settings, events: int, users: int, minutes: int) -> None:
    """Adds events to the topic, in rough order of time."""
    now_ms = time.time_ns() // 1_000_000
    rows = spark.range(0, events, 1, PARTITIONS).selectExpr(
        f"concat('{now_ms}-', id) AS event_id",
        f"CAST(floor(rand(1) * {users}) AS BIGINT) AS user_id",
        "concat('s', CAST(floor(rand(2) * 50000) AS STRING)) AS session_id",
        "element_at(array('PURCHASE', 'VIEW', 'CLICK', 'CART'), 1 + CAST(floor(rand(3) * 4) AS INT)) AS event_type",
        "CAST(floor(rand(4) * 20000) AS DECIMAL(18, 2)) / 100 AS amount",
        # Every task of the writer covers the whole span, so that the partitions of the topic go along together.
        f"date_format(timestamp_millis({now_ms} - CAST({minutes} * 60000 * (1 - (id % {max(1, events // PARTITIONS)}) / {max(1, events // PARTITIONS)}) AS BIGINT)),"
        " \"yyyy-MM-dd'T'HH:mm:ss.SSSXXX\") AS event_timestamp",
    )
    messages = rows.select(F.col("user_id").cast("string").alias("key"), F.to_json(F.struct(*rows.columns)).alias("value"))
    messages.write.format("kafka").option("kafka.bootstrap.servers", settings.kafka_bootstrap).option("topic", user_events.topic).save()


def _sentence(result: dict[str, object]) -> str:
    return (
        f"seed {result['seed_events_per_second']:,} events/s, braid {result['braid_events_per_second']:,} events/s into Valkey: "
        f"{result['ratio']} times (medians)."
    )


if __name__ == "__main__":
    typer.run(main)
