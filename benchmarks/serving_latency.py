"""Serving latency and throughput, compared with a minimal server: 1, 100 and 500 users per request, 8 connections.

    python -m benchmarks.serving_latency [--requests 2000] [--runs 3] [--logged] [--json]

braid answers through BentoML from packed views and tiles, with merge, model, validation and provenance. The peer does the least that
a prediction needs: Starlette under uvicorn, HGETALL of a plain hash per user, the same booster, `json.dumps`. Both servers run at the
same time in processes of their own and read the same Valkey; their runs alternate. The data are 2,469 users (as many as in
completejourney), each with a batch view and about 20 speed tiles. The services run in a temporary home, which is deleted.
"""

from __future__ import annotations

import gc
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks._home import temporary_home
from examples.shop.definitions import repurchase
from examples.shop.definitions import user_features as group
from features.aggregations import Series
from features.packed import FORMAT, batch_field, encode
from features.tiles import fold_ranges, fold_tile_values, runs
from features.view import build_view
from features.windows import DAY_MS, HOUR_MS
from infra.embedded import services
from infra.kafka import SERVED_TOPIC
from infra.settings import Settings
from models.registry import CHAMPION, tracking
from store.clients import store
from store.keys import meta_key
from store.server import open_store

USERS = 2_469
BATCH_END_MS = 1_780_000_000_000
Q_MS = BATCH_END_MS + DAY_MS

#: The program of the peer. Its arguments are the port, the URL of the store and the file of the booster.
PEER = """
import json, sys
import lightgbm, numpy as np, redis.asyncio, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

booster, store = lightgbm.Booster(model_file=sys.argv[3]), redis.asyncio.Redis.from_url(sys.argv[2])

def row(fields):
    return {name.decode(): float(value) for name, value in fields.items()}

async def predict(request):
    features = row(await store.hgetall(f"plain:{(await request.json())['user_id']}"))
    score = booster.predict(np.array([list(features.values())]), num_threads=1)[0]
    return Response(json.dumps({"prediction": float(score), "features_used": features}), media_type="application/json")

async def features(request):
    pipeline = store.pipeline(transaction=False)
    for user in (await request.json())["ids"]:
        pipeline.hgetall(f"plain:{user}")
    rows = [row(fields) for fields in await pipeline.execute()]
    return Response(json.dumps({"rows": rows}), media_type="application/json")

app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/features", features, methods=["POST"])])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
"""


