"""Serving at a fixed rate of arrivals: the highest rate with a p99 within a limit, and the answers at a share of that rate.

    python -m benchmarks.serving_load [--case predict] [--limit-ms 10] [--seconds 60] [--share 0.5] [--publish] [--stream 0]
        [--workers 1] [--json]

For each case, `/predict` and `/features` of 1, 100 and 500 users, trials of some seconds search for the highest rate. Then the load runs twice at a
share of that rate: at rest, and while other work goes on. With `--publish` this work is the publication of a later view of all users and of another
champion. With `--stream` it is a stream of events of the same users through Kafka and the speed layer, at that rate; requests then ask for
features as of the moment at which they are sent. The time of an answer counts from when its request was due, so no stall is left out. The peer is a
server that only answers, with as many bytes. It shows the rate that the generator itself can reach. That rate must be well above the rate of serving,
otherwise the figures are those of the generator. The data are those of `benchmarks.serving`, in a temporary home, which is deleted.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks._home import temporary_home
from benchmarks._publication import publication
from benchmarks._rates import highest_rate, offer
from benchmarks._serving import BATCH_END_MS, CASES, USERS, bodies_of, publish, register, wait
from benchmarks._stream import streaming
from examples.shop.definitions import project, user_features
from features.instants import now_ms
from features.windows import DAY_MS, HOUR_MS, floor_ms
from infra.embedded import services
from infra.settings import Settings
from orchestration.open_loop import DEGRADED, Load, request_of
from orchestration.topics import topics

#: The program of the peer. Its arguments are the port and the number of bytes of an answer.
PEER = r"""
import asyncio, sys
import httptools

answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % int(sys.argv[2]) + b"x" * int(sys.argv[2])

