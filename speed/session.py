"""The speed layer's Spark session: tuned for micro-batches that are small and soon done."""

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

#: How far Spark stands back behind the writer of tiles, where it only archives.
_BEHIND_THE_WRITER = 5

#: The online query gets the slots that it asks for before the archive and the offline store get theirs.
_POOLS = """\
<?xml version="1.0"?>
<allocations>
  <pool name="online"><schedulingMode>FAIR</schedulingMode><weight>100</weight><minShare>2</minShare></pool>
  <pool name="background"><schedulingMode>FAIR</schedulingMode><weight>1</weight><minShare>0</minShare></pool>
</allocations>
"""

#: How the queries are planned and kept.
SQL_PROPERTIES = {
    "spark.sql.shuffle.partitions": "2",
    # Planning anew between the stages of a micro-batch would cost more than it gains.
    "spark.sql.adaptive.streaming.stateless.enabled": "false",
    # Filters are written where they belong. Pushed below the parsing of JSON they would parse once more for each column. Collapsed, the projections
    # would parse JSON in one with the rest, for which Spark would then have no code; the inferred filters would compute the entities twice.
    "spark.sql.optimizer.excludedRules": ",".join(
        f"org.apache.spark.sql.catalyst.optimizer.{rule}"
        for rule in ("PushDownPredicates", "CollapseProject", "InferFiltersFromGenerate")
    ),
    # What is outside of the code for a whole stage runs as it stands: Spark would generate code for it anew in each task, and compile the code
    # wherever it has the watermark in it, which differs in each micro-batch.
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    # Tiles close with the next event; a micro-batch for that alone would make the next event wait.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    "spark.sql.streaming.minBatchesToRetain": "20",
    # By default each file of a checkpoint has another one with its checksum, beside the one that Hadoop writes on a local disk.
    "spark.sql.streaming.checkpoint.fileChecksum.enabled": "false",
    # How often a query asks Kafka whether there is more: by default 100 times a second, which alone keeps a core busy by a quarter.
    "spark.sql.streaming.pollingDelay": "50ms",
    "spark.sql.streaming.numRecentProgressUpdates": "20",
}


#: On a local disk the default manager of checkpoints starts some 20 processes (`readlink`) in each micro-batch, this one none.
_LOCAL_CHECKPOINTS = {
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    )
}


def speed_session(settings: Settings, extra: dict[str, str] | None = None) -> SparkSession:
    """The session of the queries, with the pools `online` and `background`."""
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
    # On Linux each thread has a priority of its own, which a process that it starts has, too.
    with ThreadPoolExecutor(1, initializer=partial(os.nice, _BEHIND_THE_WRITER)) as executor:
        return executor.submit(start).result()


@contextmanager
def pool(spark: SparkSession, name: str) -> Iterator[None]:
    """Queries that are started within run in that scheduler pool."""
    spark.sparkContext.setLocalProperty("spark.scheduler.pool", name)
    try:
        yield
    finally:
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", None)  # type: ignore[arg-type]
