"""The speed layer's Spark session, tuned for small and short micro-batches."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from pyspark.sql import SparkSession

from infra.settings import Settings
from infra.spark import spark_session
from infra.spark_daemon import MODULES

#: The nice value of Spark if another engine writes the tiles and Spark only archives, so that the writer of the tiles takes precedence.
_BEHIND_THE_WRITER = 5

#: The scheduler pools: the online query gets the slots that it requests before the archive and the offline store get theirs.
_POOLS = """\
<?xml version="1.0"?>
<allocations>
  <pool name="online"><schedulingMode>FAIR</schedulingMode><weight>100</weight><minShare>2</minShare></pool>
  <pool name="background"><schedulingMode>FAIR</schedulingMode><weight>1</weight><minShare>0</minShare></pool>
</allocations>
"""

#: The property by which Spark compiles or interprets expressions outside of whole-stage code, and its values.
EXPRESSIONS, COMPILED, INTERPRETED = "spark.sql.codegen.factoryMode", "FALLBACK", "NO_CODEGEN"
#: The properties by which Spark plans the queries and keeps their checkpoints.
SQL_PROPERTIES = {
    "spark.sql.shuffle.partitions": "2",
    # A new plan between the stages of a micro-batch would cost more than it saves.
    "spark.sql.adaptive.streaming.stateless.enabled": "false",
    # The queries have their filters in the right place. A filter that is pushed below the parsing of JSON would parse once more for each column.
    # A collapsed projection would parse JSON together with the other expressions, and Spark would generate no code for any of them. The inferred
    # filters would compute the entities twice.
    "spark.sql.optimizer.excludedRules": ",".join(
        f"org.apache.spark.sql.catalyst.optimizer.{rule}"
        for rule in ("PushDownPredicates", "CollapseProject", "InferFiltersFromGenerate")
    ),
    # Interpreted, unless there is a backlog (`speed.spark_engine`). Otherwise Spark would generate code in each task, and would compile the code anew
    # in each micro-batch if it contains the watermark, which differs each time.
    EXPRESSIONS: INTERPRETED,
    # Without this bound Spark would add up the bytes of a batch for Python at each row. The bound on its rows, 10,000, remains.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
    # Tiles close with the next event. A micro-batch only for closing would make the next event wait.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    "spark.sql.streaming.minBatchesToRetain": "20",
    # By default each file of a checkpoint has a file with its checksum, in addition to the checksum file that Hadoop writes on a local disk.
    "spark.sql.streaming.checkpoint.fileChecksum.enabled": "false",
    # How often a query asks Kafka for new messages. The default of 100 times a second takes a quarter of a core.
    "spark.sql.streaming.pollingDelay": "50ms",
    "spark.sql.streaming.numRecentProgressUpdates": "20",
}


#: On a local disk the default checkpoint manager starts some 20 processes (`readlink`) in each micro-batch. This manager starts none.
_LOCAL_CHECKPOINTS = {
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    )
}


def speed_session(settings: Settings, extra: dict[str, str] | None = None) -> SparkSession:
    """Returns the session of the queries, with the scheduler pools `online` and `background`.

    Args:
        settings: The settings of the deployment.
        extra: Further properties of Spark, which override the others.
    """
    pools = settings.home / "spark" / "pools.xml"
    pools.parent.mkdir(parents=True, exist_ok=True)
    pools.write_text(_POOLS)
    properties = {
        "spark.scheduler.mode": "FAIR",
        "spark.scheduler.allocation.file": pools.as_uri(),
        "spark.locality.wait": "0",
        f"spark.executorEnv.{MODULES}": "speed.online",
        **SQL_PROPERTIES,
        **({} if "://" in settings.lake_uri else _LOCAL_CHECKPOINTS),
        **(extra or {}),
    }
    start = partial(spark_session, settings, "braid speed", settings.speed_memory, properties)
    if settings.engine == "spark" or sys.platform != "linux":
        return start()
    # On Linux each thread has its own priority, and a process inherits the priority of the thread that starts it.
    with ThreadPoolExecutor(1, initializer=partial(os.nice, _BEHIND_THE_WRITER)) as executor:
        return executor.submit(start).result()


@contextmanager
def pool(spark: SparkSession, name: str) -> Iterator[None]:
    """Makes the queries that the block starts run in a scheduler pool."""
    spark.sparkContext.setLocalProperty("spark.scheduler.pool", name)
    try:
        yield
    finally:
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", None)  # type: ignore[arg-type]
