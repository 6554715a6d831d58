"""The process of the speed layer: `python -m speed`. It runs one Spark session with all queries until SIGTERM.

A query that fails ends the process with a line of the log that names the query and the reason. The supervisor starts the process again, which goes on
from its checkpoints. A kill at any moment loses no event and counts none twice.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping

from pyspark.sql import SparkSession
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
from features.history import HISTORY_FORMAT
from features.instants import now_ms
from features.project import Project
from features.sources import EventSource
from features.trial import check_expressions
from infra.errors import BraidError, ServiceError
from infra.kafka import create_topics, held
from infra.project import load_project
from infra.settings import Settings
from speed.archive import create_archive, start_archive
from speed.checkpoints import checkpoint_of, recorded_tokens
from speed.completeness import TileStream, open_stream, with_gaps
from speed.engine import Engine, Query
from speed.expiry import ExpiredTiles
from speed.flink.engine import FlinkEngine
from speed.histories import begin_histories
from speed.offline import OfflineStore
from speed.progress import Board
from speed.session import pool, speed_session
from speed.spark_engine import SparkEngine
from speed.topics import TopicWatch
from store.protocol import Store
from store.server import reached_store, writing_store

#: The number of partitions of a topic that this process creates.
PARTITIONS = 4
_POLL_SECONDS = 0.1
#: How often the process checks that the store still has the written tiles, and whether an older version is still served.
_LOOK_SECONDS = 2.0
#: How long a start waits for Kafka and the online store, which may be restarting.
_PATIENCE_SECONDS = 60.0


def main() -> int:
    """Runs the process. Returns the exit code: 0 after SIGTERM or SIGINT, 1 after a failure."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        settings = Settings.load()
        return run(settings, load_project(settings), ended)
    except BraidError as error:
        say(str(error))
    return 1


def run(settings: Settings, project: Project, ended: threading.Event) -> int:
    """Starts the queries, and publishes their progress until `ended` is set or the process has to start again.

    Args:
        settings: The settings of the deployment.
        project: The declared sources and groups.
        ended: The event that ends the process.

    Returns:
        The exit code: 0 if `ended` was set; 1 if a query failed, a topic was made anew, or a stream has to be read again. After 1 the supervisor
        starts the process again.
    """
    _reach(settings, {name: n for one in project.sources for name, n in ((one.topic, PARTITIONS), (one.dlq_topic, 1))}, ended)
    spark = speed_session(settings)
    engine: Engine = FlinkEngine(settings) if settings.engine == "flink" else SparkEngine(spark, settings)
    tasks = 1 if settings.engine == "flink" else spark.sparkContext.defaultParallelism
    queries: dict[str, Query] = {}
    offline: list[OfflineStore] = []
    try:
        for group in project.groups:
            check_expressions(spark, group)
        for source in project.sources:
            create_archive(spark, settings, source)
        store = writing_store(settings)
        watch = TopicWatch(settings, [source.topic for source in project.sources])
        watch.start(ended)
        older = _older(settings, store, project.groups)
        streams = _open_streams(settings, store, watch, {f"online:{group.name}": group for group in project.groups} | older)
        for source in project.sources:
            _begin_histories(spark, settings, store, source, watch.ids[source.topic], streams)
            queries |= _start_online(engine, settings.engine, tasks, store, source, streams)
            with pool(spark, "background"):
                queries[f"archive:{source.name}"] = start_archive(spark, settings, source, watch.ids[source.topic])
        details = {
            name: {"version": one.group.fingerprint, "token": one.tiles.token, "topic": watch.ids[one.group.source.topic]}
            for name, one in streams.items()
        }
        details |= {f"archive:{source.name}": {"topic": watch.ids[source.topic]} for source in project.sources}
        offline = [
            OfflineStore(spark, settings, store, source, project.groups_of(source), watch.ids[source.topic])
            for source in project.sources
        ]
        expired = {source.name: ExpiredTiles(store, settings, source.name, project.groups_of(source)) for source in project.sources}
        board = Board(store, queries, details, [f"offline:{group.name}" for group in project.groups])
        for one in offline:
            one.start(board, ended)
        say(f"{len(set(queries.values()))} queries run: {', '.join(queries)}.")
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
                for name in older.keys() - _older(settings, store, project.groups).keys() if older else ():
                    say(f"{name} is served no more.")
                    older.pop(name)
                    source = streams.pop(name).group.source
                    queries.pop(name).stop()
                    queries |= _start_online(engine, settings.engine, tasks, store, source, streams)
                lost = {}
                for name, stream in streams.items():
                    entry, group = board.entry(name), stream.group
                    expired_ms = expired[group.source.name].before_ms(group, entry.get("newest_event_ms"), now_ms())
                    if reason := stream.follow(store, entry, queries[name].committed(), expired_ms):
                        lost[name] = reason
                if settings.kappa:
                    _serve_whole(store, streams, project.groups)
                for name, reason in lost.items():
                    say(f"{reason} of {name}: the stream is read again into it.")
                if lost:
                    return 1
            for name, query in queries.items():
                if fault := query.fault():
                    say(f"The query {name} has failed: {fault}.")
                    return 1
            for one in offline:
                if one.failure:
                    say(f"The offline store of {one.source.name} has failed: {one.failure}.")
                    return 1
            board.publish()
    except Exception:
        # The signal that ends this process also ends the JVM, which may end first.
        if not ended.is_set():
            raise
    finally:
        for one in offline:
            one.stop()
        stop(spark, queries)
    say("Stopped.")
    return 0


