"""Housekeeping: what nobody reads any more leaves the lake.

Reads and deletes: tables and checkpoints of versions that are not in use, once nothing has been written to them for some days; and of all other
tables the files of older versions (VACUUM). What is in use is passed in: the caller knows the declarations, the online store and the registry.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from features.project import Project
from infra.settings import Settings

CHECKPOINTS = "_checkpoints"
_HOUR_MS = 3_600_000
#: The raw archive's change feed names files of its last thirty days.
_ARCHIVE_HOURS = 30 * 24
_TABLE = re.compile(r"(?:tiles|history)_(?P<group>\w+)_(?P<fingerprint>[0-9a-f]{16})")
#: Braid's tables beside those of the sources; an owner may keep others in the same lake, which are left alone.
_OWN = re.compile(r"(raw|tiles|history|view|training_set)_\w+|\w+_realtime|quarantine|served_features")
#: Checkpoints of queries, which end with the identity of the topic; those of online queries have the token of their stream before it.
_CHECKPOINT = re.compile(
    r"(?:online_\w+?_(?P<online>[0-9a-f]{16})_(?P<token>[0-9a-f]{12})|offline_\w+?_(?P<offline>[0-9a-f]{16}))(?:_[\w-]+)?"
)


@dataclass(frozen=True)
class InUse:
    """What must stay.

    Attributes:
        fingerprints: Versions of declarations: declared, published, or trained on.
        streams: Tokens of the streams of tiles that the online store has; the checkpoints of online queries carry them.
        versions: Table → versions of it that models with an alias were trained on.
    """

    fingerprints: frozenset[str]
    streams: frozenset[str]
    versions: Mapping[str, Collection[int]]

    def holds(self, name: str) -> bool:
        """Whether a table or checkpoint of that name is in use, or is none that has a version."""
        if table := _TABLE.fullmatch(name):
            return table["fingerprint"] in self.fingerprints
        if checkpoint := _CHECKPOINT.fullmatch(name):
            in_stream = checkpoint["token"] is None or checkpoint["token"] in self.streams
            return (checkpoint["online"] or checkpoint["offline"]) in self.fingerprints and in_stream
        return True


def group_of(name: str) -> str | None:
    """The group of a table that has a version in its name."""
    table = _TABLE.fullmatch(name)
    return table["group"] if table else None


def delete_unused(spark: SparkSession, settings: Settings, in_use: InUse, now_ms: int | None = None) -> list[str]:
    """Deletes tables and checkpoints that are not in use and that nothing was written to for `settings.keep_days`; gives their names."""
    before_ms = (time.time_ns() // 1_000_000 if now_ms is None else now_ms) - settings.keep_days * 24 * _HOUR_MS
    deleted = []
    for prefix in ("", f"{CHECKPOINTS}/"):
        for name in _folders(spark, f"{settings.lake_uri}/{prefix}"):
            if not in_use.holds(name) and _written_ms(spark, f"{settings.lake_uri}/{prefix}{name}") < before_ms:
                delete_folder(spark, f"{settings.lake_uri}/{prefix}{name}")
                deleted.append(f"{prefix}{name}")
    return deleted


def vacuum(spark: SparkSession, settings: Settings, names: Iterable[str], in_use: InUse, now_ms: int | None = None) -> None:
    """Deletes the files that only versions older than `settings.keep_days` read, and than those that models were trained on."""
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    session = spark.newSession()
    session.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    for name in names:
        hours = max(settings.keep_days * 24, _ARCHIVE_HOURS if name.startswith("raw_") else 0)
        if versions := list(in_use.versions.get(name, ())):
            history = DeltaTable.forPath(spark, settings.table(name)).history().where(F.col("version").isin(versions))
            oldest = history.agg(F.min(F.unix_millis("timestamp")).alias("ms")).first()
            if oldest and oldest["ms"] is not None:
                hours = max(hours, math.ceil((now_ms - oldest["ms"]) / _HOUR_MS) + 1)
        session.sql(f"VACUUM delta.`{settings.table(name)}` RETAIN {hours} HOURS")


def delta_tables(spark: SparkSession, settings: Settings, project: Project) -> list[str]:
    """The names of braid's tables in the lake, those of removed groups and models too."""
    sources = {source.table for source in project.sources}
    names = [name for name in _folders(spark, settings.lake_uri) if name in sources or _OWN.fullmatch(name)]
    return [name for name in names if DeltaTable.isDeltaTable(spark, settings.table(name))]


def delete_folder(spark: SparkSession, uri: str) -> None:
    """Deletes a folder of the lake, if it is there."""
    files, path = _files(spark, uri)
    files.delete(path, True)


def _files(spark: SparkSession, uri: str) -> tuple[Any, Any]:
    """Hadoop's view of a folder, which may be in an object store: its file system, and its path."""
    jvm: Any = spark._jvm  # noqa: SLF001
    path = jvm.org.apache.hadoop.fs.Path(uri)
    return path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()), path  # noqa: SLF001


def _folders(spark: SparkSession, uri: str) -> list[str]:
    files, path = _files(spark, uri)
    return (
        sorted(entry.getPath().getName() for entry in files.listStatus(path) if entry.isDirectory()) if files.exists(path) else []
    )


def _written_ms(spark: SparkSession, uri: str) -> int:
    """When the folder's newest file was written."""
    files, path = _files(spark, uri)
    newest, listed = 0, files.listFiles(path, True)
    while listed.hasNext():
        newest = max(newest, listed.next().getModificationTime())
    return newest
