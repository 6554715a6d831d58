"""A source and a group of these tests' own, and the speed layer for them: `python calls.py` runs it until SIGTERM, again where it ends by itself."""

from __future__ import annotations

import signal
import sys
import threading

from features.declaration import FeatureGroup, count, total
from features.project import Project
from features.sources import Column, ColumnType, EventSource
from infra.settings import Settings
from speed.__main__ import run

CALLS = EventSource(
    name="calls",
    topic="calls",
    table="calls",
    columns=(
        Column("event_id", required=True),
        Column("user_id", ColumnType.INT64, required=True),
        Column("amount", ColumnType.DECIMAL),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
)
CALLER = FeatureGroup("caller", "user_id", CALLS, (count("calls_1h", window="1h"), total("spend_1h", of="amount", window="1h")))

if __name__ == "__main__":
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while not ended.is_set():
        print("started", file=sys.stderr, flush=True)
        run(Settings.load(), Project((CALLS,), (CALLER,)), ended)
