"""The raw archive of a source, filled without a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from features.sources import EventSource
from infra.settings import Settings
from speed.archive import COLUMNS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def append_messages(spark: SparkSession, settings: Settings, source: EventSource, messages: Iterable[tuple[Any, ...]]) -> None:
    """Appends messages (topic, partition, offset, arrival_ms, key, value) to the archive, as a micro-batch of the speed layer does."""
    columns, day = COLUMNS.rsplit(", ", 1)[0], F.to_date(F.timestamp_millis("arrival_ms")).alias("arrival_day")
    rows = spark.createDataFrame(list(messages), columns).select("*", day)
    rows.coalesce(1).write.format("delta").mode("append").save(settings.table(source.archive_table))
