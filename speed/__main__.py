"""The speed layer's process: `python -m speed`. One Spark session, all queries, until SIGTERM.

A query that fails ends the process with a line that says which and why; the supervisor starts it again, and it goes on from its
checkpoints. Killing it at any moment loses nothing and doubles nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping

from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from redis import RedisError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_fixed,
)

from features.declaration import FeatureGroup
from features.declaration.versions import published_group
from features.project import Project
from features.trial import check_expressions
from infra.errors import BraidError, ServiceError
from infra.kafka import create_topics
from infra.project import load_project
from infra.settings import Settings
from speed.archive import create_archive, start_archive
from speed.offline import start_offline
from speed.online import start_online
from speed.progress import Board
from speed.session import pool, speed_session
from speed.topics import TopicWatch
from store.clients import meta_key, reached_store, store_generation
from store.writing import online_store

#: Partitions of a topic that does not exist yet.
PARTITIONS = 4
_POLL_SECONDS = 0.1
#: How often to look whether the store still holds what was written, and whether an older version is still served.
_LOOK_SECONDS = 2.0
#: For how long a start waits for Kafka and the online store, which may be starting again themselves.
_PATIENCE_SECONDS = 60.0


def main() -> int:
    """Runs until SIGTERM or SIGINT (0) or until a query fails (1)."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        settings = Settings.load()
        return run(settings, load_project(settings), ended)
    except BraidError as error:
        say(str(error))
    except RedisError as error:
        say(f"The online store does not answer any more ({type(error).__name__}).")
    return 1


def run(settings: Settings, project: Project, ended: threading.Event) -> int:
    """Starts the queries and publishes their progress until `ended` is set or one of them fails."""
    _reach(settings, {name: n for one in project.sources for name, n in ((one.topic, PARTITIONS), (one.dlq_topic, 1))}, ended)
    spark = speed_session(settings)
    queries: dict[str, StreamingQuery] = {}
    try:
        for group in project.groups:
            check_expressions(spark, group)
        for source in project.sources:
            create_archive(spark, settings, source)
        generation = store_generation(online_store(settings))
        watch = TopicWatch(settings, [source.topic for source in project.sources])
        watch.start(ended)
        older = _older(settings, project.groups)
        online = {f"online:{group.name}": group for group in project.groups} | older
        for name, group in online.items():
            with pool(spark, "online"):
                queries[name] = start_online(spark, settings, group, f"{generation}_{watch.ids[group.source.topic]}")
        for source in project.sources:
            with pool(spark, "background"):
                queries[f"archive:{source.name}"] = start_archive(spark, settings, source, watch.ids[source.topic])
        for group in project.groups:
            with pool(spark, "background"):
                queries[f"offline:{group.name}"] = start_offline(spark, settings, group, watch.ids[group.source.topic])
        board = Board(online_store(settings), queries, {name: group.fingerprint for name, group in online.items()})
        say(f"{len(queries)} queries run: {', '.join(queries)}.")
        looked = time.monotonic()
        while not ended.wait(_POLL_SECONDS):
            if watch.anew:
                say(
                    f"The topic {watch.anew} was made anew: it is read from its start. Of what it held before, tiles that are still open "
                    "lose their events until the next batch, which has them from the archive."
                )
                return 1
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                if store_generation(online_store(settings)) != generation:
                    say("The online store has lost what it held: the stream is read again into it.")
                    return 1
                for name in older.keys() - _older(settings, project.groups).keys() if older else ():
                    say(f"{name} is served no more.")
                    older.pop(name)
                    queries.pop(name).stop()
            for name, query in queries.items():
                if not query.isActive:
                    say(f"The query {name} has failed: {_cause(query)}. Its checkpoint is {settings.checkpoint(query.name)}*.")
                    return 1
            board.publish()
    except Exception:
        # The signal that ends this process ends the JVM too, which may be faster.
        if not ended.is_set():
            raise
    finally:
        stop(spark, queries)
    say("Stopped.")
    return 0


def _reach(settings: Settings, topics: Mapping[str, int], ended: threading.Event) -> None:
    """Makes sure that Kafka has the topics and that the online store answers.

    Raises:
        ServiceError: One of them has not answered for too long, or `ended` was set meanwhile.
    """

    def tell(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            say(f"Waiting for up to {_PATIENCE_SECONDS:.0f} s. {state.outcome.exception()}")

    for attempt in Retrying(
        retry=retry_if_exception_type(ServiceError), wait=wait_fixed(1), before_sleep=tell, sleep=sleep_using_event(ended),
        stop=stop_after_delay(_PATIENCE_SECONDS) | stop_when_event_set(ended), reraise=True,
    ):  # fmt: skip
        with attempt:
            create_topics(settings, topics)
            reached_store(settings).close()


def _older(settings: Settings, groups: Iterable[FeatureGroup]) -> dict[str, FeatureGroup]:
    """What is served of an older version of its declaration, which goes on until the newer one is published; by the query's name."""
    found = {}
    for declared in groups:
        group = published_group(declared, *online_store(settings).hmget(meta_key(declared.name), "fingerprint", "declaration"))
        if group.fingerprint != declared.fingerprint:
            found[f"online:{group.name}@{group.fingerprint[:8]}"] = group
    return found


def stop(spark: SparkSession, queries: Mapping[str, StreamingQuery]) -> None:
    """Stops the queries, then the session. What stops badly is gone all the same: the checkpoints are whole at any moment."""
    for end in (*(query.stop for query in queries.values()), spark.stop):
        try:
            end()
        except Exception as error:  # noqa: BLE001 — py4j's errors have no common ancestor
            say(f"While stopping: {type(error).__name__}.")


def _cause(query: StreamingQuery) -> str:
    # Behind the cause stand offsets and the plan.
    text = str(query.exception() or "it has ended").split("=== Streaming Query ===", maxsplit=1)[0]
    return " ".join(text.split())[:2_000]


def say(line: str) -> None:
    """A line of the log."""
    print(f"speed: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
