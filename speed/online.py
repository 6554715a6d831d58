"""The online query of a source: events → open tiles → the online store, where a request reads them within a fraction of a second.

Reads the stream of events once for all groups of the source, with the older versions of them that are still served; writes tiles into the online
store. A tile is written by its absolute value, so a second write after a restart changes nothing. The tasks write their tiles before Spark
commits the micro-batch. So if the progress (`speed.progress`) names an offset as done, the tiles of the messages before it are in the store.

A task reads the open tiles of the entities that have new events, folds the events into them (`speed.fold`), and writes the tiles; one step per entity
writes its tiles and the offsets of their events. Then the task writes its mark (`store.tiles`), which shows later whether the store has lost tiles. A
task that was killed is made again, and skips the events that are in the tiles already.

The tasks that read the topic ask the store which of their events are copies (`speed.copies`). Spark has no state. So when a version is served no
more, the query goes on without the version, with the same checkpoint.

The Python code that writes is a part of the streaming plan, before a sink that takes no rows. `foreachBatch` would plan a second job per micro-batch,
and would run through the Python process of the driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.readwriter import DataStreamWriter
from pyspark.sql.types import ByteType, StructField, StructType

from features.declaration import FeatureGroup
from features.merge import EVER_MS
from features.windows import floor_ms
from infra.settings import Settings
from speed.checkpoints import Checkpoint
from speed.copies import (
    COPY,
    COUNTING,
    FOR_THE_BATCH,
    OBSERVED,
    VERDICT,
    MicroBatch,
    micro_batch,
    watermark_before,
    with_verdicts,
    without_later_copies,
)
from speed.fold import Contributions, contributions_of, first_starts, fold_into, roll_into
from speed.stream import by_entity, contributions, input_names, judged_events, slots
from store.protocol import Folded, Mark, Opening, Store, Tiles, Writing
from store.server import writing_store

#: The number of rows times groups that are folded between two requests to the store. A larger number costs memory and hardly saves time.
FOLDED_AT_ONCE = 50_000


@dataclass(frozen=True)
class Target:
    """A version of a group whose tiles a query writes.

    Attributes:
        group: The version.
        token: The name of its stream of tiles.
        slot: The slot of its entity (`speed.stream.slots`).
        inputs: The columns of its inputs.
        begins: Partition → the offset of the first message that counts. The first histories contain the events of earlier messages.
    """

    group: FeatureGroup
    token: str
    slot: int
    inputs: tuple[str, ...]
    begins: Mapping[int, int]


def online_writer(
    spark: SparkSession,
    settings: Settings,
    streams: Sequence[tuple[FeatureGroup, Tiles]],
    checkpoint: Checkpoint,
    at_most: int | None = None,
) -> DataStreamWriter:
    """Returns the query of groups of one source, ready to be started.

    Args:
        spark: The speed layer's session.
        settings: The settings of the deployment.
        streams: The versions of the groups, each with its stream of tiles.
        checkpoint: The checkpoint with which the query goes on.
        at_most: As in `speed.stream.messages`.
    """
    groups = [group for group, _ in streams]
    source, targets = groups[0].source, targets_of(streams)
    events = judged_events(spark, settings, source, at_most).withWatermark(source.time, f"{settings.watermark_seconds} seconds")
    counting = counted(settings, checkpoint.name, source.name, contributions(groups, events).drop(source.time))
    write = partial(write_tiles, settings, checkpoint.name, targets)
    tiles = by_entity(groups, counting, checkpoint.tasks).mapInArrow(write, "tiles BIGINT")
    return tiles.writeStream.outputMode("append").format("noop")


def targets_of(streams: Sequence[tuple[FeatureGroup, Tiles]]) -> list[Target]:
    """Returns the targets of the query of groups of one source, in the order of the streams."""
    groups = [group for group, _ in streams]
    places = slots(groups)
    return [
        Target(group, tiles.token, places[group.entity_sql], tuple(input_names(groups, group)), tiles.begins or {})
        for group, tiles in streams
    ]


def counted(settings: Settings, memory: str, source: str, rows: DataFrame) -> DataFrame:
    """Returns the contributions that are neither late nor copies. The progress of the query reports the numbers of both."""
    judged = rows.mapInArrow(
        partial(with_verdicts, settings, memory, source), StructType([*rows.schema.fields, StructField(VERDICT, ByteType())])
    )
    verdict = F.col(VERDICT)
    numbers = {"late_rows": verdict.isin(*FOR_THE_BATCH), "copies": verdict == COPY}
    observed = judged.observe(OBSERVED, *(F.count_if(condition).alias(name) for name, condition in numbers.items()))
    return observed.where(verdict.isin(*COUNTING)).drop(VERDICT)


def write_tiles(
    settings: Settings, memory: str, targets: Sequence[Target], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Folds the events of a task, and writes their tiles and then the marks of the task. Yields one row: the number of tiles.

    Runs in Spark's Python workers.
    """
    store = writing_store(settings)
    # All rows of an entity have to be folded at once: the store records the highest offset, and later rows before that offset would be skipped.
    collected = [batch for batch in batches if batch.num_rows]
    of_slot: dict[int, pa.Table] = {}
    if collected:
        rows = without_later_copies(store, memory, pa.Table.from_batches(collected))
        of_slot = {slot: rows.filter(pc.equal(rows.column("slot"), slot)) for slot in {target.slot for target in targets}}
    task = TaskContext.get()
    assert task is not None
    written = put_part(store, settings, targets, micro_batch(), task.partitionId(), of_slot)
    yield pa.record_batch({"tiles": pa.array([written], pa.int64())})


