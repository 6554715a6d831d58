"""The speed layer's process: `python -m speed`. One Spark session, all queries, until SIGTERM.

A query that fails ends the process with a line that says which and why; the supervisor starts it again, and it goes on from its
checkpoints. Killing it at any moment loses nothing and doubles nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from features.declaration import FeatureGroup
from features.definitions import GROUPS
from infra.errors import BraidError
from infra.kafka import create_topics
from infra.settings import Settings
from speed.archive import create_archive, start_archive
from speed.offline import start_offline
from speed.online import start_online
from speed.progress import Board
from speed.session import pool, speed_session
from speed.store import online_store

#: Partitions of a topic that does not exist yet.
PARTITIONS = 4
_POLL_SECONDS = 0.1


def main() -> int:
    """Runs until SIGTERM or SIGINT (0) or until a query fails (1)."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        settings = Settings.load()
        return run(settings, GROUPS, ended)
    except BraidError as error:
        say(str(error))
        return 1


def run(settings: Settings, groups: Mapping[str, FeatureGroup], ended: threading.Event) -> int:
    """Starts the queries and publishes their progress until `ended` is set or one of them fails."""
    sources = {group.source.name: group.source for group in groups.values()}
    create_topics(settings, {name: n for one in sources.values() for name, n in ((one.topic, PARTITIONS), (one.dlq_topic, 1))})
    spark = speed_session(settings)
    queries: dict[str, StreamingQuery] = {}
    try:
        create_archive(spark, settings)
        for group in groups.values():
            with pool(spark, "online"):
                queries[f"online:{group.name}"] = start_online(spark, settings, group)
        for source in sources.values():
            with pool(spark, "background"):
                queries[f"archive:{source.name}"] = start_archive(spark, settings, source)
        for group in groups.values():
            with pool(spark, "background"):
                queries[f"offline:{group.name}"] = start_offline(spark, settings, group)
        board = Board(online_store(settings), queries)
        say(f"{len(queries)} queries run: {', '.join(queries)}.")
        while not ended.wait(_POLL_SECONDS):
            for name, query in queries.items():
                if not query.isActive:
                    say(f"The query {name} has failed: {_cause(query)}")
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


def stop(spark: SparkSession, queries: Mapping[str, StreamingQuery]) -> None:
    """Stops the queries, then the session. What stops badly is gone all the same: the checkpoints are whole at any moment."""
    for end in (*(query.stop for query in queries.values()), spark.stop):
        try:
            end()
        except Exception as error:  # noqa: BLE001 — py4j's errors have no common ancestor
            say(f"While stopping: {type(error).__name__}.")


def _cause(query: StreamingQuery) -> str:
    error = query.exception()
    text = str(error.getMessage() if isinstance(error, PySparkException) else error)
    return " ".join(text.split())[:2_000]


def say(line: str) -> None:
    """A line of the log."""
    print(f"speed: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
