"""The clients of a demo: they send requests at fixed rates while the stream runs, and measure the latency of the answers.

The clients run in a process of their own, so that the work of the demo delays no request. The due time of a request does not depend on earlier
answers, and its latency is measured from the due time (`orchestration.open_loop`).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from examples.example import Example
from features.model import Model
from infra.errors import NotReadyError
from infra.settings import Settings
from orchestration.demo_requests import Requests
from orchestration.open_loop import DEGRADED, OK, Generator, Load, request_of, run_timed


@dataclass
class Answers:
    """The answers to one kind of request.

    Attributes:
        seconds: The latency of each answer in seconds, from the time when its request was due; without failed requests.
        degraded: The number of degraded answers.
        failed: The number of requests that got an error response or no response.
        saturated: How often the clients gave up, because serving did not keep up with their rate.
        wall_seconds: How long the clients sent requests, in seconds.
    """

    seconds: list[float] = field(default_factory=list)
    degraded: int = 0
    failed: int = 0
    saturated: int = 0
    wall_seconds: float = 0.0

    def add(self, load: Load, wall_seconds: float) -> None:
        """Adds the answers of one load."""
        self.seconds += load.served_seconds
        self.degraded += load.statuses[DEGRADED]
        self.failed += sum(count for status, count in load.statuses.items() if status not in (OK, DEGRADED))
        self.saturated += load.saturated
        self.wall_seconds += wall_seconds

    @property
    def per_second(self) -> float:
        """The rate of the answers, per second."""
        return round(len(self.seconds) / self.wall_seconds, 1) if self.wall_seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """Returns a percentile of the latency of the answers, in milliseconds."""
        cuts = statistics.quantiles(self.seconds, n=1_000) if len(self.seconds) > 1 else [0.0] * 999
        return round(cuts[round(percent * 10) - 1] * 1_000, 2)

    def within(self, budget_ms: float) -> float:
        """Returns the share of the requests that got an answer within `budget_ms` milliseconds. A failed request got none, however fast it failed."""
        return sum(seconds * 1_000 <= budget_ms for seconds in self.seconds) / max(1, len(self.seconds) + self.failed)


class Clients:
    """Clients that request predictions of a model until they are stopped; also scores of many candidates, if the example has candidates.

    Args:
        settings: The settings that name the address of serving.
        model: The model.
        requests: The requests.
        example: The example, which has the rates.
        now_ms: The time of the features in the first requests, in ms since 1970.
    """

    def __init__(self, settings: Settings, model: Model, requests: Requests, example: Example, now_ms: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._now_ms = context.Value("q", now_ms)
        self._clients, connection = context.Pipe()
        asked = _Asked(settings.ports.serving, settings.serving_headers, f"/models/{model.name}", requests, example)
        self._process = context.Process(target=_ask, args=(asked, self._now_ms, connection), daemon=True)
        self._process.start()
        connection.close()

    def move(self, now_ms: int) -> None:
        """Sets the time of the features in the following requests, in ms since 1970."""
        self._now_ms.value = now_ms

    def stop(self, predictions: Answers, scores: Answers) -> None:
        """Ends the clients, and adds their answers to `predictions` and `scores`.

        Raises:
            NotReadyError: The clients have failed.
        """
        try:
            self._clients.send("stop")
            wall_seconds, *loads = self._clients.recv()
        except (EOFError, ConnectionError):
            raise NotReadyError("The clients of the demo have failed.", "Their error is printed above.") from None
        finally:
            self._process.join()
        for answers, load in zip((predictions, scores), loads, strict=False):
            answers.add(load, wall_seconds)


@dataclass(frozen=True)
class _Asked:
    """The requests of the clients: the port and the headers of serving, the path of the model, and the bodies."""

    port: int
    headers: Mapping[str, str]
    path: str
    requests: Requests
    example: Example

    def predict(self, number: int, at_ms: int) -> bytes:
        return self._bytes("predict", self.requests.body(number, at_ms))

    def score(self, number: int, at_ms: int) -> bytes:
        return self._bytes("score", self.requests.candidates(number, at_ms, self.example))

    def _bytes(self, operation: str, body: Mapping[str, Any]) -> bytes:
        return request_of(f"{self.path}/{operation}", json.dumps(body), self.headers)


def _ask(asked: _Asked, now_ms: Any, demo: Connection) -> None:
    """Sends requests until the demo sends a message or ends. Then sends it the wall time in seconds and the load of each kind of request."""

    def generator(request: Callable[[int, int], bytes], rate: float) -> Generator:
        return Generator(lambda number: request(number, now_ms.value), rate, None)

    async def loads() -> tuple[Any, ...]:
        generators = [generator(asked.predict, asked.example.predictions_per_second)]
        if asked.example.candidate:
            generators.append(generator(asked.score, asked.example.scores_per_second))
        began, running = time.monotonic(), asyncio.gather(*(each.run(asked.port) for each in generators))
        await asyncio.to_thread(demo.poll, None)
        wall_seconds = time.monotonic() - began
        for each in generators:
            each.stop()
        return wall_seconds, *await running

    demo.send(run_timed(loads))
