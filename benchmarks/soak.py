"""A soak: mixed load on a deployment for some time, with the memory and the open descriptors of each service.

    python -m benchmarks.soak [--minutes 30] [--rate 40] [--events 50] [--publish-minutes 3] [--json]

All services of `braid up` run in a temporary home, which is deleted. Meanwhile clients request predictions and the features of 1, 100 and 500 users
at a fixed rate, a producer sends events, and every few minutes another process publishes a later view of all users and moves the alias of the
champion. A service has no peer; its growth over the second half of the time is measured by the Theil-Sen slope, which is robust against single
samples. A service is flat if in that half its memory grows by at most 2 % plus 2 MiB, and its descriptors by at most 1 % plus 1. In the first minutes
caches fill and Java compiles, so a soak of a few minutes shows growth.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import psutil
import typer
from scipy.stats import theilslopes

from benchmarks._home import temporary_home
from benchmarks._publication import publication
from benchmarks._rates import offer
from benchmarks._serving import CASES, USERS, bodies_of, register
from benchmarks._stream import streaming
from examples.shop.definitions import project
from features.instants import now_ms
from features.windows import MINUTE_MS, floor_ms
from infra.embedded import services
from infra.embedded.supervision import Supervisor
from infra.settings import Settings
from orchestration.open_loop import DEGRADED, Load, request_of
from orchestration.topics import topics

#: Case → its share of the requests, in percent.
MIX = {"predict": 60, "features_1": 30, "features_100": 8, "features_500": 2}
_SAMPLE_SECONDS, _MIB = 5.0, 1_024 * 1_024
#: The growth that counts as flat: a share and an amount, of bytes and of descriptors.
_TOLERATED = {"bytes": (0.02, 2 * _MIB), "descriptors": (0.01, 1)}


class Sample(NamedTuple):
    """A service at a moment.

    Attributes:
        seconds: The seconds since the begin of the soak.
        pid: The id of the service's first process.
        processes: The number of its processes.
        bytes: Their resident memory. Pages that processes share count once per process.
        descriptors: The number of their open descriptors.
    """

    seconds: float
    pid: int
    processes: int
    bytes: int
    descriptors: int


def main(
    minutes: Annotated[float, typer.Option(help="Length of the soak.")] = 30,
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 40,
    events: Annotated[float, typer.Option(help="Events per second.")] = 50,
    publish_minutes: Annotated[float, typer.Option(help="Minutes between two publications.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures whether the memory and the descriptors of the services stay flat under mixed load."""
    with temporary_home() as settings:
        services.up(settings, topics(project))
        versions = register(settings), register(settings, champion=False)
        loads, samples = soak(settings, versions, minutes, rate, events, publish_minutes)
    result = {"minutes": minutes, "rate": rate, "events_per_second": events, "load": load_figures(loads), "publications": len(loads),
              "services": [{"service": name, **figures_of(of)} for name, of in samples.items()]}  # fmt: skip
    print(json.dumps(result) if as_json else table(result))


def soak(
    settings: Settings, versions: Sequence[str], minutes: float, rate: float, events: float, publish_minutes: float
) -> tuple[list[Load], dict[str, list[Sample]]]:
    """Runs the soak. Returns the loads, one for each publication, and the samples of each service."""
    with publication(settings, versions[0], 0, *_ends()):
        pass  # without a view there is nothing to merge
    over, samples = threading.Event(), dict[str, list[Sample]]()
    watch = threading.Thread(target=_watch, args=(settings, samples, over))
    watch.start()
    loads, requests = [], mixed_requests()
    try:
        rounds = max(1, round(minutes / publish_minutes))
        with streaming(settings, events, USERS):
            for number in range(rounds):
                seconds = minutes * 60 / rounds
                with publication(settings, versions[(number + 1) % 2], seconds / 2, *_ends()):
                    loads.append(offer(settings.ports.serving, requests, rate, seconds))
    finally:
        over.set()
        watch.join()
    return loads, samples


