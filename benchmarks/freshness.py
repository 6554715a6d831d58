"""The freshness of the speed layer: the time from the sending of an event to its tile in the online store, under load.

    python -m benchmarks.freshness [--rates 50,1000] [--seconds 60] [--engine spark] [--engine flink] [--groups 2] [--groups 10] [--floor/--no-floor]
        [--everything] [--json]

Probes are events of users that have no other events, two per second. A probe is fresh when a read of the store, as a request makes it, returns its
tile. Meanwhile a load of other events is sent at a steady rate: users evenly, items by Zipf's law, so that one item is hot. The peer (the floor) is
the plainest stateful query of Spark on the same topic in the same run: a count by user in windows of 5 minutes, with RocksDB, from Kafka to Kafka,
without a contract, duplicates or a store. Its probes are fresh when a consumer has read their counts. Each engine and number of groups runs in its
own temporary home, which is deleted, and warms up for a minute at the highest rate. The CPU time and memory of Flink are those of the speed layer,
which archives by Spark, of the JobManager and of the TaskManager.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import numpy as np
import psutil
import typer
from kafka import KafkaConsumer, KafkaProducer
from pyspark.sql import functions as F

from benchmarks._cpu import cpu_seconds
from benchmarks._home import temporary_home
from benchmarks._rocksdb import ROCKSDB
from benchmarks._stream import event, send_events
from examples.shop.definitions import project, user_events, user_features
from infra.embedded import services
from infra.embedded.supervision import Supervisor
from infra.kafka import client_options, spark_options
from infra.settings import Settings
from orchestration.topics import topics
from store.protocol import Store
from store.server import open_store

#: The user of the first probe. Each further probe has the next user.
_FIRST_PROBE = 10**9
_PROBES_PER_SECOND = 2
_WARM_UP_SECONDS = 60
_POLL_SECONDS = 0.01
_PATIENCE_SECONDS = 120
_FLOOR_TOPIC = "floor_counts"
_SCHEMA = "user_id BIGINT, event_timestamp TIMESTAMP"

#: Returns, of the given probes, those that are fresh.
See = Callable[[list[int]], set[int]]


def main(
    rates: Annotated[str, typer.Option(help="Events per second beside the probes, each a phase.")] = "50,1000",
    seconds: Annotated[float, typer.Option(help="Length of a phase.")] = 60,
    floor: Annotated[bool, typer.Option(help="Measure the peer.")] = True,
    engine: Annotated[
        list[str] | None, typer.Option(help="spark or flink; several are measured one after the other. Default: spark.")
    ] = None,
    groups: Annotated[
        list[int] | None, typer.Option(min=2, help="Feature groups; several numbers are measured one after the other. Default: 2.")
    ] = None,
    everything: Annotated[bool, typer.Option(help="Run all services of `braid up`.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures the freshness of braid and of the plainest stateful query."""
    chosen, results = [float(rate) for rate in rates.split(",")], []
    deployments = [(name, count) for name in engine or ["spark"] for count in groups or [2]]
    for name, count in deployments:
        who = f"braid{'' if name == 'spark' else f' with {name}'}{'' if count == 2 else f', {count} groups'}"
        with temporary_home() as of_home:
            settings = of_home.model_copy(update={"engine": name, "project": _project_of(count, of_home)})
            measured = {"speed"} | ({"flink-jobmanager", "flink-taskmanager"} if name == "flink" else set())
            services.up(settings, {**topics(project), _FLOOR_TOPIC: 4}, only=None if everything else {"kafka", "valkey", *measured})
            numbers = iter(range(_FIRST_PROBE, 2 * _FIRST_PROBE))
            pids = [status.pid for status in services.status(settings) if status.name in measured and status.pid is not None]
            assert len(pids) == len(measured)
            see = partial(_in_the_store, open_store(settings))
            phase(settings, numbers, max(chosen), _WARM_UP_SECONDS, see, pids)
            for rate in chosen:
                results.append({"who": who, **phase(settings, numbers, rate, seconds, see, pids)})
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
            results.append({"who": who, **idle(pids)})
            if floor and (name, count) == deployments[-1]:
                Supervisor(settings).stop(["speed"])
                with floor_query(settings) as (floor_pid, in_the_topic):
                    phase(settings, numbers, max(chosen), _WARM_UP_SECONDS, in_the_topic, [floor_pid])
                    for rate in chosen:
                        results.append({"who": "floor", **phase(settings, numbers, rate, seconds, in_the_topic, [floor_pid])})
                        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print(json.dumps(results) if as_json else "\n".join(map(_sentence, results)))


def _project_of(groups: int, settings: Settings) -> str:
    """Writes the shop's project with `groups` groups, by copies of its two groups under other names. Returns its value for the setting `project`."""
    path = settings.home / "definitions.py"
    path.write_text(
        "from dataclasses import replace\n\nfrom examples.shop.definitions import project as shop\n\n"
        f"copies = [replace(shop.groups[n % 2], name=f'copy_{{n}}') for n in range({groups - 2})]\n"
        "project = replace(shop, groups=(*shop.groups, *copies))\n"
    )
    return f"{path}:project"


def _in_the_store(store: Store, pending: list[int]) -> set[int]:
    parts = store.read(user_features, pending).parts
    return {probe for probe, part in zip(pending, parts, strict=True) if part.tiles}


