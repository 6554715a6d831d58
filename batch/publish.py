"""Publishing: writes the batch view of a group to the online store.

One command replaces the value of an entity, and the value contains its own batch_end, so a reader sees the old or the new view of an entity,
never a mixture. A new version of the declaration is written beside the previous version and is served once it is complete. Older versions are
then deleted. `store.publishing` makes concurrent publications safe.
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
    """The result of a publication.

    Attributes:
        entities: The number of written entities.
        bytes: The bytes of their packed values.
        batch_end_ms: The batch_end of the view, in ms since 1970.
        seconds: The duration.
        removed: The number of removed entities.
        version: The Delta version of the view.
    """

    entities: int
    bytes: int
    batch_end_ms: int
    seconds: float
    removed: int
    version: int


def publish_view(spark: SparkSession, settings: Settings, group: FeatureGroup, version: int | None = None) -> PublishReport:
    """Writes the group's view, by default the latest, to the online store. Deletes the speed tiles that it covers, and entities that are not in it.

    Raises:
        NotReadyError: There is no view of this version, or the store has a newer one.
    """
    started = time.monotonic()
    stored = read_view(spark, settings, group, version)
    summary = stored.rows.agg(F.count("*"), F.sum(F.length("packed")), F.max("newest_event_ms")).first()
    assert summary is not None
    entities, size, newest_ms = summary
    store = writing_store(settings)
    view = store.begin_publication(group, View(stored.batch_end_ms, stored.built_at_ms))

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column("entity").to_pylist()
            writing_store(settings).put_views(group, view, ids, batch.column("packed").to_pylist())
            yield pa.RecordBatch.from_arrays([pa.array([len(ids)], pa.int64())], names=["written"])

    written = stored.rows.select("entity", "packed").mapInArrow(write, "written BIGINT").agg(F.sum("written")).first()
    assert written is not None
    assert (written[0] or 0) == entities
    removed = store.end_publication(group, view, entities, newest_ms)
    return PublishReport(entities, size or 0, stored.batch_end_ms, time.monotonic() - started, removed, stored.version)
