"""Delta tables beside others: what a table's log knows without a row being read, and commits that meet others' commits.

Everything that writes in this room can be run by several at once, and can be killed: a commit is whole or not there, and one that
another has overtaken is made again from what is there by then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
from pyspark.sql.types import StructField, StructType
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed, wait_random_exponential

_Result = TypeVar("_Result")

#: Another's commit came in between. They have no common ancestor of Delta's.
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
        path: Where it is.
        id: Its identity: a table that is deleted and made anew has another.
        version: The commit.
        transactions: Application → the highest number that it has committed (Delta's transaction identifiers).
    """

    path: str
    id: str
    version: int
    transactions: dict[str, int]

    def read(self, spark: SparkSession) -> DataFrame:
        """The rows as of this commit, whatever others commit meanwhile."""
        return spark.read.format("delta").option("versionAsOf", self.version).load(self.path)


def table_state(spark: SparkSession, path: str) -> TableState | None:
    """The table as it is now, None where there is none."""
    jvm: Any = spark._jvm  # noqa: SLF001 — Delta keeps transaction identifiers where SQL does not reach
    nothing = jvm.scala.Option.empty()
    log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path)  # noqa: SLF001
    snapshot = log.update(False, nothing, nothing)
    if snapshot.version() < 0:
        return None
    numbers = jvm.scala.jdk.javaapi.CollectionConverters.asJava(snapshot.transactions())
    return TableState(path, snapshot.metadata().id(), snapshot.version(), {key: int(numbers[key]) for key in numbers})


def create_table(
    spark: SparkSession, path: str, schema: StructType, partitions: Iterable[str] = (), properties: dict[str, str] | None = None
) -> None:
    """Makes the table, unless it is there; every column may be null."""
    columns = StructType([StructField(column.name, column.dataType) for column in schema])
    builder = DeltaTable.createIfNotExists(spark).location(path).addColumns(columns).partitionedBy(*partitions)
    for key, value in (properties or {}).items():
        builder = builder.property(key, value)
    # While another makes it, it is a folder that is neither empty nor a table.
    for attempt in Retrying(
        retry=retry_if_exception_type(AnalysisException), stop=stop_after_attempt(10), wait=wait_fixed(0.5), reraise=True
    ):
        with attempt:
            if not table_state(spark, path):
                builder.execute()


def retry_conflicts(commit: Callable[[], _Result]) -> _Result:
    """What `commit` gives; where another's commit has come in between, it is called again."""
    retrying = Retrying(
        retry=retry_if_exception_type(_CONFLICTS), stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=_WAIT_SECONDS), reraise=True,
    )  # fmt: skip
    return retrying(commit)


def partitions_of(frame: DataFrame, columns: int = 1) -> dict[tuple[str, ...], list[str]]:
    """The partitions of a Delta table that the frame reads, each with its files: from the log alone.

    Returns:
        Values of the table's so many partition columns, as the log writes them → the names of the files, sorted.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for path in frame.inputFiles():
        *folders, name = PurePosixPath(path).parts
        found.setdefault(tuple(part.partition("=")[2] for part in folders[-columns:]), []).append(name)
    return {values: sorted(names) for values, names in found.items()}


def digest(parts: Iterable[str]) -> str:
    """A short name for a list of texts, 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
