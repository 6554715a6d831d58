"""Publishes a later view and then another champion, on a signal: the program that `benchmarks.serving_load` runs beside its load.

Everything is prepared before the signal, so what disturbs the answers is the publication and not the work before it. Its only argument is the version
that becomes champion; it prints a line when it is prepared, waits for a line, and prints a line when both are published.
"""

from __future__ import annotations

import sys
import time

from mlflow import MlflowClient

from benchmarks._serving import BATCH_END_MS, USERS, cut_at, events, view_of
from examples.shop.definitions import repurchase
from examples.shop.definitions import user_features as group
from features.packed import encode
from features.windows import HOUR_MS
from infra.settings import Settings
from models.registry import CHAMPION
from store.protocol import View
from store.server import open_store

_LATER_MS = BATCH_END_MS + 6 * HOUR_MS
_USERS_AT_ONCE = 500


def main(version: str) -> None:
    """Prepares, waits for the signal, and publishes."""
    settings = Settings.load()
    online, client = open_store(settings), MlflowClient(settings.mlflow_tracking_uri)
    values = [encode(view_of(cut_at(inputs, _LATER_MS)[0], _LATER_MS)) for _, inputs, _ in events()]
    print("prepared", flush=True)
    sys.stdin.readline()
    view = online.begin_publication(group, View(_LATER_MS, time.time_ns() // 1_000_000))
    for first in range(0, USERS, _USERS_AT_ONCE):
        online.put_views(group, view, range(USERS)[first : first + _USERS_AT_ONCE], values[first : first + _USERS_AT_ONCE])
    online.end_publication(group, view, USERS, _LATER_MS - 1)
    client.set_registered_model_alias(repurchase.name, CHAMPION, version)
    print("published", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