def _open_streams(settings: Settings, store: Store, watch: TopicWatch, groups: Mapping[str, FeatureGroup]) -> dict[str, TileStream]:
    """Opens the streams of tiles of versions of groups.

    Args:
        settings: The settings of the deployment.
        store: The online store.
        watch: The identities of the topics.
        groups: Name of a progress entry → version of a group.

    Returns:
        Name of a progress entry → the stream of tiles.
    """
    sources = {group.source.name: group.source for group in groups.values()}
    in_kafka = {name: held(settings, source.topic) for name, source in sources.items()}
    tokens = {name: set(recorded_tokens(store, source).values()) for name, source in sources.items()}
    entries, started_ms, slack_ms = store.progress(), now_ms(), settings.future_seconds * 1_000
    streams = {}
    for name, group in groups.items():
        source = group.source
        streams[name] = stream = open_stream(
            store, group, watch.ids[source.topic], in_kafka[source.name], entries, tokens[source.name], started_ms, slack_ms,
            HISTORY_FORMAT if settings.kappa else 0,
        )  # fmt: skip
        if stream.tiles.history and stream.tiles.begins is None:
            say(f"{name} begins with what the lake holds.")
        elif not stream.tiles.whole:
            say(f"{name} is read from the first message that Kafka holds: no checkpoint of this layout has its tiles.")
        if stream.tiles.complete_since_ms is not None:
            say(
                f"{name} is complete from {stream.tiles.complete_since_ms} ms on: Kafka did not hold what came before, or it has expired."
            )
    return streams


def _begin_histories(
    spark: SparkSession, settings: Settings, store: Store, source: EventSource, topic: str, streams: Mapping[str, TileStream]
) -> None:
    """Makes the first histories of those streams of a source that have none yet. Their query has not started."""
    begun = {
        name: stream
        for name, stream in streams.items()
        if stream.group.source.name == source.name and stream.tiles.history and stream.tiles.begins is None
    }
    if not begun:
        return
    began, slack_ms = time.monotonic(), settings.future_seconds * 1_000
    # This entry shows that the process runs, so that processes that wait for it need not wait until the whole lake is read.
    store.set_progress({"online": {**store.progress().get("online", {}), "written_at_ms": now_ms(), "pid": os.getpid()}})
    made = begin_histories(spark, settings, source, topic, [(stream.group, stream.tiles) for stream in begun.values()])
    in_kafka = held(settings, source.topic)
    for (name, stream), tiles in zip(begun.items(), made, strict=True):
        stream.tiles = with_gaps(tiles, {}, in_kafka, now_ms(), slack_ms)
        store.set_tiles(stream.group, stream.tiles)
        say(f"{name} has the histories of {tiles.entities} entities, and counts from {dict(tiles.begins or {})} on.")
    say(f"The histories of {source.name} took {time.monotonic() - began:.1f} s.")


def _serve_whole(store: Store, streams: Mapping[str, TileStream], groups: Iterable[FeatureGroup]) -> None:
    """Serves each declared version whose stream has caught up, instead of the version that was served before."""
    for group in groups:
        tiles = streams[f"online:{group.name}"].tiles
        if not tiles.whole:
            continue
        served = store.published(group.name)
        if served is None or not served.is_stream(group, tiles):
            store.serve_stream(group, tiles.as_of_ms, tiles.entities, tiles.token)
            say(f"{group.name} is served by its version {group.fingerprint}.")


def _start_online(
    engine: Engine, name: str, tasks: int, store: Store, source: EventSource, streams: Mapping[str, TileStream]
) -> dict[str, Query]:
    """Starts the one query of a source. Returns name of a progress entry → that query, for each stream of tiles; empty if the source has none."""
    mine = {name: stream for name, stream in streams.items() if stream.group.source.name == source.name}
    if not mine:
        return {}
    tokens = {f"{stream.group.name}@{stream.group.fingerprint}": stream.tiles.token for stream in mine.values()}
    pairs = [(stream.group, stream.tiles) for stream in mine.values()]
    checkpoint = checkpoint_of(store, source, tokens, tasks, name)
    for stream in mine.values():
        stream.tasks = checkpoint.tasks
    return dict.fromkeys(mine, engine.start(source, pairs, checkpoint))


def _reach(settings: Settings, topics: Mapping[str, int], ended: threading.Event) -> None:
    """Creates the topics that do not exist, and waits until Kafka and the online store answer.

    Raises:
        ServiceError: Kafka or the store has not answered within `_PATIENCE_SECONDS`, or until `ended` was set.
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
            reached_store(settings)


def _older(settings: Settings, store: Store, groups: Iterable[FeatureGroup]) -> dict[str, FeatureGroup]:
    """Returns the older versions that are still served: name of a progress entry → version. They go on until the declared versions are published."""
    found = {}
    for declared in groups:
        published = store.published(declared.name)
        if published is None or published.architecture != settings.architecture:
            continue
        group = published_group(declared, published.fingerprint.encode(), published.declaration)
        if group.fingerprint != declared.fingerprint:
            found[f"online:{group.name}@{group.fingerprint[:8]}"] = group
    return found


def stop(spark: SparkSession, queries: Mapping[str, Query]) -> None:
    """Stops the queries, then the session. An error while stopping does no harm, because the checkpoints are consistent at any moment."""
    for end in (*(query.stop for query in set(queries.values())), spark.stop):
        try:
            end()
        except Exception as error:  # noqa: BLE001 — py4j's errors have no common ancestor
            say(f"While stopping: {type(error).__name__}.")


def say(line: str) -> None:
    """Writes a line to the log."""
    print(f"speed: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
