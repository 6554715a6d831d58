"""One deployment of a comparison: it loads the history, starts, streams the live part, loses its online store, and gets a changed declaration.

Reads the events of the comparison. Writes to the deployment's own home. Returns the time and memory of the steps. Loads, starts and backfills are
commands of braid, so the figures are those that a user would see.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from features.project import Project
from infra.embedded import services
from infra.embedded.memory import PeakMemory
from infra.embedded.programs import FLINK_NAMES
from infra.embedded.supervision import Supervisor
from infra.errors import InputError, ServiceError
from infra.settings import Settings
from orchestration.compare.declared import write_definitions
from orchestration.compare.events import Events
from orchestration.compare.freshness import percentiles, stream
from orchestration.proof import ProofReport, brute_force, compare, sample_ids
from store.server import open_store

#: Entities per group that are compared with brute force.
SAMPLE = 200
#: The longest time until the answers equal those of brute force.
_PATIENCE_SECONDS = 900.0
_POLL_SECONDS = 0.25
_MIB = 2**20

#: Called with the name of the step that begins.
Report = Callable[[str], None]


@dataclass
class Compared:
    """A deployment that is compared.

    Args:
        settings: The settings of the deployment: the home, the architecture, the engine, and the compared project.
        events: The events.
        rate: Events per second of the live part.
        report: Called at the beginning of each step.
    """

    settings: Settings
    events: Events
    rate: float
    report: Report
    _figures: dict[str, Any] = field(default_factory=dict)
    _proofs: list[ProofReport] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Runs the deployment, and returns its figures by the names of `orchestration.compare.report.MEASURES`.

        Raises:
            BraidError: A command or a service has failed; the error contains the reason.
        """
        if missing := {"kafka", "valkey", "mlflow"} - self.settings.embedded:
            raise InputError(
                f"A comparison runs on services of its own, and {', '.join(sorted(missing))} is external.",
                "Unset KAFKA_BOOTSTRAP_SERVERS, REDIS_URL and MLFLOW_TRACKING_URI.",
            )
        definitions = self.settings.home / "definitions.py"
        project = write_definitions(definitions, self.settings, changed=False)
        changed = partial(write_definitions, definitions, self.settings, changed=True)
        # Without automation, so that only the comparison starts runs.
        self.settings = self.settings.model_copy(update={"project": f"{definitions}:project", "automation": frozenset[str]()})
        try:
            with PeakMemory(self.settings) as memory:
                self._run(project, changed)
        finally:
            services.down(self.settings)
        return {
            **self._figures, "peak_memory_mib": round(memory.peak_rss_mb),
            "cells_compared": sum(proof.cells_compared for proof in self._proofs),
            "cells_different": sum(proof.cells_different for proof in self._proofs),
            "entities_degraded": sum(proof.degraded for proof in self._proofs),
        }  # fmt: skip

    def _run(self, project: Project, changed: Callable[[], Project]) -> None:
        sources = project.sources
        self.report("load")
        for source in (source for source in sources if self.events.loaded[source.name]):
            self._braid("load", str(self.events.history(source)), "--source", source.name)
        cut_ms, end_ms = self.events.cut_ms, self.events.end_ms
        histories = {source.name: [self.events.history(source)] for source in sources}
        everything = {source.name: [self.events.history(source), self.events.live(source)] for source in sources}

        self.report("start, and features of the history")
        began = time.monotonic()
        self._start()
        self._await_exact(project, histories, cut_ms)
        self._figures["seconds_to_answers"] = round(time.monotonic() - began, 1)

        self.report(f"stream, {sum(self.events.streamed.values()):,} events at {self.rate:.0f}/s")
        usages = [self._speed()]
        waited_ms = stream(self.settings, project, self.events, self.rate, lambda: usages.append(self._speed()))
        usages.append(self._speed())
        used = usages[-1].cpu_seconds - usages[0].cpu_seconds
        self._figures |= percentiles(waited_ms) | {
            "cpu_ms_per_event": round(1_000 * used / sum(self.events.streamed.values()), 2),
            "speed_memory_mib": round(max(usage.memory_mib for usage in usages)),
        }
        self._await_exact(project, everything, end_ms)
        store = open_store(self.settings)
        self._figures["store_kib"] = round(store.size_bytes() / 1024)

        self.report("the online store is lost")
        began = time.monotonic()
        self._lose_store()
        self._await_exact(project, everything, end_ms)
        self._figures["seconds_after_lost_store"] = round(time.monotonic() - began, 1)

        self.report("a changed declaration")
        services.wait_healthy(self.settings, ["speed", "serving"])
        began = time.monotonic()
        project = changed()
        self._start()
        self._await_exact(project, everything, end_ms)
        self._figures["seconds_after_changed_declaration"] = round(time.monotonic() - began, 1)

    def _start(self) -> None:
        """Starts the services with the current declarations, and in Lambda publishes the views up to the cut."""
        self._braid("up", "--detach")
        if not self.settings.kappa:
            self._braid("backfill", "--to", str(self.events.cut_ms), "--no-train")

    def _await_exact(self, project: Project, files: Mapping[str, list[Path]], q_ms: int) -> None:
        """Waits until the answers of a sample of entities equal those of brute force, and no answer is marked as degraded.

        Args:
            project: The project of the deployment.
            files: Source → the files of the events that the deployment has.
            q_ms: The time as of which the answers are compared.

        Raises:
            ServiceError: The answers still differ after `_PATIENCE_SECONDS`; the error contains the first difference.
        """
        expected = {
            group.name: brute_force(group, files[group.source.name], sample_ids(group, files[group.source.name], SAMPLE), q_ms)
            for group in project.groups
        }
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            proofs, problem = self._compare(project, expected, q_ms)
            if problem is None:
                self._proofs += proofs
                return
            if time.monotonic() > end:
                raise ServiceError(
                    f"After {_PATIENCE_SECONDS:.0f} s the answers are not those of brute force: {problem}.",
                    f"See the logs in {self.settings.home / 'logs'}.",
                )
            time.sleep(_POLL_SECONDS)

    def _compare(
        self, project: Project, expected: Mapping[str, Mapping[Any, Mapping[str, Any]]], q_ms: int
    ) -> tuple[list[ProofReport], str | None]:
        """Returns the comparisons of the groups that are exact, and the first problem; None if all groups are exact."""
        proofs = list[ProofReport]()
        for group in project.groups:
            try:
                proof = compare(self.settings, group, expected[group.name], q_ms)
            except (ServiceError, KeyError) as error:  # serving is starting, or still has an older declaration
                return proofs, str(error)
            if proof.differences or proof.degraded:
                first = f"{proof.differences[0]}" if proof.differences else "no cell differs"
                return (
                    proofs,
                    f"{group.name}: {proof.cells_different} cells differ, {proof.degraded} entities are degraded; {first}",
                )
            proofs.append(proof)
        return proofs, None

    def _lose_store(self) -> None:
        """Ends the online store, deletes its files, and starts an empty store. In Lambda a sensor of Dagster publishes the views again."""
        supervisor, folder = Supervisor(self.settings), self.settings.home / "valkey"
        supervisor.stop(["valkey"])
        shutil.rmtree(folder)
        folder.mkdir()
        supervisor.start("valkey")
        services.wait_healthy(self.settings, ["valkey"])

    def _speed(self) -> Usage:
        """Returns the usage of the processes that make tiles."""
        supervisor = Supervisor(self.settings)
        return Usage.of([process for name in ("speed", *FLINK_NAMES) for process in supervisor.processes(of=name)])

    def _braid(self, *arguments: str) -> Any:
        """Runs a command of braid, and returns the JSON that the command prints.

        Raises:
            ServiceError: The command has failed.
        """
        command = [sys.executable, "-m", "orchestration.cli", "--home", str(self.settings.home), *arguments, "--json"]
        environment = {**os.environ, **self.settings.environment()}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason"]
            raise ServiceError(f"`braid {arguments[0]}` has failed in {self.settings.home}: {reason[0]}", "See its logs.")
        return json.loads(done.stdout)


@dataclass(frozen=True)
class Usage:
    """The usage of processes: CPU seconds since their start, and resident memory in MiB."""

    cpu_seconds: float
    memory_mib: float

    @classmethod
    def of(cls, processes: list[psutil.Process]) -> Usage:
        """Returns the usage of processes, with the CPU seconds of their children that have ended."""
        cpu, memory = 0.0, 0.0
        for process in processes:
            try:
                times = process.cpu_times()
                memory += process.memory_info().rss / _MIB
            except psutil.Error:
                continue
            cpu += times.user + times.system + times.children_user + times.children_system
        return cls(cpu, memory)