def phase(
    settings: Settings, numbers: Iterator[int], rate: float, seconds: float, see: See, pids: Sequence[int]
) -> dict[str, float]:
    """Sends a load and probes for some seconds. Returns percentiles of the freshness in ms, and the CPU time of processes and their children."""
    producer = KafkaProducer(**client_options(settings), linger_ms=0)
    sent_at: dict[int, float] = {}
    over = threading.Event()
    load = threading.Thread(target=send_events, args=(producer, rate, over), daemon=True)
    probing = threading.Thread(target=_send_probes, args=(producer, numbers, sent_at, over), daemon=True)
    cpu_before, began = _cpu_seconds(pids), time.monotonic()
    load.start()
    probing.start()
    waited: list[float] = []
    pending: set[int] = set()
    seen: set[int] = set()
    while time.monotonic() - began < seconds + _PATIENCE_SECONDS:
        if time.monotonic() - began > seconds and not over.is_set():
            over.set()
            load.join()
            probing.join()
        pending = set(sent_at) - seen
        if over.is_set() and not pending:
            break
        fresh = see(sorted(pending)) if pending else set()
        now = time.monotonic()
        waited += [(now - sent_at[probe]) * 1_000 for probe in fresh]
        seen |= fresh
        time.sleep(_POLL_SECONDS)
    wall, cpu = time.monotonic() - began, _cpu_seconds(pids) - cpu_before
    producer.close()
    assert waited, f"None of {len(sent_at)} probes became visible."
    p50, p90, p99 = np.percentile(waited, [50, 90, 99])
    return {
        "rate": rate, "probes": len(waited), "never": len(pending), "p50_ms": round(p50), "p90_ms": round(p90), "p99_ms": round(p99),
        "max_ms": round(max(waited)), "rss_mb": round(sum(map(_rss_mb, pids))), "cpu_seconds_per_1000_events": round(cpu / ((rate + _PROBES_PER_SECOND) * seconds / 1_000), 2), "cores": round(cpu / wall, 2),
    }  # fmt: skip


def idle(pids: Sequence[int]) -> dict[str, float]:
    """Returns the CPU time of processes while no event arrives, in cores."""
    time.sleep(10)
    seconds, before = 30, _cpu_seconds(pids)
    time.sleep(seconds)
    return {"rate": 0, "cores": round((_cpu_seconds(pids) - before) / seconds, 3)}


def _cpu_seconds(pids: Sequence[int]) -> float:
    return sum(map(cpu_seconds, pids))


def _rss_mb(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


@contextmanager
def floor_query(settings: Settings) -> Iterator[tuple[int, See]]:
    """Runs the peer during a block. Yields the id of its process, and the function that returns the fresh probes."""
    from speed.session import speed_session

    spark = speed_session(settings, ROCKSDB)
    options = {**spark_options(settings), "subscribe": user_events.topic, "startingOffsets": "latest"}
    value = F.from_json(F.col("value").cast("string"), _SCHEMA).alias("e")
    counts = (
        spark.readStream.format("kafka").options(**options).load().select(value).select("e.*")
        .withWatermark("event_timestamp", "10 minutes").groupBy("user_id", F.window("event_timestamp", "5 minutes")).count()
    )  # fmt: skip
    record = F.to_json(F.struct("user_id", "count")).alias("value")
    consumer = KafkaConsumer(_FLOOR_TOPIC, **client_options(settings), auto_offset_reset="latest")
    known: set[int] = set()

    def see(pending: list[int]) -> set[int]:
        for records in consumer.poll(timeout_ms=1, max_records=5_000).values():
            known.update(json.loads(record.value)["user_id"] for record in records)
        return known.intersection(pending)

    with tempfile.TemporaryDirectory() as checkpoint:
        query = (
            counts.select(record).writeStream.outputMode("update").format("kafka").options(**spark_options(settings))
            .option("topic", _FLOOR_TOPIC).option("checkpointLocation", checkpoint).start()
        )  # fmt: skip
        try:
            consumer.poll(timeout_ms=2_000)
            jvm = next(child for child in psutil.Process().children() if child.name() == "java")
            yield jvm.pid, see
        finally:
            query.stop()
            consumer.close()
            spark.stop()


def _send_probes(producer: KafkaProducer, numbers: Iterator[int], sent_at: dict[int, float], over: threading.Event) -> None:
    rng = random.Random(2)
    while not over.wait(rng.uniform(0, 2 / _PROBES_PER_SECOND)):
        probe = next(numbers)
        producer.send(user_events.topic, key=str(probe).encode(), value=event(probe, "probe"))
        sent_at[probe] = time.monotonic()


def _sentence(result: dict[str, float]) -> str:
    if "p50_ms" not in result:
        return f"{result['who']} idle: {result['cores']} of a core."
    return (
        f"{result['who']} at {result['rate']:g} events/s: p50 {result['p50_ms']}, p90 {result['p90_ms']}, p99 {result['p99_ms']}, max {result['max_ms']} ms; "
        f"{result['cpu_seconds_per_1000_events']} CPU seconds per 1,000 events, {result['cores']} cores, {result['rss_mb']} MiB."
    )


if __name__ == "__main__":
    typer.run(main)
