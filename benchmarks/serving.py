"""Serving beside its peers: latency of `/predict` and of `/features` for 1, 100 and 500 users, and predictions over 8 connections.

    python -m benchmarks.serving [--requests 2000] [--runs 3] [--logged] [--json]

braid answers through BentoML from packed views and tiles, with merge, model, validation and provenance. The peers read finished values from the same
Valkey (`benchmarks.peers`); the values equal those of braid's answers:

    bare        Starlette, one plain hash per user, the same model as braid, no validation: the least that a prediction needs
    fastapi     FastAPI, three HGETs, a logistic regression
    feast       Feast's own server (`feast serve`), the six features of each user
    pipeline    no server: redis-py in this process, a pipeline of 100 HGETALL of the plain hashes

All servers run at the same time, one process each; their runs alternate. The data are 2,469 users (as many as in completejourney), each with a
batch view and about 20 speed tiles. The services run in a temporary home, which is deleted.
"""

from __future__ import annotations

import gc
import http.client
import json
import random
import statistics
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import redis
import typer

from benchmarks._cpu import cpu_seconds
from benchmarks._home import temporary_home
from benchmarks._serving import CASES, Q_MS, USERS, bodies_of, group, publish, register
from benchmarks.peers.running import Server, peers
from braid import Client
from infra.embedded import services
from infra.kafka import SERVED_TOPIC
from infra.settings import Settings

#: Server → the cases that it can answer.
ANSWERS = {"braid": tuple(CASES), "bare": tuple(CASES), "fastapi": ("predict",), "feast": tuple(CASES)[1:]}
_CONNECTIONS, _PIPELINED = 8, 100
_THROUGHPUT, _PER_CPU = f"predictions_per_second_{_CONNECTIONS}_connections", "predictions_per_cpu_second"
#: Figure → its name for readers.
ROWS = {
    **{
        f"{case}_{figure}": f"{path}{'' if path == '/predict' else f' of {entities}'}, {words}"
        for case, (path, entities) in CASES.items()
        for figure, words in (("p50_ms", "p50 ms"), ("p99_ms", "p99 ms"), ("cpu_us", "µs of CPU of the server"))
    },
    _THROUGHPUT: f"predictions/s, {_CONNECTIONS} connections",
    _PER_CPU: "predictions per CPU second",
}


