"""The throughput of the speed layer in events per second, compared with the classic sliding-window query.

    python -m benchmarks.speed_throughput [--events 1000000] [--batch 100000] [--visit 1] [--runs 3] [--json]

The peer is a streaming query as tutorials show it: windows of 1 hour every 5 minutes with a count, a conditional sum and a distinct count
(approx_count_distinct, since Spark refuses countDistinct in a stream), state in RocksDB, and a sink that discards its rows. braid
runs the real query of `speed.online`: the contract, duplicates, all declared features, written to Valkey. Both read the same topic on
the same machine. Their runs alternate in one warm session; each run has a new checkpoint. The CPU time of Spark and its workers is
reported beside wall-clock time, because it hardly depends on other load. The services run in a temporary home, which is deleted.

`--batch` is the number of events per micro-batch, for both queries. With 0 the whole topic is one micro-batch. Each window is then updated once,
which saves the sliding-window query most of its work on state. `--visit` is the number of events of a user within a few minutes. The more events a
visit has, the more work Spark's partial aggregation saves the sliding-window query, and the smaller the difference is.
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
from pyspark.sql.streaming.listener import StreamingQueryProgress
from pyspark.sql.streaming.readwriter import DataStreamWriter

from benchmarks._home import temporary_home
from benchmarks._rocksdb import ROCKSDB
from examples.shop.definitions import user_events, user_features
from features.instants import now_ms
from features.windows import MINUTE_MS
from infra.embedded import services
from infra.settings import Settings
from speed.checkpoints import Checkpoint
from speed.copies import OBSERVED
from speed.online import online_writer
from speed.session import SQL_PROPERTIES, speed_session
from speed.spark_engine import compile_expressions
from store.clients import store
from store.protocol import Tiles

PARTITIONS = 4
#: The number of runs that do not count, in which the JVM compiles both queries.
_WARM_UPS = 2
_SLIDING_SCHEMA = "event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DOUBLE, event_timestamp TIMESTAMP"


def main(
    events: Annotated[int, typer.Option(help="Events in the topic.")] = 1_000_000,
    users: Annotated[int, typer.Option(help="Different users.")] = 100_000,
    minutes: Annotated[int, typer.Option(help="Event time that they span.")] = 60,
    visit: Annotated[int, typer.Option(help="Events of a user within a few minutes.")] = 1,
    batch: Annotated[int, typer.Option(help="Events in a micro-batch; 0 for one micro-batch.")] = 100_000,
    runs: Annotated[int, typer.Option(help="Runs of each query.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares the throughput of the sliding-window query with the throughput of braid's query."""
    with temporary_home() as home:
        settings = home.model_copy(update={"speed_memory": "2g"})
        services.up(settings, {user_events.topic: PARTITIONS}, only={"kafka", "valkey"})
        result = compare(settings, events, users, minutes, visit, batch, runs)
    print(json.dumps(result) if as_json else _sentence(result))