def put_part(
    store: Store, settings: Settings, targets: Sequence[Target], batch: MicroBatch, task: int, of_slot: Mapping[int, pa.Table]
) -> int:
    """Folds a part of a micro-batch, and writes the tiles and then the marks of all groups. Returns the number of tiles.

    All groups share the round trips to the store, because on a machine without an idle core each round trip waits for its turn.

    Args:
        store: The online store.
        settings: The settings with the architecture and with how long tiles are kept.
        targets: The versions whose tiles are written.
        batch: The micro-batch.
        task: The number of the part. All events of an entity are in one part.
        of_slot: Slot → all rows of its entities: entity, ts_ms, the place of the message, the inputs. Empty for a part without rows.
    """
    watermark_ms = watermark_before(store, settings, batch) if settings.kappa and of_slot else None
    rows = max((table.num_rows for table in of_slot.values()), default=0)
    groups = max(1, FOLDED_AT_ONCE // max(rows, 1))
    written = 0
    for begun in range(0, len(targets), groups):
        some = targets[begun : begun + groups]
        writings = (
            fold_rows(store, settings, some, of_slot, watermark_ms)
            if of_slot
            else [Writing(target.group, [], 0) for target in some]
        )
        written += sum(len(writing.tiles) for writing in writings)
        marks = [Mark(target.token, task, batch.number) for target in some]
        store.put_all_tiles([replace(writing, mark=mark) for writing, mark in zip(writings, marks, strict=True)])
    return written


def fold_rows(
    store: Store, settings: Settings, targets: Sequence[Target], of_slot: Mapping[int, pa.Table], watermark_ms: int | None
) -> list[Writing]:
    """Folds the rows of entities into their stored tiles. Returns the tiles to be written, without marks.

    Args:
        store: The online store.
        settings: The settings with the architecture and with how long tiles are kept.
        targets: The versions.
        of_slot: Slot → all rows of its entities.
        watermark_ms: In an architecture with histories the watermark; None before the first event.
    """
    # Groups of the same entity and inputs share their columns.
    columns: dict[tuple[object, ...], Contributions] = {}
    new = []
    for target in targets:
        what = target.slot, target.group.entity_type, target.inputs, *target.begins.items()
        if what not in columns:
            columns[what] = contributions_of(target.group, _since(of_slot[target.slot], target.begins), target.inputs)
        new.append(columns[what])
    openings = []
    for target, its_new in zip(targets, new, strict=True):
        group, closed_ms = target.group, None
        if settings.kappa:  # an event at the watermark is late
            closed_ms = EVER_MS if watermark_ms is None else floor_ms(watermark_ms + 1, group.tile_ms)
        openings.append(Opening(group, target.token, first_starts(group, its_new), closed_ms))
    writings = []
    for target, its_new, opening, opened in zip(targets, new, openings, store.open_tiles(openings), strict=True):
        group = target.group
        if opening.closed_ms is not None:
            rolled = roll_into(group, its_new, opened, opening.closed_ms)
            tiles, offsets, histories = rolled.tiles, rolled.folded, rolled.histories
        else:
            tiles, offsets = fold_into(group, its_new, opened)
            histories = None
        states = dict(zip(its_new.entities, opened, strict=True))
        fresh = [entity for entity, state in states.items() if state is not None and state.of_another]
        seconds = settings.tiles_kept_seconds(group.buffer_ms)
        writings.append(Writing(group, tiles, seconds, None, Folded(target.token, offsets, fresh), histories, states))
    return writings


def _since(rows: pa.Table, begins: Mapping[int, int]) -> pa.Table:
    """Returns the rows without those that lie before the offset of their partition."""
    for partition, offset in begins.items():
        before = pc.and_(pc.equal(rows.column("kafka_partition"), partition), pc.less(rows.column("kafka_offset"), offset))
        rows = rows.filter(pc.invert(before))
    return rows
