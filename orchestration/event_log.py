"""Dagster's event log in SQLite, as Dagster makes it, for jobs of many days: a batch of events is one transaction.

An asset of a range of days has an event per day. Dagster's own log opens several databases for each event, with an engine that is made and compiles its
SQL anew, and commits each time. Here the engines stay, and the events that Dagster gives at once (`DAGSTER_EVENT_BATCH_SIZE`) share a commit per
database. The files and tables are Dagster's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dagster import EventLogEntry
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, NullPool, create_engine

#: The largest number of events that Dagster gives at once, and of engines that stay: each run has a database of its own.
_MOST_EVENTS, _MOST_ENGINES = 1_000, 16


class EventLog(SqliteEventLogStorage):
    """Dagster's event log of one deployment, in the folder where Dagster looks for it by default.

    Args:
        base_dir: The folder.
        inst_data: What Dagster knows of this class from its configuration.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, Engine] = {}
        self._turn = threading.RLock()
        # Database → its connection, while a batch is stored.
        self._batch: dict[str, Connection] | None = None
        self._open = ExitStack()
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """As in Dagster: there is nothing to configure."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, _: Mapping[str, Any]) -> EventLog:
        """As in Dagster."""
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(_MOST_EVENTS))  # without it Dagster gives each event by itself
        return cls(str(Path(os.environ["DAGSTER_HOME"]) / "history" / "runs"), inst_data)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Stores events, all or none of them in each database."""
        with self._turn, ExitStack() as connections:
            self._batch, self._open = {}, connections
            try:
                for event in events:
                    self.store_event(event)
            finally:
                self._batch = None

    def wipe(self) -> None:
        """As in Dagster: deletes the databases."""
        with self._turn:
            self._engines.clear()
            super().wipe()

    def run_connection(self, run_id: str | None = None) -> Any:
        """As in Dagster."""
        return self._connection(str(run_id))

    def index_connection(self) -> Any:
        """As in Dagster."""
        return self._connection(INDEX_SHARD_NAME)

    @contextmanager
    def _connection(self, database: str) -> Iterator[Connection]:
        with self._turn:
            if self._batch is None:
                with self._begun(database) as connection:
                    yield connection
                return
            if database not in self._batch:
                self._batch[database] = self._open.enter_context(self._begun(database))
            yield self._batch[database]

    @contextmanager
    def _begun(self, database: str) -> Iterator[Connection]:
        if (engine := self._engines.get(database)) is None:
            with super()._connect(database):  # makes the tables
                pass
            if len(self._engines) >= _MOST_ENGINES:
                self._engines.pop(next(iter(self._engines))).dispose()
            options = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
            engine = self._engines[database] = create_engine(
                self.conn_string_for_shard(database), poolclass=NullPool, connect_args=options
            )
        with engine.begin() as connection:
            yield connection