class Answers(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_message_complete(self):
        self.transport.write(answer)

async def main():
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""
#: A trial has at least `_LEAST_REQUESTS`, for its 99th percentile, unless these take longer than `_LONGEST_TRIAL_SECONDS`.
_LEAST_REQUESTS, _LONGEST_TRIAL_SECONDS = 400, 20.0
#: The time before a measurement with a stream, because Java compiles in the first minutes of a stream.
_STREAM_WARM_UP_SECONDS = 90


def main(
    cases: Annotated[list[str] | None, typer.Option("--case", help=f"One of {', '.join(CASES)}. Default: all.")] = None,
    limit_ms: Annotated[float, typer.Option(help="The limit of the p99, in milliseconds.")] = 10.0,
    seconds: Annotated[float, typer.Option(help="Seconds of the load at a share of the highest rate.")] = 60.0,
    share: Annotated[float, typer.Option(help="That share.")] = 0.5,
    trial_seconds: Annotated[float, typer.Option(help="Seconds of a trial of a rate.")] = 5.0,
    trials: Annotated[int, typer.Option(help="Rates to try at most, each once or twice.")] = 12,
    published: Annotated[bool, typer.Option("--publish", help="Publish a view and a champion meanwhile, too.")] = False,
    stream: Annotated[float, typer.Option(help="Events per second meanwhile; the speed layer runs from the begin.")] = 0.0,
    workers: Annotated[int, typer.Option(help="Processes of serving.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures the highest rate that serving holds, and its answers at a share of that rate."""
    results = []
    for case in cases or list(CASES):
        # Each case has its own home, because a view can be published only once, and because the caches of serving must begin empty.
        with temporary_home() as home:
            update = {"mlflow_tracking_uri": f"sqlite:///{home.home}/mlflow.db", "serving_workers": workers}
            settings = home.model_copy(update=update)
            register(settings)
            next_version = register(settings, champion=False)
            services.up(settings, topics(project), only={"valkey", "serving", *(("kafka", "speed") if stream else ())})
            batch_end_ms = floor_ms(now_ms(), user_features.tile_ms) - DAY_MS if stream else BATCH_END_MS
            publish(settings, batch_end_ms)
            measured = measure(
                settings,
                case,
                limit_ms,
                seconds,
                share,
                trial_seconds,
                trials,
                next_version if published else None,
                batch_end_ms,
                stream,
            )
            results.append({"case": case, "workers": workers, "limit_ms": limit_ms, "share": share, **measured})
            if not as_json:
                print(_sentence(results[-1]), flush=True)  # the next case takes minutes
    if as_json:
        print(json.dumps({"cases": results}))


def measure(
    settings: Settings, case: str, limit_ms: float, seconds: float, share: float, trial_seconds: float, trials: int, next_version: str | None,
    batch_end_ms: int, stream: float,
) -> dict[str, Any]:  # fmt: skip
    """Returns the figures of one case: the rates of serving and of the peer, and the load at rest and while other work goes on.

    Args:
        settings: The settings of the deployment.
        case: A case of `benchmarks._serving.CASES`.
        limit_ms: The limit of the 99th percentile, in ms.
        seconds: The seconds of a load at a share of the highest rate.
        share: That share.
        trial_seconds: The seconds of a trial of a rate.
        trials: The largest number of rates to try.
        next_version: The version that becomes champion while a load runs; None for no publication.
        batch_end_ms: The batch_end of the users' views.
        stream: The events per second that are sent while a load runs; 0 for no stream.
    """
    path, _ = CASES[case]
    bodies = bodies_of(case, 1_000, at_ms=None if stream else batch_end_ms + DAY_MS)
    requests, port = [request_of(path, body) for body in bodies], settings.ports.serving

    def rate_of(port: int, first: float) -> float:
        def trial(rate: float) -> Load:
            return offer(port, requests, rate, min(max(trial_seconds, _LEAST_REQUESTS / rate), _LONGEST_TRIAL_SECONDS))

        return highest_rate(trial, limit_ms, first, trials)

    mean_seconds, size = one_by_one(port, path, bodies[:200])
    with answering(settings.ports.dagster, size) as peer:  # free, because Dagster does not run here
        ceiling = rate_of(peer, 2 / mean_seconds)
    rate = rate_of(port, 0.5 / mean_seconds)
    figures: dict[str, Any] = {"rate": round(rate, 1), "rate_of_the_peer": round(ceiling, 1), "answer_bytes": size}
    # If no rate holds the limit, the load runs at a share of the rate that a single connection can reach.
    shared = share * (rate or 1 / mean_seconds)
    rest = offer(port, requests, shared, seconds)
    figures |= {"at_rest": figures_of(rest)}
    if next_version is not None or stream:
        with ExitStack() as beside:
            if stream:
                beside.enter_context(streaming(settings, stream, USERS))
                time.sleep(_STREAM_WARM_UP_SECONDS)
            if next_version is not None:
                end_ms = batch_end_ms + 6 * HOUR_MS
                beside.enter_context(publication(settings, next_version, seconds / 4, batch_end_ms, end_ms))
            meanwhile = offer(port, requests, shared, seconds)
        twice = np.array(meanwhile.seconds) * 1_000 > 2 * rest.percentile_ms(99)
        figures |= {"meanwhile": figures_of(meanwhile), "share_beyond_twice_the_p99_at_rest": round(float(twice.mean()), 6)}
    return figures


def figures_of(load: Load) -> dict[str, Any]:
    """Returns the percentiles of a load in milliseconds, and the numbers of its answers."""
    return {
        "rate": round(load.rate, 1),
        "answers": len(load.seconds),
        **{f"p{name}_ms": round(load.percentile_ms(percent), 2) for name, percent in (("50", 50), ("99", 99), ("99_9", 99.9))},
        "longest_ms": round(load.percentile_ms(100), 2),
        "longest_stall_ms": round(load.stall_seconds * 1_000, 2),
        "sent_late_p99_ms": round(float(np.percentile(load.late_seconds or [0], 99)) * 1_000, 2),
        "degraded": load.statuses[DEGRADED],
        "refused": sum(load.statuses.values()) - load.statuses[200] - load.statuses[DEGRADED],
        "saturated": load.saturated,
    }


def one_by_one(port: int, path: str, bodies: Sequence[str]) -> tuple[float, int]:
    """Sends requests one after another on one connection. Returns their mean seconds, and the bytes of the last answer.

    The first half of the requests warms the server up and does not count.
    """
    wait(port)
    connection, began = http.client.HTTPConnection("127.0.0.1", port, timeout=30), 0.0
    for place, body in enumerate(bodies):
        if place == len(bodies) // 2:
            began = time.perf_counter()
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
    mean_seconds = (time.perf_counter() - began) / (len(bodies) - len(bodies) // 2)
    connection.close()
    return mean_seconds, len(content)


@contextmanager
def answering(port: int, size: int) -> Iterator[int]:
    """Runs a block in which the peer listens on the port."""
    with subprocess.Popen([sys.executable, "-c", PEER, str(port), str(size)]) as program:
        try:
            wait(port)
            yield port
        finally:
            program.terminate()


def _sentence(result: dict[str, Any]) -> str:
    lines = [
        f"{result['case']}: {result['rate']:,} requests/s with p99 <= {result['limit_ms']:g} ms by {result['workers']} processes.",
        f"  A server that only answers, with as many bytes: {result['rate_of_the_peer']:,} requests/s.",
    ]
    for phase, words in (("at_rest", "at rest"), ("meanwhile", "meanwhile")):
        if figures := result.get(phase):
            lines.append(
                f"  {figures['rate']:,}/s {words}: p50 {figures['p50_ms']}, p99 {figures['p99_ms']}, p99.9 {figures['p99_9_ms']}, "
                f"longest {figures['longest_ms']}, longest stall {figures['longest_stall_ms']} ms; {figures['answers']:,} answers, "
                f"{figures['degraded']:,} of them degraded and {figures['refused']:,} refused; sent late by at most {figures['sent_late_p99_ms']} ms (p99)"
                f"{'; ended, because too many requests waited' if figures['saturated'] else ''}."
            )
    if "meanwhile" in result:
        lines.append(f"  Beyond twice the p99 at rest: {result['share_beyond_twice_the_p99_at_rest']:.4%}.")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
