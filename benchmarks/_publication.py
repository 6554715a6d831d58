"""Publishes a view and then another champion during a load, in a separate process that the benchmark starts.

The process prepares everything before the signal, so only the publication can disturb the answers. The arguments of the program are the version that
becomes champion, the batch_end of the users' events (`benchmarks._serving.events`), and the batch_end of the view. The program prints a line when it
is prepared, waits for a line, and prints a line when both are published.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from mlflow import MlflowClient

from benchmarks._serving import USERS, cut_at, events, view_of
from examples.shop.definitions import repurchase
from examples.shop.definitions import user_features as group
from features.packed import encode
from infra.settings import Settings
from models.registry import CHAMPION
from store.protocol import View
from store.server import open_store

_USERS_AT_ONCE = 500


@contextmanager
def publication(settings: Settings, version: str, after_seconds: float, history_end_ms: int, batch_end_ms: int) -> Iterator[None]:
    """Runs a block, `after_seconds` after whose begin a view and a champion are published. Waits at the end of the block until they are published.

    Args:
        settings: The settings of the deployment.
        version: The version that becomes champion.
        after_seconds: The seconds from the begin of the block to the publication.
        history_end_ms: The batch_end of the users' events (`benchmarks._serving.events`).
        batch_end_ms: The batch_end of the view.
    """
    command = [sys.executable, "-m", "benchmarks._publication", version, str(history_end_ms), str(batch_end_ms)]
    environment = {**os.environ, **settings.environment()}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "prepared\n"
        signal = threading.Timer(after_seconds, partial(print, file=program.stdin, flush=True))
        signal.start()
        try:
            yield
            assert program.stdout.readline() == "published\n"
        finally:
            signal.cancel()
            program.terminate()


def main(version: str, history_end_ms: int, batch_end_ms: int) -> None:
    """Prepares the view, waits for the signal, and publishes the view and the champion."""
    settings = Settings.load()
    online, client = open_store(settings), MlflowClient(settings.mlflow_tracking_uri)
    histories = (inputs for _, inputs in events(history_end_ms))
    values = [encode(view_of(cut_at(inputs, batch_end_ms)[0], batch_end_ms)) for inputs in histories]
    print("prepared", flush=True)
    sys.stdin.readline()
    view = online.begin_publication(group, View(batch_end_ms, time.time_ns() // 1_000_000))
    for first in range(0, USERS, _USERS_AT_ONCE):
        online.put_views(group, view, range(USERS)[first : first + _USERS_AT_ONCE], values[first : first + _USERS_AT_ONCE])
    online.end_publication(group, view, USERS, batch_end_ms - 1)
    client.set_registered_model_alias(repurchase.name, CHAMPION, version)
    print("published", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