def compare(settings: Settings, events: int, users: int, minutes: int, visit: int, batch: int, runs: int) -> dict[str, object]:
    """Returns the medians of alternating runs of both queries, in events per second and in events per CPU second."""
    spark = speed_session(settings)
    defaults = dict.fromkeys((*SQL_PROPERTIES, *ROCKSDB))
    checkpoint = Checkpoint("benchmark", {}, spark.sparkContext.defaultParallelism)
    contenders: dict[str, tuple[Callable[[], DataStreamWriter], dict[str, str | None]]] = {
        "sliding": (
            lambda: sliding_writer(spark, settings, batch),
            {**defaults, **ROCKSDB, "spark.sql.shuffle.partitions": SQL_PROPERTIES["spark.sql.shuffle.partitions"]},
        ),
        "braid": (
            lambda: online_writer(spark, settings, [(user_features, Tiles("benchmark"))], checkpoint, batch),
            {**defaults, **SQL_PROPERTIES},
        ),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    # The events of the warm-up come first in time as well: otherwise nearly all others would be late, for both queries, and cost little.
    span_ms, warm_up_ms = minutes * MINUTE_MS, minutes * MINUTE_MS // 5
    start_ms = now_ms() - span_ms - warm_up_ms
    try:
        for run in range(-_WARM_UPS, runs):
            if run == -_WARM_UPS:
                produce(spark, settings, max(1, events // 5), users, start_ms, warm_up_ms, visit)
            elif run == 0:
                produce(spark, settings, events, users, start_ms + warm_up_ms, span_ms, visit)
            for name, (writer, conf) in contenders.items():
                store(settings).flushdb()
                rate = measure(spark, writer(), conf)
                if run >= 0:
                    rates[name].append(rate)
                    per_second, per_cpu_second = rate
                    line = f"run {run + 1}: {name} {per_second:,.0f} events/s, {per_cpu_second:,.0f} per CPU second"
                    print(line, file=sys.stderr, flush=True)
    finally:
        spark.stop()
    wall = {name: statistics.median(per_second for per_second, _ in pairs) for name, pairs in rates.items()}
    cpu = {name: statistics.median(per_cpu_second for _, per_cpu_second in pairs) for name, pairs in rates.items()}
    return {
        "events": events,
        "users": users,
        "minutes": minutes,
        "visit": visit,
        "batch": batch,
        "runs": {name: [round(per_second) for per_second, _ in pairs] for name, pairs in rates.items()},
        "sliding_events_per_second": round(wall["sliding"]),
        "braid_events_per_second": round(wall["braid"]),
        "ratio": round(wall["braid"] / wall["sliding"], 2),
        "sliding_events_per_cpu_second": round(cpu["sliding"]),
        "braid_events_per_cpu_second": round(cpu["braid"]),
        "cpu_ratio": round(cpu["braid"] / cpu["sliding"], 2),
    }


def measure(spark: SparkSession, writer: DataStreamWriter, conf: dict[str, str | None]) -> tuple[float, float]:
    """Runs a query over all events in the topic. Returns its events per second and its events per CPU second."""
    for name, value in conf.items():
        if value is None:
            spark.conf.unset(name)
        else:
            spark.conf.set(name, value)
    spark.conf.set("spark.sql.streaming.numRecentProgressUpdates", "10000")
    with tempfile.TemporaryDirectory() as checkpoint:
        began, before = time.monotonic(), _cpu_seconds()
        query = writer.option("checkpointLocation", checkpoint).trigger(availableNow=True).start()
        compile_expressions(query, True)  # as Spark does by default, and the speed layer in a backlog
        query.awaitTermination()
        seconds, cpu_seconds = time.monotonic() - began, _cpu_seconds() - before
        rows = sum(progress.numInputRows for progress in query.recentProgress)
        if (late := sum(map(_late_rows, query.recentProgress))) > rows / 100:
            raise SystemExit(f"{late} of {rows} events were late, so the rate says nothing.")
        return rows / seconds, rows / cpu_seconds


def _late_rows(progress: StreamingQueryProgress) -> int:
    verdicts = progress.observedMetrics.get(OBSERVED)
    return sum(state.numRowsDroppedByWatermark for state in progress.stateOperators) + (verdicts["late_rows"] if verdicts else 0)


def _cpu_seconds() -> float:
    """Returns the CPU time of the JVM and of its Python workers, which stay alive between the runs. Services are left out."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "supervisord" not in " ".join(process.cmdline()):
                times = process.cpu_times()
                used += times.user + times.system
        except psutil.Error:
            continue
    return used


def sliding_writer(spark: SparkSession, settings: Settings, batch: int) -> DataStreamWriter:
    """Returns the writer of the sliding-window query."""
    options = {
        "kafka.bootstrap.servers": settings.kafka_bootstrap,
        "subscribe": user_events.topic,
        "startingOffsets": "earliest",
    }
    if batch:
        options["maxOffsetsPerTrigger"] = str(batch)
    stream = spark.readStream.format("kafka").options(**options).load()
    events = stream.select(F.from_json(F.col("value").cast("string"), _SLIDING_SCHEMA).alias("data")).select("data.*")
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


def produce(spark: SparkSession, settings: Settings, events: int, users: int, start_ms: int, span_ms: int, visit: int) -> None:
    """Adds events to the topic, ordered by time, from `start_ms` on. A user makes several visits, each of `visit` events within a few minutes."""
    # One task writes all messages, so that the times in all partitions advance together. Of several tasks, those that wait for a core would begin
    # anew at the first time, and their events would be late.
    visits = spark.range(0, events, 1, 1).selectExpr(
        "id",
        f"floor(id / {visit}) AS visit",
        f"id % {visit} AS step",
        f"{start_ms} + CAST({span_ms} * (id / {events}) AS BIGINT) AS begin_ms",
    )
    rows = visits.selectExpr(
        f"concat('{start_ms}-', id) AS event_id",
        f"abs(xxhash64(visit)) % {users} AS user_id",
        "concat('s', visit) AS session_id",
        "element_at(array('PURCHASE', 'VIEW', 'CLICK', 'CART'), 1 + CAST(floor(rand(3) * 4) AS INT)) AS event_type",
        "CAST(floor(rand(4) * 20000) AS DECIMAL(18, 2)) / 100 AS amount",
        "begin_ms + step * 30000 + CAST(floor(rand(5) * 30000) AS BIGINT) AS ts_ms",
    ).sortWithinPartitions("ts_ms")
    time_text = F.expr("date_format(timestamp_millis(ts_ms), \"yyyy-MM-dd'T'HH:mm:ss.SSSXXX\")").alias("event_timestamp")
    event = F.struct("event_id", "user_id", "session_id", "event_type", "amount", time_text)
    messages = rows.select(F.col("user_id").cast("string").alias("key"), F.to_json(event).alias("value"))
    writer = messages.write.format("kafka").option("kafka.bootstrap.servers", settings.kafka_bootstrap)
    writer.option("topic", user_events.topic).save()


def _sentence(result: dict[str, object]) -> str:
    return (
        f"sliding windows {result['sliding_events_per_second']:,} events/s, braid {result['braid_events_per_second']:,} events/s into Valkey: "
        f"{result['ratio']} times (medians)."
    )


if __name__ == "__main__":
    typer.run(main)
