"""Publishing: the batch view into the online store.

Each entity's value is replaced in one command and carries its own batch_end, so that a reader sees the old cut or the new one,
never a mixture, while this runs. A new version of the declaration is written beside the one before, and read from the moment when all
of it is there; what is older than both goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from batch.view import read_view
from features.declaration import FeatureGroup
from features.declaration.versions import group_text
from features.packed import FORMAT, batch_field, tile_prefix
from infra.errors import NotReadyError
from infra.settings import Settings
from store.clients import meta_key, store

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
    view, batch_end_ms = read_view(spark, settings, group)
    summary = view.agg(F.count("*"), F.sum(F.length("packed")), F.max("newest_event_ms")).first()
    assert summary is not None
    entities, size, newest_ms = summary
    client = store(settings)
    known_end, known_version = client.hmget(meta_key(group.name), "batch_end_ms", "fingerprint")
    before = known_version.decode() if known_version else group.fingerprint
    if known_end and before == group.fingerprint and int(known_end) > batch_end_ms:
        raise NotReadyError(
            f"The online store has {group.name} as of {int(known_end)} ms, later than this view's {batch_end_ms} ms.",
            "Backfill to a later time; going back would hide events.",
        )

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        connection = store(settings)
        for batch in batches:
            ids, values = batch.column("entity").to_pylist(), batch.column("packed").to_pylist()
            for start in range(0, len(ids), CHUNK):
                _write_chunk(connection, group, before, batch_end_ms, ids[start : start + CHUNK], values[start : start + CHUNK])
            yield pa.RecordBatch.from_arrays([pa.array([len(ids)], pa.int64())], names=["written"])

    written = view.select("entity", "packed").mapInArrow(write, "written BIGINT").agg(F.sum("written")).first()
    assert written is not None
    assert (written[0] or 0) == entities
    client.hset(
        meta_key(group.name),
        mapping={
            "batch_end_ms": batch_end_ms, "fingerprint": group.fingerprint, "declaration": group_text(group), "format": FORMAT,
            "published_at_ms": int(time.time() * 1_000), "newest_event_ms": newest_ms or "", "entities": entities,
        },
    )  # fmt: skip
    return PublishReport(entities, size or 0, batch_end_ms, time.monotonic() - started)


def _write_chunk(
    connection: Any, group: FeatureGroup, before: str, batch_end_ms: int, ids: list[int | str], values: list[bytes]
) -> None:
    keys = [group.key(one) for one in ids]
    pipeline = connection.pipeline(transaction=False)
    for key, value in zip(keys, values, strict=True):
        pipeline.hset(key, batch_field(group.fingerprint), value)
        pipeline.hkeys(key)
    fields = pipeline.execute()[1::2]
    mine, kept = tile_prefix(group.fingerprint), (batch_field(group.fingerprint), batch_field(before), tile_prefix(before))

    def superfluous(name: bytes) -> bool:
        if name.startswith(mine):
            return int(name[len(mine) :]) + group.tile_ms <= batch_end_ms
        return not name.startswith(kept)

    for key, names in zip(keys, fields, strict=True):
        if past := list(filter(superfluous, names)):
            pipeline.hdel(key, *past)
    if len(pipeline):
        pipeline.execute()
