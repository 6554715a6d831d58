"""Flink as the engine (`speed.engine`): a job per source computes contributions, and a thread of this process writes their tiles.

Reads the topic of contributions (`speed.flink.job_sql`); writes tiles through `speed.writer`, and starts and cancels jobs.

The only state of a job is its offsets. The writer knows better ones, because it knows which messages are in the store. So a job that has ended, with
or without its JobManager, is started again at the offsets of the writer. If the cluster restarts the tasks of a job, they read from the job's last
checkpoint, and the writer skips the rows that it already has. A process that starts again goes on with the running job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.declaration import FeatureGroup
from features.sources import EventSource
from infra.errors import BraidError
from infra.kafka import client_options, create_topics, delete_messages, delete_topic, flink_options
from infra.settings import Settings
from speed.checkpoints import Checkpoint
from speed.engine import Entry, Query, widened
from speed.flink.cluster import Cluster
from speed.flink.job_sql import Job, job_of
from speed.flink.rows import contribution_rows
from speed.online import targets_of
from speed.writer import TileWriter, ends_of, have_come, next_ends, split
from store.protocol import Tiles
from store.server import writing_store

#: How often the writer checks that its job runs and reads the end offsets, and after how long without a row it checks whether the rest of a partition
#: is invisible to readers.
_LOOK_SECONDS, _IDLE_SECONDS = 1.0, 2.0
#: How long rows wait for a partition of which no row arrives, such as a partition that is new to the job.
_WAIT_SECONDS = 120.0
#: How long rows wait before the writer checks whether the messages for which they wait are invisible to readers.
_DOUBT_SECONDS = 0.25
#: How often the contributions that have been written are deleted from their topic.
_TRIM_SECONDS = 60.0
#: After how many failed submissions of a job in a row the process gives up.
_ATTEMPTS = 5
_UNSEEN_POLL_MS, _POLLS = 50, 10
#: How long the broker waits for a message before it answers that there is none. An arriving message ends the wait.
_POLL_MS = 250
_WAITING_POLL_MS = 5
#: The largest number of contributions that one read returns.
_AT_ONCE = 20_000


class FlinkEngine:
    """`speed.engine.Engine` by Apache Flink."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start(self, source: EventSource, streams: Sequence[tuple[FeatureGroup, Tiles]], checkpoint: Checkpoint) -> Query:
        """As `Engine.start`."""
        job = job_of([group for group, _ in streams], checkpoint.name)
        return FlinkQuery(self._settings, source, streams, checkpoint, job)


class FlinkQuery:
    """The query of a source: a Flink job and a thread that writes the tiles. `speed.engine.Query` describes the methods.

    Args:
        settings: The settings of the deployment.
        source: The source.
        streams: The versions of its groups, each with its stream of tiles.
        checkpoint: The checkpoint with which the query goes on.
        job: The job of the source.
    """

    def __init__(
        self,
        settings: Settings,
        source: EventSource,
        streams: Sequence[tuple[FeatureGroup, Tiles]],
        checkpoint: Checkpoint,
        job: Job,
    ) -> None:
        self._settings, self._source, self._job, self._checkpoint = settings, source, job, checkpoint
        self._writer = TileWriter(
            writing_store(settings), settings, source.name, targets_of(streams), checkpoint.name, checkpoint.tasks
        )
        self._failure: str | None = None
        self._ended = threading.Event()
        self._reader = _Reader(settings, source, job, self._writer)
        self._thread = threading.Thread(target=self._run, name=f"tiles of {source.name}", daemon=True)
        self._thread.start()

    def fault(self) -> str | None:
        """As `Query.fault`."""
        return None if self._failure is None else f"{self._failure}. Its job is {self._job.name}"

    def committed(self) -> int | None:
        """As `Query.committed`."""
        return None if self._writer.number < 0 else self._writer.number

    def entry(self, before: Mapping[str, Any]) -> Entry:
        """As `Query.entry`."""
        counters, done = self._writer.counters, self._writer.done
        return {
            "offsets": {str(partition): offset for partition, offset in done.items()},
            "batch_id": self._writer.number,
            "watermark_ms": counters.watermark_ms,
            **widened(before, counters.oldest_ms, counters.newest_ms),
            "rows_per_second": round(counters.rows_per_second, 1),
            "late_rows": counters.late,
            "copies": counters.copies,
            "undecided": counters.undecided,
            "lag": self._reader.lag,
        }

    def stop(self) -> None:
        """As `Query.stop`. The job goes on for the next process."""
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        try:
            self._reader.open()
            while not self._ended.is_set():
                began = time.monotonic()
                self._reader.step()
                self._ended.wait(max(0.0, self._settings.speed_trigger_seconds - (time.monotonic() - began)))
        except Exception as error:  # noqa: BLE001 — any error ends the thread and then the process, which is started again
            self._failure = " ".join(f"{type(error).__name__}: {error}".split())[:2_000]
        finally:
            self._reader.close()


