"""The first histories of a stream in Kappa (`features.history`), made from the lake, because Kafka may no longer hold all events.

Reads the table of events, with the messages of the archive up to one commit; folds them by the contributions of the stream (`speed.stream`); writes
the history and the open tiles of each entity. The stream then counts the messages from the offsets on that this commit had reached. So each message
counts exactly once, in the first histories or in the stream. The stream also reads the earlier messages that Kafka holds, so that it knows the ids of
their events (`speed.copies`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from batch.events import archive_state, events_up_to
from batch.partials import ROWS_PER_PARTITION
from features.aggregations import Series
from features.declaration import FeatureGroup
from features.history import fold_histories, pack_history
from features.sources import EventSource
from features.speed_value import pack_tile
from features.tiles import runs
from features.windows import floor_ms
from infra.errors import NotReadyError
from infra.settings import Settings
from speed.archive import archived_offsets
from speed.fold import contributions_of, fold
from speed.online import Target
from speed.session import COMPILED, EXPRESSIONS
from speed.stream import by_entity, contributions, input_names, slots
from store.protocol import Folded, Tiles
from store.server import writing_store

_ATTEMPTS = 5
#: The properties of a large query. They undo those of `speed.session`, which are for micro-batches.
_BATCH_PROPERTIES = {"spark.sql.optimizer.excludedRules": "", EXPRESSIONS: COMPILED}


def begin_histories(
    spark: SparkSession, settings: Settings, source: EventSource, topic: str, streams: Sequence[tuple[FeatureGroup, Tiles]]
) -> list[Tiles]:
    """Makes the first histories of versions of a source's groups, and writes them to the store.

    Args:
        spark: The speed layer's session.
        settings: The settings with the paths of the lake and the URL of the store.
        source: The source of all groups.
        topic: The identity of its topic.
        streams: The versions, each with its stream, which has not begun.

    Returns:
        The streams of tiles, with the offsets at which they begin and the size of their histories.

    Raises:
        NotReadyError: At each attempt another process added later messages to the table of events.
    """
    session = spark.newSession()
    for name, value in _BATCH_PROPERTIES.items():
        session.conf.set(name, value)
    for attempt in Retrying(retry=retry_if_exception_type(NotReadyError), stop=stop_after_attempt(_ATTEMPTS), reraise=True):
        with attempt:
            archive = archive_state(session, settings, source)
            # Read before the events, because reading the events may take longer than a checkpoint keeps the offsets of a micro-batch.
            begins = archived_offsets(session, settings, source, topic, archive.transactions) if archive else {}
            events = events_up_to(session, settings, source, archive)
    groups = [group for group, _ in streams]
    newest = None if events is None else events.agg(F.max("ts_ms"), F.count("ts_ms")).first()
    if events is None or newest is None or newest[0] is None:
        return [replace(tiles, begins=begins) for _, tiles in streams]
    newest_ms, count = newest
    places, closed_ms = slots(groups), newest_ms - settings.watermark_seconds * 1_000 + 1
    targets = [
        Target(group, tiles.token, places[group.entity_sql], tuple(input_names(groups, group)), begins) for group, tiles in streams
    ]
    until_ms = {group.fingerprint: floor_ms(closed_ms, group.tile_ms) for group in groups}
    reach_ms = [
        feature.window.start_ms(until_ms[group.fingerprint]) if feature.window else None
        for group in groups
        for feature in group.features
    ]
    if all(ms is not None for ms in reach_ms):
        events = events.where(F.col("ts_ms") >= min(ms for ms in reach_ms if ms is not None))
    # An event that was loaded from a file has no place in the topic.
    typed = events.withColumns({name: F.coalesce(name, F.lit(-1)) for name in ("kafka_partition", "kafka_offset")})
    tasks = max(spark.sparkContext.defaultParallelism, -(-count * len(places) // ROWS_PER_PARTITION))
    rows = by_entity(groups, contributions(groups, typed), tasks)
    written = rows.mapInArrow(partial(write_histories, settings, targets, until_ms), "token STRING, entities BIGINT")
    entities = {row[0]: row[1] for row in written.groupBy("token").agg(F.sum("entities")).collect()}
    return [replace(tiles, begins=begins, as_of_ms=newest_ms, entities=entities.get(tiles.token, 0)) for _, tiles in streams]


def write_histories(
    settings: Settings, targets: Sequence[Target], until_ms: Mapping[str, int], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Writes the histories and open tiles of a task's entities. They replace all values that the store has of these entities and versions.

    Runs in Spark's Python workers.

    Args:
        settings: The settings with the URL of the store.
        targets: The versions.
        until_ms: Fingerprint → the end of the histories, in ms.
        batches: The rows of `speed.stream.by_entity`.

    Yields:
        A row per version: the token of its stream of tiles, and the number of its entities.
    """
    collected = [batch for batch in batches if batch.num_rows]
    if not collected:
        return
    store, table = writing_store(settings), pa.Table.from_batches(collected)
    for target in targets:
        rows = table.filter(pc.equal(table.column("slot"), target.slot))
        group, end_ms = target.group, until_ms[target.group.fingerprint]
        events = contributions_of(group, rows, target.inputs)
        open_events = events.take(events.ts_ms >= end_ms)
        open_tiles = fold(group, open_events) if len(open_events.entity) else []
        tiles = [(entity, start_ms, pack_tile(group, start_ms, tile)) for entity, start_ms, tile in open_tiles]
        closed = events.take(np.lexsort((events.ts_ms, events.entity)))
        closed = closed.take(closed.ts_ms < end_ms)
        series = [Series(closed.ts_ms, values, present) for values, present in closed.inputs]
        first, _ = runs(closed.entity)
        ids = [events.entities[index] for index in closed.entity[first].tolist()]
        histories = fold_histories(group, series, closed.entity, end_ms) if ids else []
        packed = {entity: pack_history(group, history) for entity, history in zip(ids, histories, strict=True)}
        folded = Folded(target.token, {entity: {} for entity in events.entities}, events.entities)
        store.put_tiles(group, tiles, 0, None, folded, packed)
        yield pa.record_batch({"token": pa.array([target.token]), "entities": pa.array([len(events.entities)], pa.int64())})
