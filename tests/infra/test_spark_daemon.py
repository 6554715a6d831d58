"""The daemon of Spark's Python workers is braid's: what a worker has imported is no part of the collection of garbage behind each task."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def frozen(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield pa.record_batch({"frozen": pa.array([gc.get_freeze_count()] * batch.num_rows, pa.int64())})


def test_what_a_worker_has_imported_is_frozen_behind_its_first_task(spark: SparkSession) -> None:
    counts = [spark.range(1, numPartitions=1).mapInArrow(frozen, "frozen BIGINT").collect()[0]["frozen"] for _ in range(3)]
    assert counts[-1] > 10_000
