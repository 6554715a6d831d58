"""The batch view: the partials of each entity before batch_end.

Reads the tiles, the history before them, the events of the tile that batch_end cuts, and the events of the days in which exact windows
begin. Writes `view_{group}`: the packed value for the online store, and the finished features for people.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import takewhile

import pyarrow as pa
import pyarrow.compute as pc
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType, _parse_datatype_string

from batch.events import no_events
from batch.history import tiles_for_view
from batch.partials import arrow_schema, by_entity, numpy_of, partials_from_arrow, whole_partition
from batch.tables import partitions_of, retry_conflicts, table_state
from batch.tiles import fold_events, stale_between, tiles_table
from features.aggregations import Partial
from features.declaration import FeatureGroup
from features.instants import utc_day
from features.packed import encode
from features.sources import EventSource
from features.tiles import runs
from features.view import build_view as build_entity_view
from features.view import exact_span_ms
from features.windows import floor_ms
from infra.errors import NotReadyError
from infra.settings import Settings

#: The operation of Delta with which `batch.erasure` deletes entities from a view.
_ERASURE = "DELETE"
_SKIP_EMPTY = "spark.databricks.delta.skipRecordingEmptyCommits"


@dataclass(frozen=True)
class ViewReport:
    """The numbers of written entities and of read tiles (including the history's tile of each entity), the batch_end, and the Delta version."""

    entities: int
    tiles: int
    batch_end_ms: int
    version: int


def view_table(group: FeatureGroup) -> str:
    """Returns the name of the group's Delta table with its batch view."""
    return f"view_{group.name}"


@dataclass(frozen=True)
class StoredView:
    """A group's view as of one commit: its rows, its batch_end, the time at which it was built, and the Delta version."""

    rows: DataFrame
    batch_end_ms: int
    built_at_ms: int
    version: int


def published_version(spark: SparkSession, settings: Settings, group: FeatureGroup, noted: int) -> int | None:
    """Returns the Delta version of the published view, without the entities that were erased from it since its publication.

    Args:
        spark: The session.
        settings: The settings, with the place of the lake.
        group: The group.
        noted: The version that was published.

    Returns:
        None if the view is of another declaration, if it is no longer in the log, or if a later view replaced it before entities were erased.
    """
    path = settings.table(view_table(group))
    if not table_state(spark, path):
        return None
    since = DeltaTable.forPath(spark, path).history().where("userMetadata IS NOT NULL").where(F.col("version") >= noted)
    commits = since.orderBy("version").select("version", "operation", "userMetadata").collect()
    if not commits or commits[0]["version"] != noted or json.loads(commits[0]["userMetadata"])["fingerprint"] != group.fingerprint:
        return None
    erased = list(takewhile(lambda commit: commit["operation"] == _ERASURE, commits[1:]))
    if any(commit["operation"] == _ERASURE for commit in commits[1 + len(erased) :]):
        return None
    return int([commits[0], *erased][-1]["version"])


def read_view(spark: SparkSession, settings: Settings, group: FeatureGroup, version: int | None = None) -> StoredView:
    """Returns the group's view of a Delta version, by default the latest.

    Raises:
        NotReadyError: There is no such view, or it is of another version of the declaration.
    """
    path = settings.table(view_table(group))
    written = None
    if table_state(spark, path):
        commits = DeltaTable.forPath(spark, path).history().where("userMetadata IS NOT NULL")
        if version is not None:
            commits = commits.where(F.col("version") == version)
        written = commits.orderBy("version", ascending=False).first()
    metadata = json.loads(written["userMetadata"]) if written else {}
    if written is None or metadata["fingerprint"] != group.fingerprint:
        raise NotReadyError(f"There is no batch view of the current version of {group.name}.", "Run `braid backfill`.")
    view = spark.read.format("delta").option("versionAsOf", written["version"]).load(path)
    built_at_ms = int(written["timestamp"].timestamp() * 1_000)
    return StoredView(view, int(metadata["batch_end_ms"]), built_at_ms, int(written["version"]))


def default_batch_end_ms(spark: SparkSession, settings: Settings, source: EventSource, now_ms: int) -> int:
    """Returns the latest batch_end before which the table holds every event; at most `now_ms`.

    For loaded events it lies just after the last event. For streamed events it is the watermark, after which the stream may still accept events.

    Raises:
        NoEventsError: There are no events.
    """
    state = table_state(spark, settings.table(source.table))
    days = [date.fromisoformat(day) for (day,) in partitions_of(spark, state)] if state else []
    if state is None or not days:
        raise no_events(source)
    # Older loaded events cannot change the result, because they lie before the watermark of the streamed events.
    since = max(days) - timedelta(seconds=settings.watermark_seconds) - timedelta(days=1)
    last = state.read(spark).where(F.col("day") >= since)
    newest = {row["origin"]: row["newest"] for row in last.groupBy("origin").agg(F.max("ts_ms").alias("newest")).collect()}
    ends_ms = [newest["load"] + 1] if "load" in newest else []
    ends_ms += [newest["stream"] - settings.watermark_seconds * 1_000] if "stream" in newest else []
    return min(max(ends_ms), now_ms)


def build_view(spark: SparkSession, settings: Settings, group: FeatureGroup, batch_end_ms: int) -> ViewReport:
    """Builds the view as of `batch_end_ms` (any millisecond) and replaces the group's table by it, atomically.

    Raises:
        NotReadyError: The tiles of a day before batch_end are missing or stale.
    """
    return retry_conflicts(lambda: _build_view(spark, settings, group, batch_end_ms))


def _build_view(spark: SparkSession, settings: Settings, group: FeatureGroup, batch_end_ms: int) -> ViewReport:
    # All steps use one commit of each table, so that the rows that are read are those that were checked.
    events, state = table_state(spark, settings.table(group.source.table)), table_state(spark, settings.table(tiles_table(group)))
    behind = [day for day in stale_between(spark, group, events, state) if day <= utc_day(batch_end_ms - 1)]
    if behind:
        raise NotReadyError(
            f"The tiles of {len(behind)} days before batch_end are not up to date, the first {behind[0]}.", "Run `braid backfill`."
        )
    if events is None or state is None:
        raise NotReadyError(f"There are no tiles of {group.name}.", "Run `braid backfill`.")
    cut_ms = floor_ms(batch_end_ms, group.tile_ms)
    tiles = tiles_for_view(spark, settings, group, state, batch_end_ms)
    count = tiles.count()
    tiles = tiles.where(F.col("tile_start_ms") < cut_ms)
    known = events.read(spark)
    if cut_ms < batch_end_ms:
        tiles = tiles.unionByName(fold_events(_within(known, [(cut_ms, batch_end_ms)]), group, 1))
    tiles = tiles.withColumn("is_instant", F.lit(False))
    if group.exact_windows:
        exact = replace(group, features=tuple(feature for feature in group.features if feature.window in group.exact_windows))
        tails = _within(known, [exact_span_ms(group, window, batch_end_ms) for window in group.exact_windows])
        instants = fold_events(tails, exact, tails.count(), step_ms=1).withColumn("is_instant", F.lit(True))
        tiles = tiles.unionByName(instants, allowMissingColumns=True)
    entity_type = tiles.schema["entity"].dataType.simpleString()
    values = ", ".join(f"`{feature.name}` {group.value_sql_type(index)}" for index, feature in enumerate(group.features))
    schema = _parse_datatype_string(
        f"entity {entity_type}, batch_end_ms BIGINT, fingerprint STRING, newest_event_ms BIGINT, packed BINARY, {values}"
    )
    assert isinstance(schema, StructType)
    view = by_entity(tiles, count, "tile_start_ms").mapInArrow(_view_kernel(group, batch_end_ms, arrow_schema(schema)), schema)
    observed = Observation()
    view = view.observe(observed, F.count("*").alias("entities"))
    # An empty view has a batch_end, too. By default Delta would record no commit if an empty view follows an empty view.
    # The token identifies this commit among those of other runs that build the view at the same time.
    metadata = json.dumps({"batch_end_ms": batch_end_ms, "fingerprint": group.fingerprint, "token": uuid.uuid4().hex})
    path = settings.table(view_table(group))
    spark.conf.set(_SKIP_EMPTY, "false")
    try:
        writer = view.write.format("delta").mode("overwrite").option("overwriteSchema", "true").option("userMetadata", metadata)
        writer.save(path)
    finally:
        spark.conf.unset(_SKIP_EMPTY)
    written = DeltaTable.forPath(spark, path).history().where(F.col("userMetadata") == metadata).agg(F.min("version")).first()
    assert written is not None
    return ViewReport(observed.get["entities"], count, batch_end_ms, int(written[0]))


def _within(events: DataFrame, spans_ms: list[tuple[int, int]]) -> DataFrame:
    """Returns the events of the spans [from, to). Only the days of the spans are read."""
    days = {utc_day(a) + timedelta(n) for a, b in spans_ms for n in range((utc_day(b - 1) - utc_day(a)).days + 1)}
    return events.where(F.col("day").isin(sorted(days))).where(" OR ".join(f"(ts_ms >= {a} AND ts_ms < {b})" for a, b in spans_ms))


def _view_kernel(
    group: FeatureGroup, batch_end_ms: int, schema: pa.Schema
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = whole_partition(batches)
        if table is None:
            return
        tiles, instants = (
            _Pieces(group, table.filter(pc.invert(table["is_instant"]))),
            _Pieces(group, table.filter(table["is_instant"])),
        )
        rows = []
        for entity in tiles.entities:
            starts_ms, partials, newest_ms = tiles.of(entity)
            instants_ms, instant_partials, _ = instants.of(entity)
            view = build_entity_view(group, batch_end_ms, starts_ms, partials, newest_ms, instants_ms, instant_partials)
            values = [
                feature.aggregation.finalize(
                    part.suffixes[0] if part.hop_starts_ms else part.collapsed, batch_end_ms, group.scale_of(index)
                )
                for index, (feature, part) in enumerate(zip(group.features, view.features, strict=True))
            ]
            rows.append((entity, batch_end_ms, group.fingerprint, view.newest_event_ms, encode(view), *values))
        columns = [pa.array(column, field.type) for field, column in zip(schema, zip(*rows, strict=True), strict=True)]
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches(max_chunksize=10_000)

    return kernel


class _Pieces:
    """Tiles or instants in columns, sorted by entity and time, with access by entity."""

    def __init__(self, group: FeatureGroup, table: pa.Table) -> None:
        self._starts_ms, self._lasts_ms = table["tile_start_ms"].to_pylist(), table["last_ms"].to_pylist()
        self._partials = [partials_from_arrow(table[name]) for name in group.feature_names]
        entities = numpy_of(table["entity"])
        lo, hi = runs(entities)
        self._runs = dict(zip(entities[lo].tolist(), zip(lo.tolist(), hi.tolist(), strict=True), strict=True))

    @property
    def entities(self) -> list[int | str]:
        return list(self._runs)

    def of(self, entity: int | str) -> tuple[list[int], list[list[Partial]], int | None]:
        """Returns the starts of the entity's tiles, their partials for each feature, and the time of the latest event; None without a tile."""
        lo, hi = self._runs.get(entity, (0, 0))
        return self._starts_ms[lo:hi], [column[lo:hi] for column in self._partials], self._lasts_ms[hi - 1] if hi else None
