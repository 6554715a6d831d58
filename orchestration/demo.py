"""The demo: the events of an example through every layer, with requests during the stream, and a comparison with brute force.

history (to 7 days ago) → lake → Dagster: events → tiles → view → online store, training set → candidate → champion
live (7 days) → Kafka → speed layer → tiles in the online store, in three stages:
    2 days          proof: as of batch_end + 2 days, the end of the buffer; the long windows merge both layers
    4 days          the batch is late now, so answers are marked as degraded
    backfill        to a day before the end, from the stream's archive
    1 day           proof: as of the last event
If the example declares the hours after which outcomes are known, all predictions belong to an experiment: the champion on merged features against
its twin on batch features. Each variant also predicts as the other's shadow. At the end the job `quality` counts the served values that differ
from the recomputed values, and writes the verdict of the experiment.
"""

from __future__ import annotations

import importlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from batch.files import open_events
from examples import NAMES as EXAMPLES
from examples.example import Example, Worker
from features import instants
from features.instants import rfc3339
from features.sources import EventSource
from features.windows import DAY_MS
from infra.embedded import services
from infra.embedded.memory import PeakMemory
from infra.embedded.programs import service_names
from infra.errors import InputError, NotReadyError
from infra.kafka import client_options
from infra.policies import Experiment
from infra.project import load_project
from infra.settings import Settings
from orchestration.backfill import consistency_figures
from orchestration.demo_clients import Answers, Clients
from orchestration.demo_data import LIVE_DAYS, DemoData, divide
from orchestration.demo_gain import gain
from orchestration.demo_requests import Requests, requests_of
from orchestration.demo_summary import summary_panel
from orchestration.progress import Progress
from orchestration.proof import ProofReport, prove, sample_ids
from orchestration.quiet import quiet
from orchestration.running import until_ended
from orchestration.topics import topics
from speed.replay import replay
from speed.visible import wait_visible

SAMPLE = 600
#: Stages of the replay, in days after the cut.
FIRST_STAGE, SECOND_STAGE, END = 2, 6, LIVE_DAYS


def example_of(name: str) -> Example:
    """Returns the example of a name.

    Raises:
        InputError: There is no such example.
    """
    if name not in EXAMPLES:
        raise InputError(f"There is no example {name!r}.", f"The examples are: {', '.join(EXAMPLES)}.")
    example: Example = importlib.import_module(f"examples.{name}.example").example
    return example


def _experiment(example: Example) -> Experiment | None:
    """Returns the experiment of a demo; None if the example does not declare when outcomes are known."""
    if example.outcome_hours is None:
        return None
    shares: dict[Any, float] = {"champion": 0.5, "batch_only": 0.5}
    return Experiment(
        name="merged against batch alone", shares=shares, shadow=True, horizon_hours=example.outcome_hours, min_entities=200
    )


