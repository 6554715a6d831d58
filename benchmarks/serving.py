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
import statistics
import subprocess
import sys
import threading
import time
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks._home import temporary_home
from benchmarks._serving import USERS, bodies_of, publish, register, wait
from infra.embedded import services
from infra.kafka import SERVED_TOPIC

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
    single_bodies = bodies_of("predict", requests)
    cases = [("predict", "/predict", single_bodies)]
    for entities in (1, 100, 500):
        number = max(20, requests // entities if entities < 100 else requests // 10)
        cases.append((f"features_{entities}", "/features", bodies_of(f"features_{entities}", number)))
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
