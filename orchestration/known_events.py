"""All raw events of a source as Parquet files, for the brute-force proof.

The events come from the source's events table and from the raw archive of its topic; an event may occur in both.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from batch.events import no_events
from features.sources import EventSource
from infra.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def export_known_events(spark: SparkSession, settings: Settings, source: EventSource) -> Iterator[list[Path]]:
    """Writes all raw events of a source to Parquet files, and deletes the files at the end of the block.

    Yields:
        The files, with the columns of the source.

    Raises:
        NoEventsError: There are no events.
    """
    from delta.tables import DeltaTable

    from batch.events import read_archive

    columns = [column.name for column in source.columns]
    frames = []
    if DeltaTable.isDeltaTable(spark, settings.table(source.table)):
        frames.append(spark.read.format("delta").load(settings.table(source.table)).select(*columns))
    archive = read_archive(spark, settings, source)
    if archive is not None:
        frames.append(archive.select(*columns))
    if not frames:
        raise no_events(source)
    folder = settings.home / "scratch" / uuid.uuid4().hex
    try:
        for index, frame in enumerate(frames):
            frame.write.parquet(str(folder / str(index)))
        yield sorted(folder.glob("*/*.parquet"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
