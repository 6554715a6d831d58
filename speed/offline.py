"""The offline store of the speed layer: closed tiles → Delta `{group}_realtime`, one row per entity and tile, which never changes.

Reads the raw archive, which has every message of the stream, every few minutes; appends the tiles that the watermark of the online query has passed
since the last run. The columns of the features have the finished values of this tile alone, at its end, for people to read. `packed` has the value to
compute with.

A run begins when the archive has all messages that the online query had read when it reported its watermark. The run reads from the first message
whose event was in a tile that was still open at the last run. A message that was too late for the online store is in its tile here, if it was
archived before the tile was written; the batch counts it in any case. A run that is killed is made again. The tiles in the table of a group
determine where the next run begins for the group.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from features.declaration import FeatureGroup
from features.packed import TileValue, encode
from features.sources import EventSource
from features.windows import floor_ms
from infra.settings import Settings
from speed.fold import contributions_of, fold
from speed.progress import Board
from speed.session import pool
from speed.stream import ARRIVAL, PLACE, by_entity, contributions, input_names, judged
from store.protocol import Store

#: About how many rows a task folds.
_ROWS_PER_TASK = 200_000
_NOTES = "offline"
_LOOK_SECONDS = 0.25
#: The part of the online query's progress that a run reports as its own. It is the progress with which the run began.
_REPORTED = ("offsets", "batch_id", "watermark_ms", "oldest_event_ms", "newest_event_ms")


def table_of(group: FeatureGroup) -> str:
    """Returns the name of the Delta table with a group's closed tiles."""
    return f"{group.name}_realtime"