class Demo:
    """One run of the demo.

    Args:
        settings: The settings of the demo's home, with the example's project.
        example: The example.
        speedup: Event time divided by wall time in the replay; None for the example's value.
    """

    def __init__(self, settings: Settings, example: Example, speedup: float | None) -> None:
        # Without automation, so that only the demo itself starts runs.
        self._settings = settings.model_copy(update={"experiment": _experiment(example), "automation": frozenset()})
        self._project = load_project(self._settings)
        self._model = self._project.model(None)
        self._example = example
        self._speedup = speedup or example.speedup
        self._progress = Progress(remain=True)
        self._console = self._progress.console
        self._seconds: dict[str, float] = {}
        self._predictions, self._scores = Answers(), Answers()
        self._proofs: list[ProofReport] = []

    def run(self, leave: bool, report: Path | None) -> dict[str, Any]:
        """Runs the demo and returns its summary. At the end it ends every process that it started.

        Args:
            leave: Whether to end directly after the summary. Otherwise the services stay up until Ctrl-C.
            report: The file to which the summary is written as JSON; None for no file.

        Raises:
            InputError: The folder of the report does not exist.
        """
        started = time.monotonic()
        settings = self._settings
        if report is not None and not report.absolute().parent.is_dir():
            raise InputError(f"The folder of the report {report} does not exist.", "Create it, or name another folder.")
        with until_ended(settings):
            with PeakMemory(settings) as memory:
                figures = self._steps()
            summary = {
                **figures,
                "seconds_total": round(time.monotonic() - started, 1),
                "seconds": self._seconds,
                "peak_rss_mb": round(memory.peak_rss_mb),
            }
            if report is not None:
                report.write_text(json.dumps(summary, indent=2))
            self._console.print(summary_panel(summary, self._seconds, self._example, self._settings.home))
            if not leave:
                self._console.print("The services stay up. [bold]Ctrl-C[/bold] ends them.")
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()
            self._console.print("Ending the services …")
        return summary

    def _steps(self) -> dict[str, Any]:
        settings = self._settings
        services.down(settings)
        # The folder belongs to the demo. Everything of an earlier run is deleted, except the file of the ports.
        for path in settings.home.iterdir():
            if path.name != "ports.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with self._progress:
            return self._work()

    def _work(self) -> dict[str, Any]:
        settings, model = self._settings, self._model
        with ThreadPoolExecutor(1) as executor:
            # The load needs no service, so it runs while the services start.
            starting = executor.submit(self._start_services)
            try:
                with self._step("data"):
                    data = self._write_data(instants.now_ms())
                with self._step("load"):
                    loaded = self._load(data)
            except BaseException:
                services.down(settings)
                raise
            starting.result()
        first = self._backfill("backfill and training", data.cut_ms, train=True)
        trained = first.models[model.name]
        if trained.champion_version is None:
            raise NotReadyError(f"The model {model.name} was not trained: {trained.reason}", "See the log backfill.log.")
        with quiet(settings.home / "logs" / "backfill.log"), self._step("gain of merged features"):
            gained = gain(settings, model)
        requests = self._with_first_stage(requests_of(model, data, 2 * SAMPLE), data)
        self._await_champion(requests)
        with self._working() as worker:
            sent = self._replay(data, requests, 0, FIRST_STAGE)
            self._prove(data, FIRST_STAGE)
            sent += self._replay(data, requests, FIRST_STAGE, SECOND_STAGE)
            self._backfill("backfill from the stream's archive", data.end_ms - DAY_MS, train=False)
            requests = self._with_first_stage(requests, data)
            sent += self._replay(data, requests, SECOND_STAGE, END)
        self._prove(data, END)
        quality = self._quality()
        return {
            "example": self._example.name, "entities": sum(first.entities.values()),
            "events_loaded": loaded, "events_replayed": sent, "events_per_second": round(sent / max(1e-9, self._predictions.wall_seconds), 1),
            "cells_compared": sum(proof.cells_compared for proof in self._proofs),
            "cells_different": sum(proof.cells_different for proof in self._proofs),
            "champion_version": trained.champion_version, "auc_merged": trained.auc_merged, "auc_batch_only": trained.auc_batch_only,
            "gain": gained,
            **_latency("predict", self._predictions, model.budget_ms), **(_latency("score", self._scores, model.budget_ms) if self._example.candidate else {}),
            "predictions": len(self._predictions.seconds), "predictions_degraded": self._predictions.degraded, "predictions_failed": self._predictions.failed, "predictions_saturated": self._predictions.saturated,
            "scores": len(self._scores.seconds), "scores_degraded": self._scores.degraded, "scores_failed": self._scores.failed, "scores_saturated": self._scores.saturated,
            "worker": dict(worker.summary()) if worker else None,
            "consistency": consistency_figures(self._project, quality),
            "experiment": quality[f"{model.name}_experiment"]["verdict"] if self._settings.experiment else None,
            "proofs": [{"group": p.group, "entity": self._project.group(p.group).entity_text, "as_of": rfc3339(p.q_ms), "entities": p.entities,
                        "cells": p.cells_compared, "different": p.cells_different, "degraded": p.degraded,
                        "first_differences": [vars(difference) for difference in p.differences[:5]]} for p in self._proofs],
            "answer": self._ask(requests.body(0, data.end_ms + 1)).json(),
            "urls": {"Dagster": settings.dagster_url, "MLflow": settings.mlflow_tracking_uri, "BentoML": settings.serving_url,
                     "data docs": settings.data_docs_url},
        }  # fmt: skip

    def _write_data(self, end_ms: int) -> DemoData:
        folder = self._settings.home / "data"
        return divide(self._project, self._example.write(folder / "written", end_ms), folder, end_ms)

    def _load(self, data: DemoData) -> int:
        from batch.load import load_events
        from infra.spark import spark_session

        with quiet(self._settings.home / "logs" / "backfill.log"):
            spark = spark_session(self._settings, "braid demo", self._settings.batch_memory)
            return sum(load_events(spark, self._settings, source, data.history(source)).loaded for source in self._project.sources)

    def _start_services(self) -> None:
        with self._step("services", total=len(service_names(self._settings))) as advance:
            services.up(
                self._settings,
                {**topics(self._project), **dict.fromkeys(self._example.topics, 1)},
                on_progress=lambda name, step: advance(name, by=int(step == "healthy")),
            )

    def _backfill(self, name: str, to_ms: int, train: bool) -> Any:
        from orchestration.backfill import backfill, backfill_steps
        from orchestration.execution import reload_definitions

        reload_definitions(self._settings)
        total = backfill_steps(self._project, self._settings, train)
        with quiet(self._settings.home / "logs" / "backfill.log"), self._step(name, total=total) as advance:
            report = backfill(
                self._project, self._settings, to_ms, train=train,
                on_asset=lambda asset, seconds: advance(asset, by=int(seconds is not None)),
            )  # fmt: skip
        for asset, seconds in report.seconds.items():
            self._seconds[f"asset {asset}"] = round(self._seconds.get(f"asset {asset}", 0) + seconds, 1)
        return report

    def _quality(self) -> dict[str, dict[str, Any]]:
        from orchestration.backfill import check_quality
        from orchestration.deployment import Deployment
        from orchestration.execution import steps
        from orchestration.names import QUALITY_JOB

        name, total = "quality", steps(Deployment(self._project, self._settings), QUALITY_JOB)
        with quiet(self._settings.home / "logs" / "backfill.log"), self._step(name, total=total) as advance:
            return check_quality(
                self._project, self._settings, on_asset=lambda asset, seconds: advance(asset, by=int(seconds is not None))
            )

    def _ask(self, body: dict[str, Any]) -> httpx.Response:
        settings = self._settings
        return httpx.post(
            f"{settings.serving_url}/models/{self._model.name}/predict", json=body, headers=settings.serving_headers, timeout=10
        )

    def _with_first_stage(self, requests: Requests, data: DemoData) -> Requests:
        """Returns the requests with a first stage made from the latest backfill, if the example has a first stage; else the same requests."""
        make = self._example.first_stage
        return (
            requests
            if make is None
            else replace(requests, first_stage=make(self._settings.home, data.live(self._model.group.source)))
        )

    @contextmanager
    def _working(self) -> Iterator[Worker | None]:
        """Runs the worker of the example during the block. At the end of the block the worker has finished its remaining work.

        Yields:
            The worker; None if the example has none.
        """
        if self._example.worker is None:
            yield None
            return
        settings, stop = self._settings, threading.Event()
        worker = self._example.worker(client_options(settings), settings.serving_url, settings.serving_headers)
        with ThreadPoolExecutor(1) as executor:
            running = executor.submit(worker.run, stop)
            try:
                yield worker
            finally:
                stop.set()
                running.result()

    def _await_champion(self, requests: Requests) -> None:
        """Waits until serving has loaded the champion, for which it polls the registry.

        Raises:
            NotReadyError: Serving has not predicted within a minute.
        """
        end = time.monotonic() + 60
        while not (answer := self._ask(requests.bodies[0])).is_success:
            if time.monotonic() > end:
                raise NotReadyError(f"Serving does not predict: {answer.text[:300]}", "See the log serving.log.")
            time.sleep(0.1)

    def _replay(self, data: DemoData, requests: Requests, from_day: int, to_day: int) -> int:
        """Streams some days of all sources, and returns the number of events. Meanwhile clients request predictions as of the time of the stream."""
        parts = {source: data.part(source, from_day, to_day) for source in self._project.sources}
        parts = {source: (path, count) for source, (path, count) in parts.items() if count}
        sent = dict.fromkeys(parts, 0)
        with self._step(f"replay of days {from_day} to {to_day}", total=sum(count for _, count in parts.values())) as advance:

            def stream(source: EventSource) -> None:
                def on_progress(report: Any) -> None:
                    sent[source] = report.sent
                    advance(to=sum(sent.values()))
                    if source == self._model.group.source and report.last_ms:
                        clients.move(report.last_ms)

                with open_events(parts[source][0], source) as file:
                    report = replay(self._settings, source, file.batches(), speedup=self._speedup, on_progress=on_progress)
                if self._project.groups_of(source):
                    wait_visible(self._settings, self._project.groups_of(source), report.end_offsets)

            clients = Clients(self._settings, self._model, requests, self._example, data.instant_ms(from_day))
            try:
                with ThreadPoolExecutor(max(1, len(parts))) as executor:
                    list(executor.map(stream, parts))
            finally:
                clients.stop(self._predictions, self._scores)
        return sum(sent.values())

    def _prove(self, data: DemoData, day: int) -> None:
        """Compares answers with brute force as of the end of a day; for the last day, as of one millisecond after the last event."""
        with self._step(f"proof as of day {day}"):
            for group in self._project.groups:
                events = data.events(group.source)
                self._proofs.append(prove(self._settings, group, events, sample_ids(group, events, SAMPLE), data.instant_ms(day)))

    @contextmanager
    def _step(self, name: str, total: int | None = None) -> Iterator[Any]:
        """Shows the progress of a step of the demo during the block, and records the seconds of the step."""
        started = time.monotonic()
        with self._progress.step(name, total) as advance:
            yield advance
        self._seconds[name] = round(time.monotonic() - started, 1)


def _latency(kind: str, answers: Answers, budget_ms: float | None) -> dict[str, Any]:
    """Returns the rate and the percentiles of the latency of the answers, and the share of the requests with an answer within the model's budget."""
    percentiles = {f"{kind}_per_second": answers.per_second} | {
        f"{kind}_p{name}_ms": answers.percentile_ms(percent) for name, percent in (("50", 50), ("99", 99), ("999", 99.9))
    }
    return percentiles if budget_ms is None else {**percentiles, f"{kind}_within_budget": round(answers.within(budget_ms), 4)}
