"""The requests that the clients of a demo send while the stream runs, made from the declaration of the model and the live events.

Reads the live events of the source of the model's first group. Returns the bodies of `/models/{name}/predict` and `/models/{name}/score`.
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
        times_ms: The time of the label point of each body, ascending; empty if label points are not events.
        first_stage: The choice of candidates; None if the candidates are those of earlier label points.
    """

    bodies: Sequence[dict[str, Any]]
    times_ms: Sequence[int] = ()
    first_stage: FirstStage | None = None

    def body(self, number: int, at_ms: int) -> dict[str, Any]:
        """Returns the body of a request for a prediction.

        The body is that of a label point before `at_ms`; if label points are not events, that of the next entity.

        Args:
            number: The number of the request, from 0.
            at_ms: The time of the features, in ms since 1970.
        """
        return {**self.bodies[self._place(number, at_ms)], "at": at_ms}

    def candidates(self, number: int, at_ms: int, example: Example) -> dict[str, Any]:
        """Returns the body of the same request for several candidates.

        The candidates are those of the first stage. Without a first stage they are the latest different candidates of earlier label points, at most
        as many as the example declares.

        Args:
            number: The number of the request, from 0.
            at_ms: The time of the features, in ms since 1970.
            example: The example, which declares the fields of a candidate.
        """
        body = self.body(number, at_ms)
        shared = {name: value for name, value in body.items() if name not in example.candidate}
        context = {name: value for name, value in body["context"].items() if name not in example.candidate}
        stage = self.first_stage
        candidates = self._earlier(self._place(number, at_ms), example) if stage is None else stage.candidates(body, at_ms)
        return {**shared, "context": context, "candidates": candidates}

    def _earlier(self, place: int, example: Example) -> list[dict[str, Any]]:
        """Returns the different candidates of the label points up to a place, the latest first."""
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
        # The label point is up to 49 points back, so that consecutive requests are not about the same label point.
        return max(0, bisect.bisect_left(self.times_ms, at_ms) - 1 - number % 50)


def requests_of(model: Model, data: DemoData, entities: int) -> Requests:
    """Makes the requests for a model.

    Args:
        model: The declaration.
        data: The data of the demo.
        entities: The largest number of entities in the requests, if label points are not events.
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
    """Converts a value of an event to a value of JSON."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if isinstance(value, str | int) else float(value)