class OfflineStore:
    """The writer of a source's offline store. It runs in its own thread.

    Args:
        spark: The speed layer's session.
        settings: The settings with the path of the lake.
        store: The online store, which records how far the runs have read.
        source: The source.
        groups: The groups of the source.
        topic: The identity of the source's topic.

    Attributes:
        failure: Why a run has failed; None if none has.
    """

    def __init__(
        self, spark: SparkSession, settings: Settings, store: Store, source: EventSource, groups: Sequence[FeatureGroup], topic: str
    ) -> None:
        self.source = source
        self.failure: str | None = None
        self._spark, self._settings, self._store, self._groups, self._topic = spark, settings, store, groups, topic
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, board: Board, ended: threading.Event) -> None:
        """Starts the thread. It makes runs until `stop`, until `ended` is set or until a run fails, and reports its progress to the board."""
        if self._groups:
            self._thread = threading.Thread(target=self._run, args=(board, ended), name=f"offline {self.source.name}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Makes the thread end after its present run."""
        self._over.set()

    def _run(self, board: Board, ended: threading.Event) -> None:
        done: tuple[Any, ...] = ()
        try:
            with pool(self._spark, "background"):
                while not self._over.is_set() and not ended.is_set():
                    began = time.monotonic()
                    entry = dict(board.entry(f"online:{self._groups[0].name}"))
                    read = entry["offsets"], entry.get("watermark_ms")
                    if read != done and read[1] and self._archived(board, read[0], ended):
                        write_closed(self._spark, self._settings, self._store, self._groups, self._topic, read[1])
                        for group in self._groups:
                            board.report(f"offline:{group.name}", {name: entry.get(name) for name in _REPORTED})
                        done = read
                    self._over.wait(max(_LOOK_SECONDS, self._settings.offline_seconds - (time.monotonic() - began)))
        except Exception as error:  # noqa: BLE001 — the process ends after any error, and reports it
            if not self._over.is_set() and not ended.is_set():
                self.failure = " ".join(f"{type(error).__name__}: {error}".split())[:1_000]

    def _archived(self, board: Board, offsets: Mapping[str, int], ended: threading.Event) -> bool:
        """Waits until the archive has the messages before the offsets. Returns False if the process ends meanwhile."""
        while not self._over.is_set() and not ended.is_set():
            archived = board.entry(f"archive:{self.source.name}")["offsets"]
            if all(archived.get(partition, 0) >= offset for partition, offset in offsets.items()):
                return True
            self._over.wait(_LOOK_SECONDS)
        return False


def write_closed(
    spark: SparkSession, settings: Settings, store: Store, groups: Sequence[FeatureGroup], topic: str, watermark_ms: int
) -> None:
    """Appends the tiles that end at or before the watermark and are not in their tables yet.

    Args:
        spark: The speed layer's session.
        settings: The settings with the path of the lake.
        store: The online store, which records how far the runs have read.
        groups: The groups, all of one source.
        topic: The identity of the source's topic.
        watermark_ms: The watermark of the online query.
    """
    source = groups[0].source
    note = store.notes(_NOTES).get(source.name, {})
    position = note if note.get("topic") == topic else {"offsets": {}, "day": None}
    archive = spark.read.format("delta").load(settings.table(source.archive_table))
    raw = archive.where(_from(position)).select(*PLACE.values(), "arrival_ms", "arrival_day", "value")
    typed = judged(settings, raw, source, {**PLACE, "arrival_day": "arrival_day"}).where("_reason IS NULL").persist()
    try:
        begins_ms = {group.name: _begin_ms(spark, settings, group) for group in groups}
        ends_ms = {group.name: floor_ms(watermark_ms, group.tile_ms) for group in groups}
        for group in groups:
            begin_ms, end_ms = begins_ms[group.name], ends_ms[group.name]
            closed = (
                typed.where(f"ts_ms >= {begin_ms} AND ts_ms < {end_ms}")
                if begin_ms is not None
                else typed.where(f"ts_ms < {end_ms}")
            )
            count = closed.count()
            if count:
                _append(settings, group, closed, count)
        open_from_ms = min(ends_ms.values())
        still_open = typed.where(f"ts_ms >= {open_from_ms}")
        first = (
            still_open.groupBy("kafka_partition")
            .agg(F.min("kafka_offset").alias("offset"), F.min("arrival_day").alias("day"))
            .collect()
        )
        ends = raw.groupBy("partition").agg((F.max("offset") + 1).alias("offset"), F.max("arrival_day").alias("day")).collect()
    finally:
        typed.unpersist()
    offsets = {**position["offsets"], **{str(row["partition"]): row["offset"] for row in ends}}
    offsets |= {str(row["kafka_partition"]): row["offset"] for row in first}
    days = [str(row["day"]) for row in (first or ends)]
    store.note(_NOTES, source.name, {"topic": topic, "offsets": offsets, "day": min(days, default=position["day"])})


def _from(position: Mapping[str, Any]) -> str:
    """Returns the condition on messages at or after a position. The condition on the day lets Delta skip the files of earlier days.

    By the clock of its producer, a message may arrive on the day before the messages that were read already.
    """
    listed = " ".join(f"WHEN {partition} THEN offset >= {offset}" for partition, offset in position["offsets"].items())
    after = f"CASE partition {listed} ELSE true END" if listed else "true"
    return f"{after} AND arrival_day >= date_sub(DATE'{position['day']}', 1)" if position["day"] else after


def _begin_ms(spark: SparkSession, settings: Settings, group: FeatureGroup) -> int | None:
    """Returns the end of the last tile of this version in the table, in ms; None if it has no tile."""
    path = settings.table(table_of(group))
    if not DeltaTable.isDeltaTable(spark, path):
        return None
    rows = spark.read.format("delta").load(path).where(F.col("fingerprint") == group.fingerprint)
    last = rows.agg(F.max("tile_start_ms").alias("last_ms")).first()
    return None if last is None or last["last_ms"] is None else int(last["last_ms"]) + group.tile_ms


def _append(settings: Settings, group: FeatureGroup, typed: DataFrame, count: int) -> None:
    first = Window.partitionBy("event").orderBy(*ARRIVAL)
    events = contributions([group], typed).withColumn("_rank", F.row_number().over(first)).where("_rank = 1")
    parallelism = typed.sparkSession.sparkContext.defaultParallelism
    rows = by_entity([group], events, max(parallelism, -(-count // _ROWS_PER_TASK)))
    finished = rows.mapInArrow(partial(finish_tiles, group), tile_schema_sql(group))
    (
        finished.withColumn("tile_end", F.timestamp_millis(F.col("tile_start_ms") + group.tile_ms))
        # A feature that is declared later becomes a new column.
        .write.format("delta").mode("append").option("mergeSchema", "true").save(settings.table(table_of(group)))
    )  # fmt: skip


def tile_schema_sql(group: FeatureGroup) -> str:
    """Returns the columns of the table except tile_end, as a schema in SQL.

    A changed declaration must not change the type of a column, because Delta refuses that. So all numeric features are DOUBLE, and all lists are
    in one map: name → JSON.
    """
    features = [f"`{name}` DOUBLE" for name in group.model_names]
    features += ["lists MAP<STRING, STRING>"] if _lists(group) else []
    return (
        f"entity {group.entity_type.value}, fingerprint STRING, tile_start_ms BIGINT, first_ms BIGINT, last_ms BIGINT, "
        f"{', '.join(features)}, packed BINARY"
    )


def finish_tiles(group: FeatureGroup, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Folds the events of a task, and yields their tiles with finished values. Runs in Spark's Python workers."""
    collected = [batch for batch in batches if batch.num_rows]
    if not collected:
        return
    new = contributions_of(group, pa.Table.from_batches(collected), input_names([group], group))
    yield pa.record_batch(_columns(group, fold(group, new)))


def _columns(group: FeatureGroup, tiles: Sequence[tuple[int | str, int, TileValue]]) -> dict[str, pa.Array]:
    entity_type = pa.int64() if group.entity_type.value == "BIGINT" else pa.string()
    columns = {
        "entity": pa.array([entity for entity, _, _ in tiles], entity_type),
        "fingerprint": pa.array([group.fingerprint] * len(tiles)),
        "tile_start_ms": pa.array([start_ms for _, start_ms, _ in tiles], pa.int64()),
        "first_ms": pa.array([tile.first_ms for _, _, tile in tiles], pa.int64()),
        "last_ms": pa.array([tile.last_ms for _, _, tile in tiles], pa.int64()),
    }
    values: dict[str, list[Any]] = {
        feature.name: [
            feature.aggregation.finalize(tile.partials[index], start_ms + group.tile_ms, group.scale_of(index))
            for _, start_ms, tile in tiles
        ]
        for index, feature in enumerate(group.features)
    }
    for name in group.model_names:
        columns[name] = pa.array([None if value is None else float(value) for value in values[name]], pa.float64())
    if lists := _lists(group):
        texts = ({name: json.dumps(value) for name in lists if (value := values[name][row])} for row in range(len(tiles)))
        columns["lists"] = pa.array([list(one.items()) for one in texts], pa.map_(pa.string(), pa.string()))
    columns["packed"] = pa.array([encode(tile) for _, _, tile in tiles], pa.binary())
    return columns


def _lists(group: FeatureGroup) -> list[str]:
    return [name for name in group.feature_names if name not in group.model_names]
