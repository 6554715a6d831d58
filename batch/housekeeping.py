"""Housekeeping: deletes unused tables, checkpoints and files from the lake.

Deletes tables and checkpoints of versions that are not in use, some days after the last write to them; and the files of older versions of
all other tables (VACUUM). The caller determines what is in use, from the declarations, the online store and the registry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from features import instants
from features.project import Project
from features.windows import DAY_MS, HOUR_MS
from infra.settings import Settings

CHECKPOINTS = "_checkpoints"
#: The change feed of the raw archive reads the files of its last thirty days.
_ARCHIVE_HOURS = 30 * 24
_TABLE = re.compile(r"(?:tiles|history)_(?P<group>\w+)_(?P<fingerprint>[0-9a-f]{16})")
#: Braid's tables besides those of the sources. Other tables in the same lake belong to its owner and stay.
_OWN = re.compile(r"(raw|tiles|history|view|training_set|labels)_\w+|\w+_realtime|quarantine|served_features")
#: Checkpoints of online queries, whose folders end with the checkpoint's name; and checkpoints of a former layout, which no process reads any more.
_CHECKPOINT = re.compile(r"online_\w+?_(?P<name>[0-9a-f]{12})|(?:online|offline)_\w+?_[0-9a-f]{16}_[\w-]+")


@dataclass(frozen=True)
class InUse:
    """What must stay in the lake.

    Attributes:
        fingerprints: The versions of declarations that are declared, published, or trained on.
        checkpoints: The names of the checkpoints of online queries.
        versions: Table → its versions on which models with an alias were trained.
    """

    fingerprints: frozenset[str]
    checkpoints: frozenset[str]
    versions: Mapping[str, Collection[int]]

    def holds(self, name: str) -> bool:
        """Returns whether a table or checkpoint is in use. A name without a version is always in use."""
        if table := _TABLE.fullmatch(name):
            return table["fingerprint"] in self.fingerprints
        if checkpoint := _CHECKPOINT.fullmatch(name):
            return checkpoint["name"] in self.checkpoints
        return True


def group_of(name: str) -> str | None:
    """Returns the group of a table with a version in its name; None for any other table."""
    table = _TABLE.fullmatch(name)
    return table["group"] if table else None


def delete_unused(spark: SparkSession, settings: Settings, in_use: InUse, now_ms: int | None = None) -> list[str]:
    """Deletes tables and checkpoints that are not in use and have had no write for `settings.keep_days`. Returns their names."""
    before_ms = (instants.now_ms() if now_ms is None else now_ms) - settings.keep_days * DAY_MS
    deleted = []
    for prefix in ("", f"{CHECKPOINTS}/"):
        for name in _folders(spark, f"{settings.lake_uri}/{prefix}"):
            if not in_use.holds(name) and _written_ms(spark, f"{settings.lake_uri}/{prefix}{name}") < before_ms:
                delete_folder(spark, f"{settings.lake_uri}/{prefix}{name}")
                deleted.append(f"{prefix}{name}")
    return deleted


def vacuum(spark: SparkSession, settings: Settings, names: Iterable[str], in_use: InUse) -> None:
    """Deletes the files of versions that are older than `settings.keep_days` and older than every version in `in_use.versions`."""
    session = spark.newSession()
    session.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    for name in names:
        hours = max(settings.keep_days * 24, _ARCHIVE_HOURS if name.startswith("raw_") else 0)
        if versions := list(in_use.versions.get(name, ())):
            history = DeltaTable.forPath(spark, settings.table(name)).history().where(F.col("version").isin(versions))
            oldest = history.agg(F.min(F.unix_millis("timestamp")).alias("ms")).first()
            if oldest and oldest["ms"] is not None:
                hours = max(hours, math.ceil((instants.now_ms() - oldest["ms"]) / HOUR_MS) + 1)
        session.sql(f"VACUUM delta.`{settings.table(name)}` RETAIN {hours} HOURS")


def delta_tables(spark: SparkSession, settings: Settings, project: Project) -> list[str]:
    """Returns the names of braid's tables in the lake, also those of removed groups and models."""
    sources = {source.table for source in project.sources}
    names = [name for name in _folders(spark, settings.lake_uri) if name in sources or _OWN.fullmatch(name)]
    return [name for name in names if DeltaTable.isDeltaTable(spark, settings.table(name))]


def delete_folder(spark: SparkSession, uri: str) -> None:
    """Deletes a folder of the lake, if it exists."""
    files, path = _files(spark, uri)
    files.delete(path, True)


def _files(spark: SparkSession, uri: str) -> tuple[Any, Any]:
    """Returns Hadoop's file system and path of a folder, which may be in an object store."""
    jvm: Any = spark._jvm  # noqa: SLF001
    path = jvm.org.apache.hadoop.fs.Path(uri)
    return path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()), path  # noqa: SLF001


def _folders(spark: SparkSession, uri: str) -> list[str]:
    files, path = _files(spark, uri)
    return (
        sorted(entry.getPath().getName() for entry in files.listStatus(path) if entry.isDirectory()) if files.exists(path) else []
    )


def _written_ms(spark: SparkSession, uri: str) -> int:
    """Returns the time at which the newest file of a folder was written, in ms since 1970; 0 for a folder without files."""
    files, path = _files(spark, uri)
    newest, listed = 0, files.listFiles(path, True)
    while listed.hasNext():
        newest = max(newest, listed.next().getModificationTime())
    return newest
