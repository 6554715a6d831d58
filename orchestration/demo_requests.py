"""The requests of a demo: what clients ask while the stream runs, made from the declaration of the model and the live events.

Reads the live events of the model's first source; gives the bodies of `/models/{name}/predict` and `/models/{name}/score`.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import sqlglot

from examples.example import Example, FirstStage
from features.model import Model, Outcome
from orchestration.demo_data import DemoData
from orchestration.proof import sample_ids

#: The largest number of different requests.
LIMIT = 20_000


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
