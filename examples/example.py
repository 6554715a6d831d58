"""What an example declares about itself beside its project: the data of `braid demo NAME`, and how its gain is measured.

Requests come from the declaration of the project's first model: where its outcome names the events that are label points, each such event
is a request with its keys and request columns; else a request names an entity.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

#: Source → its files: CSV with the columns of the source in their order, or Parquet.
EventFiles = Mapping[str, Sequence[Path]]


class Worker(Protocol):
    """A process beside serving that reads and writes topics."""

    def run(self, stop: threading.Event) -> None:
        """Works until the event is set and nothing is left to do."""

    def summary(self) -> Mapping[str, Any]:
        """What the worker has done so far."""


class FirstStage(Protocol):
    """The choice of candidates, before the model ranks them."""

    def candidates(self, request: Mapping[str, Any], at_ms: int) -> list[dict[str, Any]]:
        """The candidates of a request for a prediction, as of an instant in milliseconds."""


@dataclass(frozen=True)
class Gain:
    """How `braid bench example_gain` measures what fresh features are worth in an example.

    Attributes:
        generate: Writes the data of the benchmark to a folder, made with a seed. Returns the file of each source, and a file of labels: the
            keys and the request columns of the model, `time`, `label` (0 or 1), `scenario` (0 for none), and `list_id` for rankings.
        scenarios: The scenarios and their names.
        measures: The measures of all label points and of each scenario, by the names in `benchmarks._measures`.
        overall: Measures of all label points only.
        baseline: A request column that is a score without a model, as a third column of the table.
        warm_up_days: The days at the beginning that only fill the windows.
        known_after_days: The days until a label is known, which are left out between training and evaluation.
    """

    generate: Callable[[Path, int], tuple[Mapping[str, Path], Path]]
    scenarios: Mapping[int, str]
    measures: tuple[str, ...]
    overall: tuple[str, ...] = ()
    baseline: str | None = None
    warm_up_days: int = 14
    known_after_days: int = 1


@dataclass(frozen=True)
class Example:
    """An example project and its demo.

    Attributes:
        name: The name of the example's package.
        origin: Where the data come from, in a few words.
        write: Writes the events of the demo to a folder, so that they end at an instant in milliseconds, and returns the files. The last
            7 days are streamed.
        candidate: What differs between the candidates of a request to `/models/{name}/score`: keys and request columns. Without it the
            demo requests predictions only.
        candidates: The number of candidates of a request.
        predictions_per_second: The rate of the requests for a prediction while the demo streams.
        scores_per_second: The rate of the requests for candidates.
        first_stage: Makes the choice of candidates, from the home of the deployment after a backfill and the Parquet file of the events that
            are streamed; without it the candidates of the demo are those of earlier label points.
        outcome_hours: The hours after which the outcome of an answer is known, for the experiment between the champion and its batch-only
            twin, at most 48; None without an experiment: the demo asks about label points after their time, when an outcome
            that belongs to the label point may have come.
        speedup: Event time divided by wall time when the demo streams.
        worker: Makes the worker that runs while the demo streams, from the options of a Kafka client, and the address and the headers of
            serving; None without a worker.
        topics: The topics that the worker writes.
        gain: How the gain of fresh features is measured; None in an example whose data are not simulated here.
    """

    name: str
    origin: str
    write: Callable[[Path, int], EventFiles]
    candidate: tuple[str, ...] = ()
    candidates: int = 20
    predictions_per_second: float = 50
    scores_per_second: float = 10
    first_stage: Callable[[Path, Path], FirstStage] | None = None
    outcome_hours: float | None = None
    speedup: float = 40_000
    worker: Callable[[Mapping[str, Any], str, Mapping[str, str]], Worker] | None = None
    topics: tuple[str, ...] = ()
    gain: Gain | None = None

    @property
    def project(self) -> str:
        """The project as the setting `project` names it."""
        return f"examples.{self.name}.definitions:project"
