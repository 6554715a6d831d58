"""Events → open tiles → online store: the one query of a source that a request sees within a fraction of a second.

Reads the stream of events once for all groups of the source, and for the older versions of them that are still served; puts tiles into the
online store, each by its absolute value, so that writing twice, which a restart does, changes nothing. The tasks write, before Spark commits
the micro-batch; so whoever reads an offset as done (`speed.progress`) finds its tile in the store. A task reads the open tiles of the entities
that have new events, folds the events into them (`speed.fold`), and puts the tiles, each entity's in one step with which events they have; then its mark
(`store.tiles`), by which a store that has lost them is noticed. A task that is killed in between is made again, and passes over what is there.

The tasks that read the topic ask the store which of their events are copies (`speed.copies`). Spark has no state, so a version that is served no more leaves
the query and its checkpoint goes on.

The Python that writes is part of the streaming plan, before a sink that takes no rows, rather than in `foreachBatch`: that would
plan a second job per micro-batch and go through the driver's Python.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery
from pyspark.sql.streaming.readwriter import DataStreamWriter
from pyspark.sql.types import ByteType, StructField, StructType

from features.declaration import FeatureGroup
from features.sources import EventSource
from infra.settings import Settings
from speed.copies import COPY, COUNTS, LATE, OBSERVED, VERDICT, micro_batch, with_verdicts, without_later_copies
from speed.fold import contributions_of, first_starts, fold_into
from speed.stream import by_entity, contributions, input_names, judged_events, slots
from store.protocol import Folded, Mark, Store
from store.server import writing_store

#: The notes that name the checkpoint of each source; those of a layout in which Spark had the ids of events are none of these.
_NOTES = "stream checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the query of a source.

    Attributes:
        name: Of its folder, and of the store's memory of the events that it has read.
        tokens: Version of a group → the token of its stream of tiles, of those that it has read from the beginning.
        tasks: How many tasks write tiles.
    """

    name: str
    tokens: Mapping[str, str]
    tasks: int


@dataclass(frozen=True)
class Target:
    """A version of a group whose tiles a query writes.

    Attributes:
        group: The version.
        token: The name of its stream of tiles.
        slot: The place of its entity in the rows.
        inputs: The columns of its inputs.
    """

    group: FeatureGroup
    token: str
    slot: int
    inputs: tuple[str, ...]


def checkpoints(store: Store) -> list[str]:
    """The names of the checkpoints of all sources."""
    return [str(note["name"]) for note in store.notes(_NOTES).values()]


def recorded_tokens(store: Store, source: EventSource) -> Mapping[str, str]:
    """The tokens of the checkpoint of a source."""
    last = _last_checkpoint(store, source)
    return last.tokens if last else {}


def checkpoint_of(store: Store, source: EventSource, tokens: Mapping[str, str], tasks: int) -> Checkpoint:
    """The checkpoint that has read everything of these streams of tiles (version of a group → token).

    A stream that the last checkpoint did not have is read from the first message, hence by a checkpoint that begins; the others pass over what they have.
    The first checkpoint of a source decides the number of tasks, because each of them leaves marks.
    """
    last = _last_checkpoint(store, source)
    if last and tokens.items() <= last.tokens.items():
        return last
    checkpoint = Checkpoint(uuid.uuid4().hex[:12], tokens, last.tasks if last else tasks)
    store.note(_NOTES, source.name, asdict(checkpoint))
    return checkpoint


def _last_checkpoint(store: Store, source: EventSource) -> Checkpoint | None:
    note = store.notes(_NOTES).get(source.name)
    return Checkpoint(**note) if note else None


def start_online(
    spark: SparkSession,
    settings: Settings,
    source: EventSource,
    streams: Sequence[tuple[FeatureGroup, str]],
    checkpoint: Checkpoint,
) -> StreamingQuery:
    """Starts the query of a source; `streams` are versions of its groups, each with the token of its stream of tiles."""
    name = f"online_{source.name}"
    writer = online_writer(spark, settings, streams, checkpoint).trigger(
        processingTime=f"{settings.speed_trigger_seconds * 1_000:.0f} milliseconds"
    )
    return writer.queryName(name).option("checkpointLocation", settings.checkpoint(f"{name}_{checkpoint.name}")).start()


def online_writer(
    spark: SparkSession,
    settings: Settings,
    streams: Sequence[tuple[FeatureGroup, str]],
    checkpoint: Checkpoint,
    at_most: int | None = None,
) -> DataStreamWriter:
    """The query of groups of one source, to be started; `at_most` as in `speed.stream.messages`."""
    groups = [group for group, _ in streams]
    source, places = groups[0].source, slots(groups)
    targets = [Target(group, token, places[group.entity_sql], tuple(input_names(groups, group))) for group, token in streams]
    events = judged_events(spark, settings, source, at_most).withWatermark(source.time, f"{settings.watermark_seconds} seconds")
    counting = counted(settings, checkpoint.name, contributions(groups, events).drop(source.time))
    write = partial(write_tiles, settings, checkpoint.name, targets)
    tiles = by_entity(groups, counting, checkpoint.tasks).mapInArrow(write, "tiles BIGINT")
    return tiles.writeStream.outputMode("append").format("noop")


def counted(settings: Settings, memory: str, rows: DataFrame) -> DataFrame:
    """Of contributions those that count: neither late nor copies, of which the progress has the numbers."""
    judged = rows.mapInArrow(
        partial(with_verdicts, settings, memory), StructType([*rows.schema.fields, StructField(VERDICT, ByteType())])
    )
    numbers = {"late_rows": LATE, "copies": COPY}
    observed = judged.observe(OBSERVED, *(F.count_if(F.col(VERDICT) == verdict).alias(name) for name, verdict in numbers.items()))
    return observed.where(F.col(VERDICT) == COUNTS).drop(VERDICT)


def write_tiles(
    settings: Settings, memory: str, targets: Sequence[Target], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Folds the events of a task and writes their tiles, each group's with the task's mark behind them; runs in Spark's Python workers. Gives how many."""
    store, written = writing_store(settings), 0
    _, batch_id, _ = micro_batch()
    # All rows of an entity at once: what is folded of it once is passed over when it comes again.
    collected = [batch for batch in batches if batch.num_rows]
    of_slot: dict[int, pa.Table] = {}
    if collected:
        rows = without_later_copies(store, memory, pa.Table.from_batches(collected))
        of_slot = {slot: rows.filter(pc.equal(rows.column("slot"), slot)) for slot in {target.slot for target in targets}}
    task = TaskContext.get()
    assert task is not None
    for target in targets:
        tiles, folded = fold_rows(store, target, of_slot[target.slot]) if of_slot else ([], None)
        kept_seconds = settings.tiles_kept_seconds(target.group.buffer_ms)
        store.put_tiles(target.group, tiles, kept_seconds, Mark(target.token, task.partitionId(), batch_id), folded)
        written += len(tiles)
    yield pa.record_batch({"tiles": pa.array([written], pa.int64())})


def fold_rows(store: Store, target: Target, rows: pa.Table) -> tuple[list[tuple[int | str, int, bytes]], Folded]:
    """The rows of a group's entities, folded into the tiles that the store has of them: what is to be put."""
    group, new = target.group, contributions_of(target.group, rows, target.inputs)
    tiles, offsets = fold_into(group, new, store.open_tiles(group, target.token, first_starts(group, new)))
    return tiles, Folded(target.token, offsets)
