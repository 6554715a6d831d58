"""The cases of `cases/*.yaml` by Spark's batch: archive → events → tiles → view, merged with the stream's tiles; and as a training set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pyspark.sql import functions as F

from batch.events import ingest_archive
from batch.point_in_time import point_in_time
from features.merge import merge
from infra.settings import Settings
from speed.archive import COLUMNS, create_archive
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
    if reason := case.skip.get("batch") or case.skip.get("training_set"):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    group = case.group
    create_archive(spark, lake, SOURCE)
    rows = [
        (SOURCE.topic, event["partition"], event["offset"], event["arrival_ms"], b"key", message(event)) for event in case.events
    ]
    archived = spark.createDataFrame(rows, COLUMNS.rsplit(", ", 1)[0])
    archived = archived.withColumn("arrival_day", F.to_date(F.timestamp_millis("arrival_ms")))
    archived.coalesce(1).write.format("delta").mode("append").save(lake.table(SOURCE.archive_table))
    ingest_archive(spark, lake, SOURCE)
    events = spark.read.format("delta").load(lake.table(SOURCE.table))
    views = {str(entity): view for entity, view in batch_views(spark, lake, group, case.batch_end_ms).items()}
    late = [event["event_id"] for event in case.events if event["late"]]
    streamed = speed_tiles(lake, group, events.where(~F.col("event_id").isin(late)))
    ids = [cells.entity if isinstance(cells.entity, int | str) else group.id_of(cells.entity) for cells in case.cells]
    kind = "BIGINT" if isinstance(ids[0], int) else "STRING"
    labels = [(entity_id, cells.q_ms) for entity_id, cells in zip(ids, case.cells, strict=True)]
    points = spark.createDataFrame(list(dict.fromkeys(labels)), f"entity {kind}, q_ms BIGINT")
    trained = {(row["entity"], row["q_ms"]): row.asDict() for row in point_in_time(spark, lake, group, points).collect()}
    for entity_id, cells in zip(ids, case.cells, strict=True):
        merged = merge(group, views.get(str(entity_id)), streamed.get(str(entity_id), []), cells.q_ms, case.batch_end_ms)
        degraded = {group.feature_names[index] for index in merged.degraded_features}
        values = dict(zip(group.feature_names, merged.values, strict=True))
        assert degraded == set(cells.degraded), cells
        assert {name: value for name, value in values.items() if name not in degraded} == cells.values, cells
        row = trained[entity_id, cells.q_ms]
        assert {name: row[name] for name in cells.values} == cells.values, cells