def main(
    requests: Annotated[int, typer.Option(help="Requests per run to /predict; a tenth of it to /features of many.")] = 2_000,
    runs: Annotated[int, typer.Option(help="Runs of each.")] = 3,
    logged: Annotated[bool, typer.Option("--logged", help="Log everything that braid serves to Kafka.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares serving with its peers."""
    with temporary_home() as home:
        settings = home.model_copy(
            update={"mlflow_tracking_uri": f"sqlite:///{home.home}/mlflow.db", "served_share": float(logged)}
        )
        register(settings)
        topics = {SERVED_TOPIC: 4} if logged else {}
        services.up(settings, topics, only={"valkey", "serving", *(["kafka"] if logged else [])})
        tiles, used = publish(settings)
        features = finished_features(settings)
        with peers(settings, features, settings.home / "model.lgb") as (servers, plain):
            pid = next(status.pid for status in services.status(settings) if status.name == "serving")
            assert pid is not None
            servers = {"braid": Server(settings.ports.serving, pid), **servers}
            check_feast(servers["feast"].port, features)
            figures = compare(servers, plain, requests, runs)
    result = {
        "runs": runs, "logged": logged, "users": USERS, "tiles_per_user": round(tiles, 1), "bytes_per_user": round(used),
        **figures, "ratios": ratios(figures),
    }  # fmt: skip
    print(json.dumps(result) if as_json else table(result))


def finished_features(settings: Settings) -> pa.Table:
    """Returns the features of all users from braid's answers, with the columns that the peers need."""
    with Client(settings.serving_url, deadline_seconds=60) as client:
        parts = [range(first, min(first + 500, USERS)) for first in range(0, USERS, 500)]
        batches = [client.features_arrow(group.name, part, at=Q_MS) for part in parts]
    answered = pa.Table.from_batches(batches)
    assert not any(answered["provenance.degraded"].to_pylist())
    columns = {name: answered[name] for name in group.feature_names}
    assert not any(column.null_count for column in columns.values())
    return pa.table({"user_id": answered["id"], "event_timestamp": answered["provenance.as_of"], **columns})


def check_feast(port: int, features: pa.Table) -> None:
    """Returns if Feast answers the same values as braid."""
    [body] = feast_bodies("features_500", 1)
    [answer] = ask(port, "/get-online-features", [body], keep=True)
    names, results = answer["metadata"]["feature_names"], answer["results"]
    answered = {name: result["values"] for name, result in zip(names, results, strict=True)}
    rows = features.to_pandas().set_index("user_id").loc[answered.pop("user_id")]
    different = [name for name, values in answered.items() if rows[name].tolist() != values]
    assert not different, different


def feast_bodies(case: str, number: int) -> list[str]:
    """Returns the bodies of requests of a case in Feast's format, for the same users."""
    names = [f"user_features:{name}" for name in group.feature_names]
    users = [json.loads(body)["ids"] for body in bodies_of(case, number)]
    return [json.dumps({"features": names, "entities": {"user_id": ids}}) for ids in users]


def fastapi_bodies(case: str, number: int) -> list[str]:
    """Returns the bodies of requests of a case in the format of the FastAPI server."""
    return [json.dumps({"user_id": json.loads(body)["user_id"], "context": {}}) for body in bodies_of(case, number)]


def compare(servers: dict[str, Server], plain: redis.Redis, requests: int, runs: int) -> dict[str, Any]:
    """Returns for each server the medians of alternating runs, by the names of `ROWS`; and for `pipeline` p50 and p99."""
    bodies: dict[str, Callable[[str, int], list[str]]] = {"fastapi": fastapi_bodies, "feast": feast_bodies}
    cases = []
    for name in servers:
        for case in ANSWERS[name]:
            path, entities = CASES[case]
            number = requests if entities == 1 else max(20, requests // 10)
            cases.append(
                (name, case, "/get-online-features" if name == "feast" else path, bodies.get(name, bodies_of)(case, number))
            )
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in (*servers, "pipeline")}
    gc.disable()
    for run in range(runs + 1):  # run 0 warms the servers up
        measured: list[tuple[str, str, float]] = []
        for name, case, path, of_case in cases:
            port, pid = servers[name]
            cpu = cpu_seconds(pid)
            measured += [(name, f"{case}_{figure}", value) for figure, value in percentiles(ask(port, path, of_case))]
            measured.append((name, f"{case}_cpu_us", (cpu_seconds(pid) - cpu) / len(of_case) * 1e6))
            if case == "predict":
                cpu = cpu_seconds(pid)
                measured.append((name, _THROUGHPUT, throughput(port, of_case)))
                measured.append((name, _PER_CPU, len(of_case) / (cpu_seconds(pid) - cpu)))
        measured += [("pipeline", figure, value) for figure, value in percentiles(pipelined(plain, max(20, requests // 10)))]
        for name, figure, value in measured if run else ():
            samples[name].setdefault(figure, []).append(value)
    gc.enable()
    return {name: {figure: round(statistics.median(values), 3) for figure, values in of.items()} for name, of in samples.items()}


def percentiles(seconds: list[float]) -> list[tuple[str, float]]:
    """Returns the median and the 99th percentile in milliseconds."""
    return [(f"p{percent}_ms", float(np.percentile(seconds, percent)) * 1_000) for percent in (50, 99)]


def ask(port: int, path: str, bodies: list[str], keep: bool = False) -> list[Any]:
    """Sends requests one after another on one connection. Returns the seconds of each request, or with `keep` the answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    results: list[Any] = []
    for body in bodies:
        started = time.perf_counter()
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        results.append(json.loads(content) if keep else time.perf_counter() - started)
        assert answer.status == 200, content
        assert b'"degraded":true' not in content
        assert b"NOT_FOUND" not in content
    connection.close()
    return results


def throughput(port: int, bodies: list[str]) -> float:
    """Returns the predictions per second over several concurrent connections."""
    threads = [threading.Thread(target=ask, args=(port, "/predict", bodies[n::_CONNECTIONS])) for n in range(_CONNECTIONS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(bodies) / (time.perf_counter() - started)


def pipelined(client: redis.Redis, number: int) -> list[float]:
    """Returns the seconds of each pipeline of `_PIPELINED` HGETALL, without a server in front of the store."""
    source, seconds = random.Random(1), []
    for _ in range(number):
        users = source.sample(range(USERS), _PIPELINED)
        started = time.perf_counter()
        pipeline = client.pipeline(transaction=False)
        for user in users:
            pipeline.hgetall(f"user_features:{user}")
        assert all(pipeline.execute())
        seconds.append(time.perf_counter() - started)
    return seconds


def ratios(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Returns for each peer braid's figures divided by the peer's. The pipeline is compared with `/features` of as many entities."""
    braid = figures["braid"]
    of_pipeline = {figure: braid[f"features_{_PIPELINED}_{figure}"] / value for figure, value in figures["pipeline"].items()}
    of_servers = {
        name: {figure: braid[figure] / value for figure, value in of.items()}
        for name, of in figures.items()
        if name not in ("braid", "pipeline")
    }
    every = {**of_servers, "pipeline": of_pipeline}
    return {name: {figure: round(value, 2) for figure, value in of.items()} for name, of in every.items()}


def table(result: dict[str, Any]) -> str:
    """Returns the figures as a table of Markdown: braid, and each peer with the ratio of braid's figure to the peer's."""
    names = {"bare": "bare server", "fastapi": "FastAPI, three HGETs", "feast": "Feast"}
    lines = [
        f"{result['users']:,} users with {result['tiles_per_user']} tiles and {result['bytes_per_user']:,} bytes each; medians of {result['runs']} runs; in brackets braid's figure divided by the peer's.",
        "",
        f"| | braid | {' | '.join(names.values())} |",
        f"|---|{'---|' * (len(names) + 1)}",
    ]
    for figure, words in ROWS.items():
        cells = [_rounded(result["braid"][figure])]
        for name in names:
            value = result[name].get(figure)
            cells.append("–" if value is None else f"{_rounded(value)} ({result['ratios'][name][figure]:g})")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    p50, p99 = (
        f"{_rounded(result['pipeline'][figure])} ms ({result['ratios']['pipeline'][figure]:g})" for figure in ("p50_ms", "p99_ms")
    )
    lines += [
        "",
        f"A pipeline of {_PIPELINED} HGETALL of plain hashes by redis-py: p50 {p50}, p99 {p99}, beside /features of as many entities.",
    ]
    return "\n".join(lines)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    typer.run(main)