class _Reader:
    """Keeps the job of a source running, and passes its contributions to the writer."""

    def __init__(self, settings: Settings, source: EventSource, job: Job, writer: TileWriter) -> None:
        self._settings, self._source, self._job, self._writer = settings, source, job, writer
        self._cluster = Cluster(settings)
        self._topic = TopicPartition(job.name, 0)
        self._rows: pa.Table | None = None
        self._position = self._noted = 0
        self._failed = 0
        # Whether the running job has to be cancelled, so that a new one starts.
        self._stale = False
        self._looked = self._came = self._wrote = self._doubted = self._trimmed = time.monotonic()
        self._ends: dict[int, int] = {}
        # Partition → an offset before which every message has arrived or is invisible to readers, such as the end of a transaction.
        self._unseen: dict[int, int] = {}
        self._goal: dict[int, int] | None = None
        self._looker: Any = None

    @property
    def lag(self) -> int:
        """The number of messages of the source that are not in the store yet."""
        return sum(self._behind().values())

    def open(self) -> None:
        """Connects to the topic of contributions, at the position recorded with the last micro-batch, and starts the job if it does not run."""
        create_topics(self._settings, {self._job.name: 1})
        options = client_options(self._settings)
        self._consumer = KafkaConsumer(
            **options, isolation_level="read_committed", enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=_POLL_MS,
            max_poll_records=_AT_ONCE,
        )  # fmt: skip
        self._consumer.assign([self._topic])
        noted = self._writer.noted
        [earliest], [end] = (
            self._consumer.beginning_offsets([self._topic]).values(),
            self._consumer.end_offsets([self._topic]).values(),
        )
        self._position = earliest
        if noted.get("topic") == self._job.name and earliest <= noted["position"] <= end:
            self._position = noted["position"]
        elif noted.get("topic") == self._job.name:
            # The topic has lost contributions that may not have been written yet. A new job writes them again.
            self._stale = True
        self._consumer.seek(self._topic, self._position)
        self._see_ends()
        self._keep_job()
        if noted.get("topic") not in (None, self._job.name):
            # The topic belongs to another declaration or to a lost store, and its job has been cancelled.
            delete_topic(self._settings, noted["topic"])

    def step(self) -> None:
        """Reads contributions and writes them as soon as a micro-batch is complete. At intervals, checks the job and deletes old contributions."""
        polled = self._consumer.poll(timeout_ms=_WAITING_POLL_MS if self._rows else _POLL_MS, max_records=_AT_ONCE)
        records = polled.get(self._topic, [])
        current = time.monotonic()
        if records:
            self._came = current
            rows = contribution_rows([record.value for record in records], self._job.entities, self._job.inputs)
            rows = rows.append_column("position", pa.array([record.offset for record in records], pa.int64()))
            if not self._rows:
                self._wrote = current
            self._rows = pa.concat_tables([self._rows, rows]) if self._rows else rows
        if self._rows:
            self._write()
            self._writer.counters.rows_per_second = len(records) / max(time.monotonic() - current, 1e-9)
        if self._rows and current - max(self._wrote, self._doubted) > _DOUBT_SECONDS:
            self._doubted = current
            self._look_for_unseen()
        if current - self._looked > _LOOK_SECONDS:
            self._looked = current
            self._keep_job()
            self._see_ends()
            if current - self._came > _IDLE_SECONDS and self._behind():
                self._look_for_unseen()
            self._writer.hold_degraded()
            if current - self._trimmed > _TRIM_SECONDS:
                self._trimmed = current
                self._trim()

    def close(self) -> None:
        """Closes the connections."""
        self._cluster.close()
        for consumer in (getattr(self, "_consumer", None), self._looker):
            if consumer is not None:
                consumer.close()

    def _write(self) -> None:
        """Writes the rows that have arrived, if they complete a micro-batch."""
        rows, writer = self._rows, self._writer
        if writer.again:
            if not have_come(rows, writer.again.end, self._reached()):
                return
            if rows is None:
                writer.abandon()
            else:
                rows = writer.write_again(rows)
        if rows is not None:
            rows = writer.new(rows)
            waits = time.monotonic() - self._wrote > _WAIT_SECONDS
            if self._goal is None:
                self._see_ends()
                self._goal = next_ends(self._ends, writer.done, self._settings.speed_batch_events)
            if waits or have_come(rows, self._goal, self._reached()):
                inside, rows = (rows, rows.slice(0, 0)) if waits else split(rows, self._goal)
                self._noted = self._position
                writer.write(inside, {"topic": self._job.name, "position": self._noted})
                self._wrote, self._goal = time.monotonic(), None
        self._rows = rows or None
        of_waiting = ends_of(self._rows) if self._rows else {}
        writer.passed({partition: end for partition, end in self._unseen.items() if partition not in of_waiting})
        # At this position a later process has to begin, so that it reads all rows that are not written yet.
        self._position = pc.min(self._rows.column("position")).as_py() if self._rows else self._consumer.position(self._topic)

    def _reached(self) -> dict[int, int]:
        """Returns partition → an offset before which every message is in the store, has arrived, or is invisible to readers."""
        done = self._writer.done
        return {partition: max(done.get(partition, 0), self._unseen.get(partition, 0)) for partition in {*done, *self._unseen}}

    def _keep_job(self) -> None:
        """Starts the job if it does not run, and cancels the jobs of other declarations of the source."""
        jobs = self._cluster.jobs()
        if jobs is None:
            return
        prefix = f"{self._source.topic}.contributions."
        for name, ids in jobs.items():
            if name.startswith(prefix):
                for job_id in ids if name != self._job.name or self._stale else ids[1:]:
                    self._cluster.cancel(job_id)
        if self._job.name in jobs:
            self._failed = 0
            return
        partitions = self._consumer.partitions_for_topic(self._source.topic) or set()
        statements = self._job.statements(self._source, flink_options(self._settings), self._writer.done, partitions)
        try:
            self._cluster.submit(statements)
        except BraidError:
            # The cluster may have ended meanwhile.
            self._failed += 1
            if self._failed >= _ATTEMPTS:
                raise
            return
        self._failed, self._stale, self._wrote = 0, False, time.monotonic()

    def _see_ends(self) -> None:
        topic = self._source.topic
        partitions = [TopicPartition(topic, partition) for partition in self._consumer.partitions_for_topic(topic) or ()]
        try:
            self._ends = {each.partition: end for each, end in self._consumer.end_offsets(partitions).items()}
        except KafkaError:
            return

    def _behind(self) -> dict[int, int]:
        """Returns partition → the number of its messages that are not in the store yet, for partitions that have some."""
        done = self._writer.done
        return {partition: end - done.get(partition, 0) for partition, end in self._ends.items() if end > done.get(partition, 0)}

    def _look_for_unseen(self) -> None:
        """Checks whether the rest of a partition is invisible to readers, such as the ends of transactions. Then writes the rows that may go on."""
        come = ends_of(self._rows) if self._rows else {}
        if self._looker is None:
            self._looker = KafkaConsumer(
                **client_options(self._settings),
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
            )
        try:
            for partition in self._behind():
                topic, end = TopicPartition(self._source.topic, partition), self._ends[partition]
                self._looker.assign([topic])
                earliest = self._looker.beginning_offsets([topic])[topic]
                self._looker.seek(topic, max(earliest, self._writer.done.get(partition, 0), come.get(partition, 0)))
                for _ in range(_POLLS):
                    if self._looker.position(topic) >= end:
                        self._unseen[partition] = end
                        break
                    if self._looker.poll(timeout_ms=_UNSEEN_POLL_MS, max_records=1):
                        break
        except KafkaError:
            return
        self._write()

    def _trim(self) -> None:
        """Deletes the contributions before the last micro-batch. Those of the last micro-batch stay, because it may have to be made again."""
        try:
            earliest = self._consumer.beginning_offsets([self._topic])[self._topic]
            if self._noted > earliest:
                delete_messages(self._settings, self._job.name, {0: self._noted})
        except (KafkaError, BraidError):
            return
