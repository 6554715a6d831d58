"""The cases of `cases/*.yaml` through the contributions of an engine, the writer and a real store: what the merge gives is right."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from features.aggregations import Series
from features.declaration import FeatureGroup
from features.merge import merge
from features.sources import ColumnType
from infra.settings import Settings
from speed.engine import FITS
from speed.flink.expressions import UntranslatableError
from speed.flink.job_sql import job_of
from speed.flink.rows import contribution_rows
from speed.online import Target
from speed.stream import input_names, slots
from speed.writer import TileWriter
from store.protocol import Tiles
from store.server import writing_store
from tests.case_files import SOURCE, Case, load_cases
from tests.pure import Event, view_of
from tests.speed.aloud import instant, stored_tiles
from tests.speed.flink.reading import flink_rows, spark_rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CASES = load_cases()
EVENTS = [(case, event) for case in CASES for event in case.events]
#: The place of an event by its identity.
PLACE_OF = {id(event): place for place, (_, event) in enumerate(EVENTS)}
PLACES = ("kafka_partition", "kafka_offset", "arrival_ms")


def message(event: Event) -> bytes:
    """An event as a message has it."""

    def value(name: str, kind: ColumnType) -> Any:
        if kind is ColumnType.TIMESTAMP:
            return instant(event["ts_ms"])
        if kind is ColumnType.DECIMAL and event[name] is not None:
            return format(Decimal(event[name].numerator) / Decimal(event[name].denominator), "f")
        return event[name]

    return json.dumps({column.name: value(column.name, column.type) for column in SOURCE.columns}).encode()


@dataclass(frozen=True)
class Engine:
    """An engine, the groups that it can run, and a row of contributions to them for each event of `EVENTS`."""

    name: str
    groups: Sequence[FeatureGroup]
    rows: pa.Table

    def streamed(self, case: Case) -> pa.Table:
        """The rows that the stream has of a case, by partition and offset: a late event comes by the batch alone."""
        rows = self._rows_of([event for event in case.events if not event["late"]])
        return rows.sort_by([("kafka_partition", "ascending"), ("kafka_offset", "ascending")])

    def series_of(self, group: FeatureGroup, events: Sequence[Event]) -> list[Series]:
        """The inputs of a group of events of one entity."""
        rows = self._rows_of(events)
        ts_ms, series = np.array([event["ts_ms"] for event in events], np.int64), []
        for declared, name in zip(group.inputs, input_names(self.groups, group), strict=True):
            values, empty = rows.column(name).to_pylist(), "" if declared.text else 0
            filled = [empty if value is None else value for value in values]
            valid = np.array([value is not None for value in values], bool)
            series.append(Series(ts_ms, np.array(filled, object if declared.text else np.int64), valid))
        return series

    def _rows_of(self, events: Sequence[Event]) -> pa.Table:
        return self.rows.take(pa.array([PLACE_OF[id(event)] for event in events], pa.int64()))


def with_places(rows: pa.Table) -> pa.Table:
    """The rows with the partitions, offsets and arrivals of the cases."""
    events = [event for _, event in EVENTS]
    for name, key in zip(PLACES, ("partition", "offset", "arrival_ms"), strict=True):
        column = pa.array([event[key] for event in events], pa.int64())
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def by_spark(spark: SparkSession, settings: Settings, _: Path) -> Engine:
    groups = [case.group for case in CASES]
    rows = spark_rows(spark, settings, groups, [message(event) for _, event in EVENTS])
    refused = {place: reason for place, reason in rows.items() if isinstance(reason, str)}
    assert not refused
    ordered = [rows[place] for place in range(len(EVENTS))]
    columns: dict[str, list[Any]] = {name: [row[name] for row in ordered] for name in (*PLACES, "ts_ms", "event")}
    columns["verdict"] = [FITS] * len(ordered)
    columns |= {f"entity_{slot}": [row.entities[slot] for row in ordered] for slot in slots(groups).values()}
    columns |= {name: [row[name] for row in ordered] for name in ordered[0].__fields__ if name.startswith("input_")}
    return Engine("stream", groups, with_places(pa.table(columns)))


def by_flink(_: SparkSession, settings: Settings, folder: Path) -> Engine:
    def translated(group: FeatureGroup) -> bool:
        try:
            return bool(job_of([group], "cases"))
        except UntranslatableError:
            return False

    groups = [case.group for case in CASES if translated(case.group)]
    job = job_of(groups, "cases")
    rows = flink_rows(settings, job, [message(event) for _, event in EVENTS], folder)
    lines = [json.dumps(rows[place]).encode() for place in range(len(EVENTS))]
    return Engine("flink", groups, with_places(contribution_rows(lines, job.entities, job.inputs)))


ENGINES: dict[str, Callable[[SparkSession, Settings, Path], Engine]] = {"stream": by_spark, "flink": by_flink}


@pytest.fixture(scope="module", params=["stream", pytest.param("flink", marks=pytest.mark.long)])
def engine(
    request: pytest.FixtureRequest, spark: SparkSession, valkey: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Engine:
    return ENGINES[request.param](spark, valkey, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_engine_gives_the_right_cells(case: Case, engine: Engine, valkey: Settings, request: pytest.FixtureRequest) -> None:
    case.expect(engine.name, request)
    assert case.group in engine.groups, "the engine cannot run its expressions"
    group, store, checkpoint = case.group, writing_store(valkey), uuid.uuid4().hex[:12]
    store.drop(group, list({cells.id_in(group) for cells in case.cells}))
    store.set_tiles(group, Tiles(checkpoint))
    target = Target(group, checkpoint, slots(engine.groups)[group.entity_sql], tuple(input_names(engine.groups, group)), begins={})
    TileWriter(store, valkey, checkpoint, [target], checkpoint, 1).write(engine.streamed(case), {})
    counting = sorted(case.counting, key=lambda event: event["ts_ms"])
    for cells in case.cells:
        entity_id = cells.id_in(group)
        mine = [event for event in counting if entity_of(group, event) == entity_id]
        before = [event for event in mine if event["ts_ms"] < case.batch_end_ms]
        view = view_of(group, mine, case.batch_end_ms, engine.series_of) if before else None
        tiles = list(stored_tiles(valkey, entity_id, group).values())
        merged = merge(group, view, tiles, cells.q_ms, case.batch_end_ms)
        degraded = {group.feature_names[index] for index in merged.degraded_features}
        cells.check(dict(zip(group.feature_names, merged.values, strict=True)), degraded)


def entity_of(group: FeatureGroup, event: Event) -> int | str | None:
    """The id of the event's entity; None without one."""
    values = [event[name] for name in group.entity_names]
    return None if None in values or "" in values else group.id_of(values)