def mixed_requests() -> list[bytes]:
    """Returns 1,000 requests in a random order, for features as of the moment at which they are sent."""
    requests = [
        request_of(CASES[case][0], body) for case, percent in MIX.items() for body in bodies_of(case, 10 * percent, at_ms=None)
    ]
    random.Random(1).shuffle(requests)
    return requests


def figures_of(samples: Sequence[Sample]) -> dict[str, Any]:
    """Returns the figures of a service: the medians of the first and the last tenth of its samples, and the slope of the second half."""
    tenth, half = max(1, len(samples) // 10), samples[len(samples) // 2 :]
    figures: dict[str, Any] = {"restarts": len({sample.pid for sample in samples}) - 1, "processes": samples[-1].processes}
    for name, (share, amount) in _TOLERATED.items():
        values = [getattr(sample, name) for sample in samples]
        seconds = [sample.seconds for sample in half]
        slope = float(theilslopes(values[len(samples) // 2 :], seconds)[0]) if len(half) > 1 else 0.0
        grown = slope * (seconds[-1] - seconds[0])
        figures[name] = {
            "start": float(np.median(values[:tenth])),
            "end": float(np.median(values[-tenth:])),
            "per_hour": slope * 3_600,
            "flat": grown <= share * float(np.median(values)) + amount,
        }
    return figures


def load_figures(loads: Sequence[Load]) -> dict[str, Any]:
    """Returns the figures of the answers of all loads together."""
    seconds = np.concatenate([np.array(load.seconds) for load in loads]) * 1_000
    statuses = sum((load.statuses for load in loads), Counter[int]())
    return {
        "answers": len(seconds), "p50_ms": round(float(np.percentile(seconds, 50)), 2), "p99_ms": round(float(np.percentile(seconds, 99)), 2),
        "degraded": statuses[DEGRADED], "refused": statuses.total() - statuses[200] - statuses[DEGRADED],
        "saturated": sum(load.saturated for load in loads),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Returns the figures as a table of Markdown."""
    load = result["load"]
    text = (
        f"{result['minutes']:g} minutes with {result['events_per_second']:g} events/s and {result['publications']} publications; "
        f"{load['answers']:,} answers, p50 {load['p50_ms']}, p99 {load['p99_ms']} ms, {load['degraded']:,} of them degraded, {load['refused']:,} refused."
    )
    lines = [
        text,
        "",
        "| service | processes | MiB at the start | at the end | MiB per hour | | descriptors | at the end | per hour | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for of in result["services"]:
        cells = [of["service"] + (f" ({of['restarts']} restarts)" if of["restarts"] else ""), str(of["processes"])]
        for name, unit in (("bytes", _MIB), ("descriptors", 1)):
            figures = of[name]
            cells += [f"{figures[key] / unit:,.0f}" for key in ("start", "end")]
            cells += [f"{figures['per_hour'] / unit:+,.1f}", "flat" if figures["flat"] else "not flat"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ends() -> tuple[int, int]:
    """Returns the batch_end of the users' events, and of a view that is published now: at least 5 minutes ago, which the stream has passed."""
    end_ms = floor_ms(now_ms(), 5 * MINUTE_MS) - 5 * MINUTE_MS
    return end_ms, end_ms


def _watch(settings: Settings, samples: dict[str, list[Sample]], over: threading.Event) -> None:
    """Adds a sample of each service every `_SAMPLE_SECONDS`."""
    supervisor, began = Supervisor(settings), time.monotonic()
    while not over.wait(_SAMPLE_SECONDS):
        for name, info in supervisor.infos().items():
            if info.pid is None:
                continue
            processes = used = descriptors = 0
            try:
                parent = psutil.Process(info.pid)
                members = [parent, *parent.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in members:
                try:
                    used += process.memory_info().rss
                    descriptors += process.num_fds()
                    processes += 1
                except psutil.NoSuchProcess:
                    continue  # the process has ended meanwhile
            samples.setdefault(name, []).append(Sample(time.monotonic() - began, info.pid, processes, used, descriptors))


if __name__ == "__main__":
    typer.run(main)
