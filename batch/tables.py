"""Delta tables: reads facts from a table's log without reading rows, and repeats commits after a conflict.

Every writer in this room can run concurrently with other writers and can be killed at any time: a commit is atomic, and a commit that conflicts
with another is computed again from the new state of the tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, TypeVar

from delta.exceptions import (
    ConcurrentAppendException,
    ConcurrentDeleteDeleteException,
    ConcurrentDeleteReadException,
    ConcurrentTransactionException,
    ConcurrentWriteException,
    DeltaConcurrentModificationException,
    MetadataChangedException,
    ProtocolChangedException,
)
from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed, wait_random_exponential

_Result = TypeVar("_Result")

#: The errors for a conflict with another commit. Delta has no common base class for them.
_CONFLICTS = (
    ConcurrentAppendException, ConcurrentDeleteDeleteException, ConcurrentDeleteReadException, ConcurrentTransactionException,
    ConcurrentWriteException, DeltaConcurrentModificationException, MetadataChangedException, ProtocolChangedException,
)  # fmt: skip
_ATTEMPTS = 20
_WAIT_SECONDS = 10


@dataclass(frozen=True)
class TableState:
    """A table as of one commit.

    Attributes:
        path: The path of the table.
        id: The identity of the table. A table that is deleted and created again has another identity.
        version: The number of the commit.
        snapshot: Delta's snapshot of the commit, an object of Java.
    """

    path: str
    id: str
    version: int
    snapshot: Any = field(repr=False, compare=False)

    @cached_property
    def transactions(self) -> dict[str, int]:
        """Application → the highest number that the application has committed (Delta's transaction identifiers). Delta reads its log for them."""
        pairs = self.snapshot.transactions().iterator()
        numbers = {}
        while pairs.hasNext():
            pair = pairs.next()
            numbers[pair._1()] = int(pair._2())  # noqa: SLF001 - the elements of a tuple of Scala
        return numbers

    def read(self, spark: SparkSession) -> DataFrame:
        """Returns the rows as of this commit, unaffected by later commits."""
        return spark.read.format("delta").option("versionAsOf", self.version).load(self.path)


def table_state(spark: SparkSession, path: str) -> TableState | None:
    """Returns the current state of a table; None if the table does not exist."""
    jvm: Any = spark._jvm  # noqa: SLF001 — SQL has no access to Delta's transaction identifiers
    nothing = jvm.scala.Option.empty()
    log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path)  # noqa: SLF001
    snapshot = log.update(False, nothing, nothing)
    if snapshot.version() < 0:
        return None
    return TableState(path, snapshot.metadata().id(), snapshot.version(), snapshot)


def create_table(
    spark: SparkSession, path: str, schema: StructType, partitions: Iterable[str] = (), properties: dict[str, str] | None = None
) -> None:
    """Creates the table if it does not exist. Every column is nullable."""
    columns = StructType([StructField(column.name, column.dataType) for column in schema])
    builder = DeltaTable.createIfNotExists(spark).location(path).addColumns(columns).partitionedBy(*partitions)
    for key, value in (properties or {}).items():
        builder = builder.property(key, value)
    # While another process creates the table, its folder is neither empty nor a table.
    for attempt in Retrying(
        retry=retry_if_exception_type(AnalysisException), stop=stop_after_attempt(10), wait=wait_fixed(0.5), reraise=True
    ):
        with attempt:
            if not table_state(spark, path):
                builder.execute()


def replace_table(rows: DataFrame, path: str) -> None:
    """Replaces the rows and the columns of a table, atomically. To be called within `retry_conflicts`."""
    rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(path)


def retry_conflicts(commit: Callable[[], _Result]) -> _Result:
    """Calls `commit`, at most `_ATTEMPTS` times as long as it conflicts with another commit, and returns its result."""
    retrying = Retrying(
        retry=retry_if_exception_type(_CONFLICTS), stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=_WAIT_SECONDS), reraise=True,
    )  # fmt: skip
    return retrying(commit)


def partitions_of(spark: SparkSession, state: TableState) -> dict[tuple[str, ...], list[str]]:
    """Returns the partitions of a table, each with its files, from the log.

    Returns:
        The values of the partition columns, as texts → the sorted names of the partition's files.
    """
    columns = state.snapshot.metadata().partitionColumns().mkString(",").split(",")
    files = DataFrame(state.snapshot.allFiles().toDF(), spark).select("path", *[F.col("partitionValues")[name] for name in columns])
    files_by_partition: dict[tuple[str, ...], list[str]] = {}
    for path, *values in files.collect():
        files_by_partition.setdefault(tuple(values), []).append(PurePosixPath(path).name)
    return {values: sorted(names) for values, names in files_by_partition.items()}


def digest(parts: Iterable[str]) -> str:
    """Returns a hash of a list of texts: 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
