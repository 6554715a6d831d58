"""The data of the serving benchmarks: users with a view and tiles in the online store, a champion in the registry, and bodies of requests.

There are 2,469 users (as many as in completejourney), each with a batch view and about 20 speed tiles, and a booster of 200 trees.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout

import numpy as np

from examples.shop.definitions import repurchase
from examples.shop.definitions import user_features as group
from features.aggregations import Series
from features.packed import FORMAT, BatchValue, batch_field, encode
from features.speed_value import pack_tile
from features.tiles import fold_ranges, fold_tile_values, runs
from features.view import build_view
from features.windows import DAY_MS, HOUR_MS
from infra.settings import Settings
from models.registry import CHAMPION, tracking
from store.clients import store
from store.keys import meta_key, version_of
from store.protocol import Folded
from store.server import open_store

USERS = 2_469
BATCH_END_MS = 1_780_000_000_000
Q_MS = BATCH_END_MS + DAY_MS
#: Name of a case → the path and the number of entities of its requests.
CASES = {
    "predict": ("/predict", 1),
    "features_1": ("/features", 1),
    "features_100": ("/features", 100),
    "features_500": ("/features", 500),
}


def bodies_of(case: str, number: int, at_ms: int | None = Q_MS) -> list[str]:
    """Returns the bodies of requests of a case, for features as of `at_ms`; None for features as of the time of each request."""
    source, (path, entities), at = random.Random(1), CASES[case], {} if at_ms is None else {"at": at_ms}
    if path == "/predict":
        return [json.dumps({"user_id": source.randrange(USERS), **at}) for _ in range(number)]
    return [json.dumps({"group": group.name, "ids": source.sample(range(USERS), entities), **at}) for _ in range(number)]


def wait(port: int) -> None:
    """Returns when a server listens on the port."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def events(batch_end_ms: int = BATCH_END_MS) -> Iterator[tuple[int, list[Series]]]:
    """Yields each user with the inputs of the group, ordered by time, over the 60 days before batch_end and the day after it."""
    source, q_ms = np.random.default_rng(1), batch_end_ms + DAY_MS
    for user in range(USERS):
        before = batch_end_ms - source.integers(0, 60 * DAY_MS, 120)
        # Events for about 20 tiles of the day after batch_end, a few of them in its last hour.
        after = np.repeat(q_ms - source.integers(0, DAY_MS, 17), 2) + source.integers(0, 200_000, 34)
        recent = q_ms - source.integers(1, HOUR_MS, 4)
        ts_ms = np.sort(np.concatenate((before, after[after < q_ms], recent)))
        inputs = [
            Series(ts_ms, source.integers(1, 50_000_000, len(ts_ms)), source.random(len(ts_ms)) < (1 if column.sql == "1" else 0.7))
            for column in group.inputs
        ]
        yield user, inputs


def cut_at(inputs: list[Series], instant_ms: int) -> tuple[list[Series], list[Series]]:
    """Returns the events before an instant, and the events from the instant on."""
    cut = int(np.searchsorted(inputs[0].ts_ms, instant_ms))
    before, after = ([Series(*(array[part] for array in series)) for series in inputs] for part in (slice(cut), slice(cut, None)))
    return before, after


def view_of(early: list[Series], batch_end_ms: int) -> BatchValue:
    """Returns the batch view of the events before batch_end."""
    ts_ms = early[0].ts_ms
    lo, hi = runs(ts_ms // group.tile_ms)
    starts = (ts_ms[lo] // group.tile_ms * group.tile_ms).tolist()
    return build_view(group, batch_end_ms, starts, fold_ranges(group, early, lo, hi), int(ts_ms[-1]))


def publish(settings: Settings, batch_end_ms: int = BATCH_END_MS) -> tuple[float, float]:
    """Writes the users' views and a day of tiles to the store. Returns the mean number of tiles per user, and the mean bytes per user."""
    client, online, tiles, used = store(settings), open_store(settings), 0, 0
    stream = online.tiles(group.name).get(version_of(group.fingerprint))  # the speed layer's, if it runs
    token = stream.token if stream else "benchmark"
    for user, inputs in events(batch_end_ms):
        early, late = cut_at(inputs, batch_end_ms)
        speed = [
            (user, start_ms := tile.first_ms // group.tile_ms * group.tile_ms, pack_tile(group, start_ms, tile))
            for tile in fold_tile_values(group, late, *runs(late[0].ts_ms // group.tile_ms))
        ]
        online.put_tiles(group, speed, settings.tiles_kept_seconds(group.buffer_ms), folded=Folded(token, {user: {}}))
        tiles += len(speed)
        client.hset(group.key(user), batch_field(group.fingerprint), encode(view_of(early, batch_end_ms)))
        used += client.memory_usage(group.key(user))
    client.hset(meta_key(group.name), mapping={"batch_end_ms": batch_end_ms, "fingerprint": group.fingerprint, "format": FORMAT})
    return tiles / USERS, used / USERS


def register(settings: Settings, champion: bool = True) -> str:
    """Registers a booster of 200 trees, and writes it to a file for the peers. Returns its version.

    Args:
        settings: The settings.
        champion: Whether the version becomes the champion.
    """
    import lightgbm
    import mlflow
    from mlflow import MlflowClient

    source = np.random.default_rng(1)
    x = source.random((5_000, len(group.features))) * 20
    data = lightgbm.Dataset(x, (x[:, 3] + source.normal(0, 4, 5_000) > 10).astype(int), feature_name=list(group.feature_names))
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 2}, data, 200)
    booster.save_model(settings.home / "model.lgb")
    client = MlflowClient(settings.mlflow_tracking_uri)
    if client.get_experiment_by_name(repurchase.name) is None:
        client.create_experiment(repurchase.name, artifact_location=str(settings.home / "artifacts"))
    with tracking(settings), redirect_stdout(sys.stderr):  # MLflow prints links to its runs
        mlflow.set_experiment(repurchase.name)
        with mlflow.start_run():
            info = mlflow.lightgbm.log_model(booster, name="model", registered_model_name=repurchase.name, pip_requirements=[])
    version = str(info.registered_model_version)
    if champion:
        client.set_registered_model_alias(repurchase.name, CHAMPION, version)
    return version
