"""The speed layer beside the seed's sliding window: events per second of one and the other, from one topic on one machine.

    python -m benchmarks.speed_throughput [--events 1000000] [--batch 100000] [--visit 1] [--runs 3] [--json]

The peer is the query that the seed shows: windows of 1 hour every 5 minutes with a count, a conditional sum and a distinct count
(approx_count_distinct, since Spark refuses countDistinct in a stream), state in RocksDB, to a sink that takes nothing. braid's is
the real query of `speed.online`: the contract, duplicates, all declared features, into Valkey. Runs alternate in one warm
session; each has a checkpoint of its own. Beside the wall clock stands the CPU time of Spark and its workers, which does not
depend on what else the machine does. Services live in a home that is deleted afterwards.

`--batch`: both read the topic in micro-batches of so many events, as a stream brings them; 0 takes it in one, where each window is
touched once, which spares the seed's query most of its work on state. `--visit 1`: every event at a time of its own. The more events of a user fall into a few minutes, the more of the seed's work its
partial aggregation saves, and the smaller the difference.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Annotated

import psutil
import typer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.readwriter import DataStreamWriter

from benchmarks._home import temporary_home
from examples.shop.definitions import user_events, user_features
from infra.embedded import services
from infra.settings import Settings
from speed.online import online_writer
from speed.session import SQL_PROPERTIES, speed_session
from store.clients import store

PARTITIONS = 4
#: Until the JVM has compiled both.
_WARM_UPS = 2
_SEED_SCHEMA = "event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DOUBLE, event_timestamp TIMESTAMP"


def main(
    events: Annotated[int, typer.Option(help="Events in the topic.")] = 1_000_000,
    users: Annotated[int, typer.Option(help="Different users.")] = 100_000,
    minutes: Annotated[int, typer.Option(help="Event time that they span.")] = 60,
    visit: Annotated[int, typer.Option(help="Events of a user within a few minutes.")] = 1,
    batch: Annotated[int, typer.Option(help="Events in a micro-batch; 0 for one micro-batch.")] = 100_000,
    runs: Annotated[int, typer.Option(help="Runs of each query.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares the throughput of the seed's query and braid's."""
    with temporary_home() as home:
        settings = home.model_copy(update={"speed_memory": "2g"})
        services.up(settings, {user_events.topic: PARTITIONS}, only={"kafka", "valkey"})
        result = compare(settings, events, users, minutes, visit, batch, runs)
    print(json.dumps(result) if as_json else _sentence(result))


