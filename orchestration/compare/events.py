"""The events of a comparison: a history, which is loaded, and a live part, which is streamed.

Reads the events of a lake, or the files of an example. Writes a typed Parquet file per source and part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from batch.events import no_events
from features.project import Project
from features.sources import EventSource
from features.windows import DAY_MS
from infra.errors import NoEventsError
from infra.settings import Settings
from orchestration.demo_data import TYPES, rows_sql
from orchestration.known_events import export_known_events

#: Source → the files of its events.
EventFiles = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Events:
    """The events of a comparison.

    Attributes:
        folder: The folder of the Parquet files.
        cut_ms: The instant between history and live part, in ms since 1970.
        end_ms: One millisecond after the last event, in ms since 1970.
        loaded: Source → the number of its events in the history.
        streamed: Source → the number of its events in the live part.
    """

    folder: Path
    cut_ms: int
    end_ms: int
    loaded: Mapping[str, int]
    streamed: Mapping[str, int]

    def history(self, source: EventSource) -> Path:
        """Returns the file of a source's events before `cut_ms`."""
        return self.folder / f"{source.name}-history.parquet"

    def live(self, source: EventSource) -> Path:
        """Returns the file of a source's events from `cut_ms` on."""
        return self.folder / f"{source.name}-live.parquet"


@contextmanager
def files_of_lake(settings: Settings, project: Project) -> Iterator[EventFiles]:
    """Writes the events of a lake to files, and deletes the files at the end of the block.

    Yields:
        Source → the files of its events; sources without events are left out.

    Raises:
        NoEventsError: No source has events.
    """
    from infra.spark import spark_session

    spark = spark_session(settings, "braid compare", settings.batch_memory)
    with ExitStack() as stack:
        files, missing = dict[str, list[Path]](), list[NoEventsError]()
        for source in project.sources:
            try:
                files[source.name] = stack.enter_context(export_known_events(spark, settings, source))
            except NoEventsError as error:
                missing.append(error)
        if not files:
            raise missing[0]
        yield files


def divided(project: Project, files: EventFiles, folder: Path, streamed: int, days: int) -> Events:
    """Writes the latest events, each event once, divided into history and live part.

    The live part has the latest events, and is not longer than the buffer of any group. Beyond the buffer, answers are marked as degraded, and
    degraded answers cannot be compared.

    Args:
        project: The compared project.
        files: The events.
        folder: The folder of the written files. It is created if it does not exist.
        streamed: The largest number of events in the live part. Events of the same millisecond may exceed it.
        days: The length of the history in days.

    Raises:
        NoEventsError: There are no events.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for source in project.sources:
            _read(connection, source, files.get(source.name, ()))
        instants = " UNION ALL ".join(f'SELECT _ms FROM "{source.name}"' for source in project.sources)
        last = connection.execute(f"SELECT max(_ms) FROM ({instants})").fetchone()
        if last is None or last[0] is None:
            raise no_events(project.sources[0])
        end_ms = int(last[0]) + 1
        earliest_ms = end_ms - min(group.buffer_ms for group in project.groups)
        recent = f"SELECT _ms FROM ({instants}) WHERE _ms >= {earliest_ms} ORDER BY _ms DESC LIMIT {streamed}"
        [cut_ms] = connection.execute(f"SELECT min(_ms) FROM ({recent})").fetchone() or (end_ms,)
        loaded, live = dict[str, int](), dict[str, int]()
        events = Events(folder, int(cut_ms), end_ms, loaded, live)
        for source in project.sources:
            loaded[source.name] = _copy(connection, source, cut_ms - days * DAY_MS, cut_ms, events.history(source))
            live[source.name] = _copy(connection, source, cut_ms, end_ms, events.live(source))
    return events


def _read(connection: duckdb.DuckDBPyConnection, source: EventSource, files: Sequence[Path]) -> None:
    """Creates a DuckDB table of the events of files, with their time in ms as `_ms`. Of several events with the same id it has the earliest."""
    columns = ", ".join(f'"{column.name}"' for column in source.columns)
    # A file may lack columns of the source.
    nothing = ", ".join(f'NULL::{TYPES[column.type]} AS "{column.name}"' for column in source.columns)
    rows = " UNION ALL BY NAME ".join([f"SELECT {nothing} WHERE false", *(rows_sql(source, path) for path in files)])
    first = f'QUALIFY row_number() OVER (PARTITION BY "{source.event_id}" ORDER BY _ms) = 1'
    connection.execute(
        f'CREATE TABLE "{source.name}" AS SELECT {columns}, epoch_ms("{source.time}"::TIMESTAMPTZ) AS _ms FROM ({rows}) {first}'
    )


def _copy(connection: duckdb.DuckDBPyConnection, source: EventSource, begin_ms: int, end_ms: int, target: Path) -> int:
    """Writes a source's rows of the interval [begin, end), and returns their number."""
    rows = f'SELECT * EXCLUDE (_ms) FROM "{source.name}" WHERE _ms >= {begin_ms} AND _ms < {end_ms} ORDER BY _ms'
    written = connection.execute(f"COPY ({rows}) TO '{target}' (FORMAT parquet)").fetchone()
    return int(written[0]) if written else 0
