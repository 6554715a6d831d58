"""The cases of `cases/*.yaml` by Spark's batch: archive → events → tiles → view, merged with the stream's tiles; and as a training set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pyspark.sql import functions as F

from batch.events import ingest_archive
from batch.point_in_time import point_in_time
from features.merge import merge
from infra.settings import Settings
from tests.batch.test_archive import archive
from tests.batch.test_every_aggregation import batch_views, speed_tiles
from tests.case_files import SOURCE, Case, load_cases
from tests.speed.test_cases_by_engine import message

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: Each case has a lake of its own.
pytestmark = pytest.mark.long


@pytest.mark.parametrize("case", load_cases(), ids=lambda case: case.name)
def test_the_batch_and_the_training_set_give_the_right_cells(
    case: Case, spark: SparkSession, lake: Settings, request: pytest.FixtureRequest
) -> None:
    for engine in ("batch", "training_set"):
        case.expect(engine, request)
    group = case.group
    places = [(SOURCE.topic, event["partition"], event["offset"], event["arrival_ms"], b"key") for event in case.events]
    archive(spark, lake, *((*place, message(event)) for place, event in zip(places, case.events, strict=True)), source=SOURCE)
    ingest_archive(spark, lake, SOURCE)
    events = spark.read.format("delta").load(lake.table(SOURCE.table))
    views = {str(entity): view for entity, view in batch_views(spark, lake, group, case.batch_end_ms).items()}
    late = [event["event_id"] for event in case.events if event["late"]]
    streamed = speed_tiles(lake, group, events.where(~F.col("event_id").isin(late)))
    ids = [cells.id_in(group) for cells in case.cells]
    kind = "BIGINT" if isinstance(ids[0], int) else "STRING"
    labels = [(entity_id, cells.q_ms) for entity_id, cells in zip(ids, case.cells, strict=True)]
    points = spark.createDataFrame(list(dict.fromkeys(labels)), f"entity {kind}, q_ms BIGINT")
    trained = {(row["entity"], row["q_ms"]): row.asDict() for row in point_in_time(spark, lake, group, points).collect()}
    for entity_id, cells in zip(ids, case.cells, strict=True):
        merged = merge(group, views.get(str(entity_id)), streamed.get(str(entity_id), []), cells.q_ms, case.batch_end_ms)
        degraded = {group.feature_names[index] for index in merged.degraded_features}
        cells.check(dict(zip(group.feature_names, merged.values, strict=True)), degraded)
        row = trained[entity_id, cells.q_ms]
        assert {name: row[name] for name in cells.values} == cells.values, cells
