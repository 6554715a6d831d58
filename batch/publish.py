"""Publishing: the batch view into the online store.

Each entity's value is replaced in one command and carries its own batch_end, so that a reader sees the old cut or the new one,
never a mixture, while this runs. A new version of the declaration is written beside the one before, and read from the moment when all
of it is there; what is older than both goes. What two publications at once come to is `store.publishing`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from batch.view import read_view
from features.declaration import FeatureGroup
from infra.settings import Settings
from store.protocol import View
from store.server import writing_store


@dataclass(frozen=True)
class PublishReport:
    """What was written: entities, bytes of packed values, and as of when; and how many entities had left the view and were removed."""

    entities: int
    bytes: int
    batch_end_ms: int
    seconds: float
    removed: int


def publish_view(spark: SparkSession, settings: Settings, group: FeatureGroup) -> PublishReport:
    """Writes the group's view to the online store, drops the speed tiles that it has made superfluous, and removes who has left the view.

    Raises:
        NotReadyError: There is no view of this version, or the store has a newer one.
    """
    started = time.monotonic()
    frame, batch_end_ms, built_at_ms = read_view(spark, settings, group)
    summary = frame.agg(F.count("*"), F.sum(F.length("packed")), F.max("newest_event_ms")).first()
    assert summary is not None
    entities, size, newest_ms = summary
    store = writing_store(settings)
    view = store.begin_publication(group, View(batch_end_ms, built_at_ms))

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column("entity").to_pylist()
            writing_store(settings).put_views(group, view, ids, batch.column("packed").to_pylist())
            yield pa.RecordBatch.from_arrays([pa.array([len(ids)], pa.int64())], names=["written"])

    written = frame.select("entity", "packed").mapInArrow(write, "written BIGINT").agg(F.sum("written")).first()
    assert written is not None
    assert (written[0] or 0) == entities
    removed = store.end_publication(group, view, entities, newest_ms)
    return PublishReport(entities, size or 0, batch_end_ms, time.monotonic() - started, removed)
