"""The events of a comparison: a history, which is loaded, and a live part, which is streamed.

Reads the table of events of a lake, or the files of an example; writes a typed Parquet file per source and part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from features.project import Project
from features.sources import EventSource
from features.windows import DAY_MS
from infra.errors import NotReadyError
from infra.settings import Settings
from orchestration.demo_data import rows_sql

#: Source → the SQL of its rows, in DuckDB.
Rows = Mapping[str, str]


@dataclass(frozen=True)
class Events:
    """The events of a comparison.

    Attributes:
        folder: The folder of the Parquet files.
        cut_ms: The instant between history and live part.
        end_ms: One millisecond after the last event.
        loaded: The number of events of the history.
        streamed: Source → the number of its events in the live part.
    """

    folder: Path
    cut_ms: int
    end_ms: int
    loaded: int
    streamed: Mapping[str, int]

    def history(self, source: EventSource) -> Path:
        """The file of a source's events before `cut_ms`."""
        return self.folder / f"{source.name}-history.parquet"

    def live(self, source: EventSource) -> Path:
        """The file of a source's events from `cut_ms` on."""
        return self.folder / f"{source.name}-live.parquet"


def rows_of_lake(settings: Settings, project: Project, folder: Path) -> Rows:
    """The rows of the tables of events of a lake, written to a folder as Parquet.

    Raises:
        NotReadyError: The lake has no events.
    """
    from delta.tables import DeltaTable

    from infra.spark import spark_session

    spark, rows = spark_session(settings, "braid compare", settings.batch_memory), dict[str, str]()
    for source in project.sources:
        if DeltaTable.isDeltaTable(spark, settings.table(source.table)):
            target = folder / f"{source.name}-events"
            columns = [f"`{column.name}`" for column in source.columns]
            spark.read.format("delta").load(settings.table(source.table)).selectExpr(*columns).write.parquet(str(target))
            rows[source.name] = f"SELECT * FROM read_parquet('{target}/*.parquet')"
    spark.stop()
    if not rows:
        raise NotReadyError(
            f"The lake of {settings.home} has no events.",
            "Load files by `braid load`, or name an example, such as `braid compare shop`.",
        )
    return rows


def rows_of_files(project: Project, files: Mapping[str, Any]) -> Rows:
    """The rows of files per source, as an example writes them."""
    return {
        source.name: " UNION ALL BY NAME ".join(rows_sql(source, path) for path in files[source.name]) for source in project.sources
    }


def divided(project: Project, rows: Rows, folder: Path, streamed: int, days: int) -> Events:
    """Writes the events of the last days, of which the last so many are the live part.

    The live part is not longer than the buffer of any group: beyond it, a batch that is late marks answers as degraded, and an answer that is
    marked is no answer to compare.

    Args:
        project: The compared project.
        rows: The events.
        folder: The folder of the files; made where it does not exist.
        streamed: The largest number of events in the live part.
        days: The length of the history.

    Raises:
        NotReadyError: There are no events.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for source in project.sources:
            empty = ", ".join(f'NULL AS "{column.name}"' for column in source.columns)
            selected = rows.get(source.name, f"SELECT {empty} WHERE false")
            connection.execute(
                f'CREATE TABLE "{source.name}" AS SELECT *, epoch_ms("{source.time}"::TIMESTAMPTZ) AS _ms FROM ({selected})'
            )
        instants = " UNION ALL ".join(f'SELECT _ms FROM "{source.name}"' for source in project.sources)
        last = connection.execute(f"SELECT max(_ms) FROM ({instants})").fetchone()
        if last is None or last[0] is None:
            raise NotReadyError("The project's sources have no events.", "Load files by `braid load`, or name an example.")
        end_ms = int(last[0]) + 1
        earliest_ms = end_ms - min(group.buffer_ms for group in project.groups)
        recent = f"SELECT _ms FROM ({instants}) WHERE _ms >= {earliest_ms} ORDER BY _ms DESC LIMIT {streamed}"
        [cut_ms] = connection.execute(f"SELECT min(_ms) FROM ({recent})").fetchone() or (end_ms,)
        events = Events(folder, int(cut_ms), end_ms, 0, {})
        loaded, live = 0, {}
        for source in project.sources:
            loaded += _copy(connection, source, cut_ms - days * DAY_MS, cut_ms, events.history(source))
            live[source.name] = _copy(connection, source, cut_ms, end_ms, events.live(source))
    return Events(folder, int(cut_ms), end_ms, loaded, live)


def _copy(connection: duckdb.DuckDBPyConnection, source: EventSource, begin_ms: int, end_ms: int, target: Path) -> int:
    """Writes a source's rows of an interval, and returns their number."""
    rows = f'SELECT * EXCLUDE (_ms) FROM "{source.name}" WHERE _ms >= {begin_ms} AND _ms < {end_ms} ORDER BY _ms'
    written = connection.execute(f"COPY ({rows}) TO '{target}' (FORMAT parquet)").fetchone()
    return int(written[0]) if written else 0