def main(
    requests: Annotated[int, typer.Option(help="Requests per run to /predict; a tenth of it to /features.")] = 2_000,
    runs_: Annotated[int, typer.Option("--runs", help="Runs of each.")] = 3,
    logged: Annotated[bool, typer.Option("--logged", help="Log everything that braid serves to Kafka.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares the latency of serving with that of the peer."""
    with temporary_home() as home:
        settings = home.model_copy(
            update={"mlflow_tracking_uri": f"sqlite:///{home.home}/mlflow.db", "served_share": float(logged)}
        )
        peer: subprocess.Popen[bytes] | None = None
        try:
            register(settings)
            topics = {SERVED_TOPIC: 4} if logged else {}
            services.up(settings, topics, only={"valkey", "serving", *(["kafka"] if logged else [])})
            tiles, used = publish(settings)
            port = settings.ports.dagster  # free, because Dagster does not run here
            peer = subprocess.Popen([sys.executable, "-c", PEER, str(port), settings.redis_url, str(settings.home / "model.lgb")])
            result = {
                "logged": logged,
                "users": USERS,
                "tiles_per_user": round(tiles, 1),
                "bytes_per_user": round(used),
                **compare(settings.ports.serving, port, requests, runs_),
            }
        finally:
            if peer is not None:
                peer.terminate()
                peer.wait()
    print(json.dumps(result) if as_json else _sentences(result))


def compare(braid: int, peer: int, requests: int, times: int) -> dict[str, Any]:
    """The medians of alternating runs against both servers.

    Args:
        braid: The port of braid.
        peer: The port of the peer.
        requests: The number of requests per run.
        times: The number of runs.
    """
    source = random.Random(1)
    single_bodies = [json.dumps({"user_id": source.randrange(USERS), "at": Q_MS}) for _ in range(requests)]
    cases = [("predict", "/predict", single_bodies)]
    for entities in (1, 100, 500):
        bodies = [
            json.dumps({"group": group.name, "ids": source.sample(range(USERS), entities), "at": Q_MS})
            for _ in range(max(20, requests // entities if entities < 100 else requests // 10))
        ]
        cases.append((f"features_{entities}", "/features", bodies))
    figures: dict[str, list[float]] = {}
    wait(peer)
    gc.disable()
    for run in range(times + 1):
        for name, port in (("braid", braid), ("peer", peer)):
            for case, path, bodies in cases:
                seconds = ask(port, path, bodies)
                if run:  # run 0 warms the servers up
                    for percent in (50, 99):
                        milliseconds = float(np.percentile(seconds, percent)) * 1_000
                        figures.setdefault(f"{name}_{case}_p{percent}_ms", []).append(milliseconds)
            if run:
                rate = throughput(port, single_bodies)
                figures.setdefault(f"{name}_predictions_per_second_8_connections", []).append(rate)
    medians = {name: round(statistics.median(values), 3) for name, values in figures.items()}
    ratios = {
        name.replace("braid_", "ratio_"): round(value / medians[name.replace("braid_", "peer_")], 2)
        for name, value in medians.items()
        if name.startswith("braid_")
    }
    return {"runs": times, **medians, **ratios}


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


def ask(port: int, path: str, bodies: list[str]) -> list[float]:
    """The seconds of each request, sent one after another on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    seconds = []
    for body in bodies:
        started = time.perf_counter()
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        seconds.append(time.perf_counter() - started)
        assert answer.status == 200, content
        assert b'"degraded":true' not in content
    connection.close()
    return seconds


def throughput(port: int, bodies: list[str]) -> float:
    """The predictions per second over 8 connections at once."""
    threads = [threading.Thread(target=ask, args=(port, "/predict", bodies[n::8])) for n in range(8)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(bodies) / (time.perf_counter() - started)


def publish(settings: Settings) -> tuple[float, float]:
    """Writes the users' views, tiles and plain hashes to the store. Returns the mean number of tiles per user, and of bytes in the store."""
    source = np.random.default_rng(1)
    client, online, tiles, used = store(settings), open_store(settings), 0, 0
    for user in range(USERS):
        before = BATCH_END_MS - source.integers(0, 60 * DAY_MS, 120)
        # Events for about 20 tiles of the day after batch_end, a few of them in its last hour.
        after = np.repeat(Q_MS - source.integers(0, DAY_MS, 17), 2) + source.integers(0, 200_000, 34)
        recent = Q_MS - source.integers(1, HOUR_MS, 4)
        ts_ms = np.sort(np.concatenate((before, after[after < Q_MS], recent)))
        inputs = [
            Series(ts_ms, source.integers(1, 50_000_000, len(ts_ms)), source.random(len(ts_ms)) < (1 if column.sql == "1" else 0.7))
            for column in group.inputs
        ]
        cut = int(np.searchsorted(ts_ms, BATCH_END_MS))
        early, late = ([Series(*(array[part] for array in series)) for series in inputs] for part in (slice(cut), slice(cut, None)))
        lo, hi = runs(early[0].ts_ms // group.tile_ms)
        starts = (early[0].ts_ms[lo] // group.tile_ms * group.tile_ms).tolist()
        view = build_view(group, BATCH_END_MS, starts, fold_ranges(group, early, lo, hi), int(ts_ms[cut - 1]))
        fields = {batch_field(group.fingerprint): encode(view)}
        speed = [
            (user, tile.first_ms // group.tile_ms * group.tile_ms, tile)
            for tile in fold_tile_values(group, late, *runs(late[0].ts_ms // group.tile_ms))
        ]
        online.put_tiles(group, speed, settings.tiles_kept_seconds(group.buffer_ms))
        tiles += len(speed)
        pipeline = client.pipeline(transaction=False)
        pipeline.hset(group.key(user), mapping=fields)
        pipeline.hset(
            f"plain:{user}", mapping={name: float(value) for name, value in zip(group.feature_names, source.random(6), strict=True)}
        )
        pipeline.execute()
        used += client.memory_usage(group.key(user))
    client.hset(meta_key(group.name), mapping={"batch_end_ms": BATCH_END_MS, "fingerprint": group.fingerprint, "format": FORMAT})
    return tiles / USERS, used / USERS


def register(settings: Settings) -> None:
    """Registers a booster of 200 trees as champion, and writes it to a file for the peer."""
    import lightgbm
    import mlflow
    from mlflow import MlflowClient

    source = np.random.default_rng(1)
    x = source.random((5_000, len(group.features))) * 20
    data = lightgbm.Dataset(x, (x[:, 3] + source.normal(0, 4, 5_000) > 10).astype(int), feature_name=list(group.feature_names))
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 2}, data, 200)
    booster.save_model(settings.home / "model.lgb")
    client = MlflowClient(settings.mlflow_tracking_uri)
    client.create_experiment(repurchase.name, artifact_location=str(settings.home / "artifacts"))
    with tracking(settings):
        mlflow.set_experiment(repurchase.name)
        with mlflow.start_run():
            info = mlflow.lightgbm.log_model(booster, name="model", registered_model_name=repurchase.name, pip_requirements=[])
    client.set_registered_model_alias(repurchase.name, CHAMPION, str(info.registered_model_version))


def _sentences(result: dict[str, Any]) -> str:
    lines = [
        f"{result['users']:,} users with {result['tiles_per_user']} tiles and {result['bytes_per_user']:,} bytes each; medians of {result['runs']} runs, braid beside a bare server."
    ]
    for path, what in (
        ("predict", "/predict, one connection"),
        *((f"features_{n}", f"/features, {n} users") for n in (1, 100, 500)),
    ):
        p50, p99 = (f"{result[f'braid_{path}_{p}_ms']} ms (peer {result[f'peer_{path}_{p}_ms']})" for p in ("p50", "p99"))
        lines.append(f"{what}: p50 {p50}, p99 {p99}.")
    name = "predictions_per_second_8_connections"
    lines.append(f"8 connections: {result[f'braid_{name}']:,.0f} predictions/s (peer {result[f'peer_{name}']:,.0f}).")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
