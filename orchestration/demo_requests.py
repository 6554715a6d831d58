"""The requests of a demo: what clients ask while the stream runs, made from the declaration of the model and the live events.

Reads the live events of the model's first source; gives the bodies of `/models/{name}/predict` and `/models/{name}/score`, and measures
the answers.
"""

from __future__ import annotations

import bisect
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import httpx
import sqlglot

from examples.example import Example, FirstStage
from features.model import Model, Outcome
from infra.settings import Settings
from orchestration.demo_data import DemoData
from orchestration.proof import sample_ids

#: The largest number of different requests.
LIMIT = 20_000
#: The pause between two requests of a client.
PAUSE_SECONDS = 0.01


@dataclass
class Answers:
    """The answers to one kind of request.

    Attributes:
        seconds: The seconds of each answer.
        degraded: How many answers are degraded.
        failed: How many requests got no answer.
        wall_seconds: For how long clients have asked.
    """

    seconds: list[float] = field(default_factory=list)
    degraded: int = 0
    failed: int = 0
    wall_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """The rate of the requests."""
        return round(len(self.seconds) / self.wall_seconds, 1) if self.wall_seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latency, in milliseconds."""
        cuts = statistics.quantiles(self.seconds, n=1_000) if len(self.seconds) > 1 else [0.0] * 999
        return round(cuts[round(percent * 10) - 1] * 1_000, 2)

    def within(self, budget_ms: float) -> float:
        """The share of the answers that took at most so many milliseconds."""
        return sum(seconds * 1_000 <= budget_ms for seconds in self.seconds) / max(1, len(self.seconds))


@dataclass(frozen=True)
class Requests:
    """The requests of a demo.

    Attributes:
        bodies: Bodies of requests for a prediction, in the order of `times_ms`.
        times_ms: The times of the label points that the bodies are of; empty if the bodies have no times.
        first_stage: The choice of candidates; None if the candidates are those of earlier label points.
    """

    bodies: Sequence[dict[str, Any]]
    times_ms: Sequence[int] = ()
    first_stage: FirstStage | None = None

    def body(self, number: int, at_ms: int) -> dict[str, Any]:
        """The body of a client's request: that of a label point before `at_ms`, or the next entity where label points are no events."""
        return {**self.bodies[self._place(number, at_ms)], "at": at_ms}

    def candidates(self, number: int, at_ms: int, example: Example) -> dict[str, Any]:
        """The same request for different candidates, by the first stage, or as many as the example says, of the label points before it."""
        body = self.body(number, at_ms)
        shared = {name: value for name, value in body.items() if name not in example.candidate}
        context = {name: value for name, value in body["context"].items() if name not in example.candidate}
        stage = self.first_stage
        candidates = self._earlier(self._place(number, at_ms), example) if stage is None else stage.candidates(body, at_ms)
        return {**shared, "context": context, "candidates": candidates}

    def _earlier(self, place: int, example: Example) -> list[dict[str, Any]]:
        """The candidates of the label points up to a place."""
        chosen = dict[tuple[Any, ...], None]()
        for earlier in range(place, max(-1, place - 10 * example.candidates), -1):
            body = self.bodies[earlier]
            chosen[tuple({**body, **body["context"]}[name] for name in example.candidate)] = None
            if len(chosen) == example.candidates:
                break
        return [dict(zip(example.candidate, values, strict=True)) for values in chosen]

    def _place(self, number: int, at_ms: int) -> int:
        if not self.times_ms:
            return number % len(self.bodies)
        # A few requests back, so that several clients do not ask about one label point.
        return max(0, bisect.bisect_left(self.times_ms, at_ms) - 1 - number % 50)


def requests_of(model: Model, data: DemoData, entities: int) -> Requests:
    """The requests for a model.

    Args:
        model: The declaration.
        data: The data of the demo.
        entities: How many entities are asked about if label points are no events.
    """
    first, source = model.vector.inputs[0], model.group.source
    if not isinstance(model.outcome, Outcome) or model.outcome.at is None:
        return Requests(
            [
                {**dict(zip(first.keys, first.group.values_of(entity_id), strict=True)), "context": {}}
                for entity_id in sample_ids(model.group, [data.live(source)], entities)
            ]
        )
    keys = {key: key for entry in model.vector.inputs for key in entry.keys} | dict(
        zip(first.keys, first.group.entity_names, strict=True)
    )
    columns = [column.name for column in model.request]
    selected = ", ".join(f'"{name}"' for name in [*keys.values(), *columns])
    where = sqlglot.transpile(model.outcome.at, read="spark", write="duckdb")[0]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        points = (
            f"SELECT * FROM read_parquet('{data.live(source)}') WHERE {where} ORDER BY hash(\"{source.event_id}\") LIMIT {LIMIT}"
        )
        rows = connection.execute(
            f'SELECT epoch_ms("{source.time}"), {selected} FROM ({points}) ORDER BY "{source.time}", "{source.event_id}"'
        ).fetchall()
    bodies = [
        {
            **dict(zip(keys, row[1:], strict=False)),
            "context": {
                name: _plain(value) for name, value in zip(columns, row[1 + len(keys) :], strict=True) if value is not None
            },
        }
        for row in rows
    ]
    return Requests(bodies, [row[0] for row in rows])


def _plain(value: Any) -> Any:
    """A value of an event as JSON has it."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if isinstance(value, str | int) else float(value)


class Clients:
    """Clients that ask a model until they are stopped. The last client asks for many candidates at once, if the example has candidates.

    Args:
        settings: The settings that name the address of serving.
        model: The model.
        requests: The requests.
        example: The example.
        predictions: Where the answers to requests for one prediction are counted.
        scores: Where the answers to requests for candidates are counted.
    """

    def __init__(
        self, settings: Settings, model: Model, requests: Requests, example: Example, predictions: Answers, scores: Answers
    ) -> None:
        self._settings, self._model, self._requests, self._example = settings, model, requests, example
        self._predictions, self._scores = predictions, scores
        self._stop, self._threads, self._began = threading.Event(), list[threading.Thread](), 0.0
        self.now_ms = 0

    def start(self, count: int) -> None:
        """Starts some clients. They ask as of `now_ms`, which the caller moves."""
        self._began = time.monotonic()
        scoring = count - 1 if self._example.candidate else count
        self._threads = [
            threading.Thread(target=self._ask, args=(client, count, client == scoring), daemon=True) for client in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the clients."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for answers in (self._predictions, self._scores):
            answers.wall_seconds += time.monotonic() - self._began

    def _ask(self, client: int, step: int, scoring: bool) -> None:
        answers, number = self._scores if scoring else self._predictions, client
        path = f"/models/{self._model.name}/{'score' if scoring else 'predict'}"
        with httpx.Client(base_url=self._settings.serving_url, headers=self._settings.serving_headers, timeout=10) as connection:
            while not self._stop.wait(PAUSE_SECONDS):
                at_ms = self.now_ms
                body = self._requests.candidates(number, at_ms, self._example) if scoring else self._requests.body(number, at_ms)
                number += step
                started = time.perf_counter()
                answer = connection.post(path, json=body)
                answers.seconds.append(time.perf_counter() - started)
                if answer.is_success:
                    answers.degraded += answer.json()["provenance"]["degraded"]
                else:
                    answers.failed += 1
