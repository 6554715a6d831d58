"""The daemon of Spark's Python workers is braid's: a worker is forked with its modules, and looks at them for garbage no more than a few times."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def seen_by_a_worker(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    modules, threads = ",".join(sys.modules), len(list(Path(f"/proc/{os.getppid()}/task").glob("*")))
    for batch in batches:
        seen = {
            "frozen": pa.scalar(gc.get_freeze_count(), pa.int64()),
            "threads": pa.scalar(threads),
            "modules": pa.scalar(modules),
        }
        yield pa.record_batch({name: pa.repeat(value, batch.num_rows) for name, value in seen.items()})


def test_a_worker_is_forked_with_its_modules_by_a_process_of_one_thread(spark: SparkSession) -> None:
    [seen] = spark.range(1, numPartitions=1).mapInArrow(seen_by_a_worker, "frozen BIGINT, threads BIGINT, modules STRING").collect()
    assert {"pandas", "batch.publish", "store.server"} <= set(seen["modules"].split(","))
    assert seen["frozen"] > 10_000, "what is imported before the fork is no part of the collection"
    assert seen["threads"] == 1, "a fork would copy the locks of other threads, and not the threads"


def importing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    sys.modules.setdefault("imported_by_a_task", [[number] for number in range(50_000)])  # type: ignore[arg-type]
    for batch in batches:
        yield pa.record_batch({"frozen": pa.repeat(pa.scalar(gc.get_freeze_count(), pa.int64()), batch.num_rows)})


def test_what_a_task_has_imported_is_frozen_behind_it(spark: SparkSession) -> None:
    counts = [spark.range(1, numPartitions=1).mapInArrow(importing, "frozen BIGINT").collect()[0]["frozen"] for _ in range(3)]
    assert counts[-1] > counts[0] + 40_000
