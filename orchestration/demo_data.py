"""The data of a demo: the events of an example, divided into a history that is loaded and a live part that is streamed.

Reads the files that the example has written. Writes typed Parquet files, which the proof needs for its brute-force computation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from examples.example import EventFiles
from features.project import Project
from features.sources import ColumnType, EventSource
from features.windows import DAY_MS

#: The length of the live part, in days.
LIVE_DAYS = 7
#: The types of columns in DuckDB.
TYPES = {
    ColumnType.STRING: "VARCHAR", ColumnType.INT64: "BIGINT", ColumnType.DECIMAL: "DECIMAL(18, 6)",
    ColumnType.TIMESTAMP: "TIMESTAMPTZ", ColumnType.MAP: "MAP(VARCHAR, VARCHAR)",
}  # fmt: skip


@dataclass(frozen=True)
class DemoData:
    """The events of a demo.

    Attributes:
        folder: The folder of the Parquet files.
        end_ms: The end of the data, in ms since 1970.
    """

    folder: Path
    end_ms: int

    @property
    def cut_ms(self) -> int:
        """The instant that separates the history from the live part."""
        return self.end_ms - LIVE_DAYS * DAY_MS

    def history(self, source: EventSource) -> Path:
        """Returns the Parquet file of a source's events before `cut_ms`."""
        return self.folder / f"{source.name}-history.parquet"

    def live(self, source: EventSource) -> Path:
        """Returns the Parquet file of a source's events from `cut_ms` on."""
        return self.folder / f"{source.name}-live.parquet"

    def events(self, source: EventSource) -> list[Path]:
        """Returns both Parquet files of a source."""
        return [self.history(source), self.live(source)]

    def instant_ms(self, day: int) -> int:
        """Returns the end of a day of the live part, in ms since 1970; for the last day one millisecond later, so that no event is left out."""
        return self.end_ms + 1 if day == LIVE_DAYS else self.cut_ms + day * DAY_MS

    def part(self, source: EventSource, from_day: int, to_day: int) -> tuple[Path, int]:
        """Writes a source's live events of some days to a Parquet file. Returns the file and the number of its events."""
        path = self.folder / f"{source.name}-live-{from_day}-{to_day}.parquet"
        rows = f"SELECT * FROM read_parquet('{self.live(source)}')"
        with duckdb.connect() as connection:
            return path, _copy(connection, source, rows, self.instant_ms(from_day), self.instant_ms(to_day), path)


def divide(project: Project, files: EventFiles, folder: Path, end_ms: int) -> DemoData:
    """Writes the history and the live part of each source of a project to a folder.

    Args:
        project: The project.
        files: The files of each source.
        folder: The folder. It is created if it does not exist.
        end_ms: The end of the data, in ms since 1970: no event is later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = DemoData(folder, end_ms)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for source in project.sources:
            rows = " UNION ALL BY NAME ".join(rows_sql(source, path) for path in files[source.name])
            _copy(connection, source, rows, 0, data.cut_ms, data.history(source))
            _copy(connection, source, rows, data.cut_ms, end_ms + 1, data.live(source))
    return data


def rows_sql(source: EventSource, path: Path) -> str:
    """Returns a query for the rows of a file of an example, in DuckDB's SQL."""
    if path.suffix == ".parquet":
        return f"SELECT * FROM read_parquet('{path}')"
    columns = ", ".join(f"'{column.name}': '{TYPES[column.type]}'" for column in source.columns)
    return f"SELECT * FROM read_csv('{path}', header = true, delim = ',', quote = '\"', escape = '\"', columns = {{{columns}}})"


def _copy(connection: duckdb.DuckDBPyConnection, source: EventSource, rows: str, begin_ms: int, end_ms: int, target: Path) -> int:
    """Writes the rows of the interval [begin, end), ordered by their time, and returns their number."""
    time_ms = f'epoch_ms("{source.time}")'
    where = f"{time_ms} >= {begin_ms} AND {time_ms} < {end_ms}"
    written = connection.execute(
        f"COPY (SELECT * FROM ({rows}) WHERE {where} ORDER BY \"{source.time}\") TO '{target}' (FORMAT parquet)"
    )
    return int(written.fetchone()[0])  # type: ignore[index]
