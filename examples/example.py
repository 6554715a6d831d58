"""The declaration of an example beside its project: the data of `braid demo NAME`, and how the gain of fresh features is measured.

The demo makes its requests from the declaration of the project's first model. If the model's outcome names the events that are label points, each
such event becomes a request with its keys and request columns. Otherwise a request names an entity.
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
        """Works until `stop` is set and nothing is left to do."""

    def summary(self) -> Mapping[str, Any]:
        """Returns figures about the worker's work so far."""


class FirstStage(Protocol):
    """The choice of candidates, before the model ranks them."""

    def candidates(self, request: Mapping[str, Any], at_ms: int) -> list[dict[str, Any]]:
        """Returns the candidates of a request for a prediction, as of an instant in ms since 1970."""


@dataclass(frozen=True)
class Gain:
    """How `braid bench example_gain` measures the gain of an example by fresh features.

    Attributes:
        generate: Writes the data of the benchmark to a folder, by a seed. Returns the file of each source, and a file of labels: the
            keys and the request columns of the model, `time`, `label` (0 or 1), `scenario` (0 for none), and `list_id` for rankings.
        scenarios: Scenario → its name.
        measures: The measures of all label points and of each scenario, by their names in `benchmarks._measures`.
        overall: The measures of all label points only.
        baseline: A request column that is a score without a model; its measures are a further column of the table. None without such a score.
        warm_up_days: The days at the beginning that only fill the windows.
        known_after_days: The days until a label is known. As many days are left out between training and evaluation.
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
        write: Writes the events of the demo to a folder, shifted so that they end at an instant in ms since 1970, and returns the files. The
            demo streams the last 7 days.
        candidate: The keys and request columns that differ between the candidates of a request to `/models/{name}/score`. If it is empty,
            the demo requests predictions only.
        candidates: The number of candidates of a request.
        predictions_per_second: The rate of the requests for a prediction while the demo streams.
        scores_per_second: The rate of the requests with candidates.
        first_stage: Makes the choice of candidates, from the home of the deployment after a backfill and the Parquet file of the events that
            are streamed. Without it the candidates are those of earlier label points.
        outcome_hours: The hours after which the outcome of an answer is known, at most 48, for the experiment between the champion and its
            batch-only twin. None for no experiment: if the requests are label points, the demo sends them after the label points' times, when
            their outcomes may have happened already.
        speedup: Event time divided by wall time while the demo streams.
        worker: Makes the worker that runs while the demo streams, from the options of a Kafka client, and the address and the headers of
            serving; None for an example without a worker.
        topics: The topics that the worker writes.
        gain: How the gain of fresh features is measured; None for an example whose data are not simulated here.
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
        """The value of the setting `project` for the example's project."""
        return f"examples.{self.name}.definitions:project"
