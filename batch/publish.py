"""Publishing: the batch view into the online store.

Each entity's value is replaced in one command and carries its own batch_end, so that a reader sees the old cut or the new one,
never a mixture, while this runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from batch.view import view_table
from features.declaration import FeatureGroup
from features.packed import BATCH_FIELD, TILE_PREFIX
from infra.errors import NotReadyError
from infra.redis import meta_key, store
from infra.settings import Settings

CHUNK = 500


@dataclass(frozen=True)
class PublishReport:
    """What was written: entities, bytes of packed values, and as of when."""

    entities: int
    bytes: int
    batch_end_ms: int
    seconds: float


def publish_view(spark: SparkSession, settings: Settings, group: FeatureGroup) -> PublishReport:
    """Writes the group's view to the online store, and drops the speed tiles that it has made superfluous.

    Raises:
        NotReadyError: There is no view of this version, or the store has a newer one.
    """
    started = time.monotonic()
    path = settings.table(view_table(group))
    if not DeltaTable.isDeltaTable(spark, path):
        raise NotReadyError(f"There is no batch view of {group.name}.", "Run `braid backfill`.")
    view = spark.read.format("delta").load(path).where(F.col("fingerprint") == group.fingerprint)
    summary = view.agg(F.count("*"), F.sum(F.length("packed")), F.max("batch_end_ms"), F.max("newest_event_ms")).first()
    assert summary is not None
    entities, size, batch_end_ms, newest_ms = summary
    if not entities:
        raise NotReadyError(f"The batch view of {group.name} is empty or of another declaration.", "Run `braid backfill`.")
    client = store(settings)
    known = client.hmget(meta_key(group.name), "batch_end_ms", "fingerprint")
    if known[0] and known[1] == group.fingerprint.encode() and int(known[0]) > batch_end_ms:
        raise NotReadyError(
            f"The online store has {group.name} as of {int(known[0])} ms, later than this view's {batch_end_ms} ms.",
            "Backfill to a later time; going back would hide events.",
        )

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        connection = store(settings)
        for batch in batches:
            ids, values = batch.column("entity").to_pylist(), batch.column("packed").to_pylist()
            for start in range(0, len(ids), CHUNK):
                _write_chunk(connection, group, batch_end_ms, ids[start : start + CHUNK], values[start : start + CHUNK])
            yield pa.RecordBatch.from_arrays([pa.array([len(ids)], pa.int64())], names=["written"])

    written = view.select("entity", "packed").mapInArrow(write, "written BIGINT").agg(F.sum("written")).first()
    assert written is not None
    assert written[0] == entities
    client.hset(
        meta_key(group.name),
        mapping={
            "batch_end_ms": batch_end_ms, "fingerprint": group.fingerprint, "published_at_ms": int(time.time() * 1_000),
            "newest_event_ms": newest_ms, "entities": entities,
        },
    )  # fmt: skip
    return PublishReport(entities, size, batch_end_ms, time.monotonic() - started)


def _write_chunk(connection: object, group: FeatureGroup, batch_end_ms: int, ids: list[int | str], values: list[bytes]) -> None:
    keys = [group.key(one) for one in ids]
    pipeline = connection.pipeline(transaction=False)  # type: ignore[attr-defined]
    for key, value in zip(keys, values, strict=True):
        pipeline.hset(key, BATCH_FIELD, value)
        pipeline.hkeys(key)
    fields = pipeline.execute()[1::2]
    for key, names in zip(keys, fields, strict=True):
        past = [name for name in names if name.startswith(TILE_PREFIX) and int(name[2:]) + group.tile_ms <= batch_end_ms]
        if past:
            pipeline.hdel(key, *past)
    if len(pipeline):
        pipeline.execute()