def compare(settings: Settings, events: int, users: int, minutes: int, visit: int, batch: int, runs: int) -> dict[str, object]:
    """Alternating runs of both; rates in events per second."""
    spark = speed_session(settings)
    defaults = dict.fromkeys(SQL_PROPERTIES)
    contenders: dict[str, tuple[Callable[[], DataStreamWriter], dict[str, str | None]]] = {
        "seed": (
            lambda: seed_writer(spark, settings, batch),
            {**defaults, "spark.sql.shuffle.partitions": SQL_PROPERTIES["spark.sql.shuffle.partitions"]},
        ),
        "braid": (lambda: online_writer(spark, settings, user_features, batch or None), dict(SQL_PROPERTIES)),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    try:
        for run in range(-_WARM_UPS, runs):
            if run in (-_WARM_UPS, 0):
                produce(spark, settings, events if run == 0 else max(1, events // 5), users, minutes, visit)
            for name, (writer, conf) in contenders.items():
                store(settings).flushdb()
                rate = measure(spark, writer(), conf)
                if run >= 0:
                    rates[name].append(rate)
                    print(
                        f"run {run + 1}: {name} {rate[0]:,.0f} events/s, {rate[1]:,.0f} per CPU second", file=sys.stderr, flush=True
                    )
    finally:
        spark.stop()
    wall = {name: statistics.median(one for one, _ in found) for name, found in rates.items()}
    cpu = {name: statistics.median(one for _, one in found) for name, found in rates.items()}
    return {
        "events": events, "users": users, "minutes": minutes, "visit": visit, "batch": batch,
        "runs": {name: [round(one) for one, _ in found] for name, found in rates.items()},
        "seed_events_per_second": round(wall["seed"]), "braid_events_per_second": round(wall["braid"]),
        "ratio": round(wall["braid"] / wall["seed"], 2),
        "seed_events_per_cpu_second": round(cpu["seed"]), "braid_events_per_cpu_second": round(cpu["braid"]),
        "cpu_ratio": round(cpu["braid"] / cpu["seed"], 2),
    }  # fmt: skip


def measure(spark: SparkSession, writer: DataStreamWriter, conf: dict[str, str | None]) -> tuple[float, float]:
    """Events per second of a query over all that is in the topic, and per second of CPU that Spark and its workers used."""
    for name, value in conf.items():
        if value is None:
            spark.conf.unset(name)
        else:
            spark.conf.set(name, value)
    spark.conf.set("spark.sql.streaming.numRecentProgressUpdates", "10000")
    with tempfile.TemporaryDirectory() as checkpoint:
        began, before = time.monotonic(), _cpu_seconds()
        query = writer.option("checkpointLocation", checkpoint).trigger(availableNow=True).start()
        query.awaitTermination()
        seconds, cpu_seconds = time.monotonic() - began, _cpu_seconds() - before
        rows = sum(progress.numInputRows for progress in query.recentProgress)
        return rows / seconds, rows / cpu_seconds


def _cpu_seconds() -> float:
    """CPU time of the JVM and of its Python workers, which stay alive between the runs; the services are not among them."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "supervisord" not in " ".join(process.cmdline()):
                times = process.cpu_times()
                used += times.user + times.system
        except psutil.Error:
            continue
    return used


def seed_writer(spark: SparkSession, settings: Settings, batch: int) -> DataStreamWriter:
    """The seed's streaming query."""
    stream = spark.readStream.format("kafka").options(**{
        "kafka.bootstrap.servers": settings.kafka_bootstrap, "subscribe": user_events.topic, "startingOffsets": "earliest",
        **({"maxOffsetsPerTrigger": str(batch)} if batch else {}),
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


def produce(spark: SparkSession, settings: Settings, events: int, users: int, minutes: int, visit: int) -> None:
    """Adds events to the topic in order of time. People come for a visit of some events within minutes, and come again."""
    now_ms = time.time_ns() // 1_000_000
    each = max(1, events // PARTITIONS)
    # Every task of the writer covers the whole span, so that the partitions of the topic go along together.
    rows = spark.range(0, events, 1, PARTITIONS).selectExpr(
        "id", f"floor(id / {visit}) AS visit", f"id % {visit} AS step",
        f"{now_ms} - CAST({minutes} * 60000 * (1 - (id % {each}) / {each}) AS BIGINT) AS begin_ms",
    ).selectExpr(
        f"concat('{now_ms}-', id) AS event_id",
        f"abs(xxhash64(visit)) % {users} AS user_id",
        "concat('s', visit) AS session_id",
        "element_at(array('PURCHASE', 'VIEW', 'CLICK', 'CART'), 1 + CAST(floor(rand(3) * 4) AS INT)) AS event_type",
        "CAST(floor(rand(4) * 20000) AS DECIMAL(18, 2)) / 100 AS amount",
        "begin_ms + step * 30000 + CAST(floor(rand(5) * 30000) AS BIGINT) AS ts_ms",
    ).sortWithinPartitions("ts_ms")  # fmt: skip
    event = F.struct(
        "event_id", "user_id", "session_id", "event_type", "amount",
        F.expr("date_format(timestamp_millis(ts_ms), \"yyyy-MM-dd'T'HH:mm:ss.SSSXXX\")").alias("event_timestamp"),
    )  # fmt: skip
    messages = rows.select(F.col("user_id").cast("string").alias("key"), F.to_json(event).alias("value"))
    messages.write.format("kafka").option("kafka.bootstrap.servers", settings.kafka_bootstrap).option(
        "topic", user_events.topic
    ).save()


def _sentence(result: dict[str, object]) -> str:
    return (
        f"seed {result['seed_events_per_second']:,} events/s, braid {result['braid_events_per_second']:,} events/s into Valkey: "
        f"{result['ratio']} times (medians)."
    )


if __name__ == "__main__":
    typer.run(main)
