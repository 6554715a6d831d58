"""Finds runs whose process has died, for Dagster's run monitoring.

The process of a run that Dagster launches is a child of the code server. The code server reports the death of the child, unless the code server
has died as well. A run of the command line works in the process of the command, which Dagster does not know; a tag of the run names this process.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import psutil
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

#: The tag of a run that works in the process that has requested it.
WORKER = "braid/worker"
#: The largest difference between the clocks of the process table and of the event log.
_CLOCK_SECONDS = 2.0


def worker_tag() -> dict[str, str]:
    """Returns the tag of a run that works in this process: host, process id, and start time of the process."""
    process = psutil.Process()
    return {WORKER: json.dumps({"host": socket.gethostname(), "pid": process.pid, "began": process.create_time()})}


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, with a check of whether the process of a run lives."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True, so that the run monitoring uses the check."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Returns FAILED if the process of a started run has ended; RUNNING if the process lives, or if this machine cannot determine it."""
        client = self._get_grpc_client_for_termination(run.run_id)
        if client is None:
            return _health(not _is_gone(run), "The process that ran it has ended.")
        if _knows(client, run.run_id):
            return _health(True)
        # The process of the run may outlive the code server that started it.
        return _health(_works(self._instance, run), "Neither the code server nor this machine has the process of the run any more.")


def fail_dead_runs(instance: DagsterInstance) -> list[str]:
    """Marks each started run as failed whose process on this machine has ended. Returns the ids of these runs.

    Dagster's daemon does the same within seconds. This function is for a deployment whose daemon does not run.
    """
    dead = [run for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])) if _is_gone(run)]
    for run in dead:
        instance.report_run_failed(run, "The process that ran it has ended.")
    return [run.run_id for run in dead]


def _health(lives: bool, message: str | None = None) -> CheckRunHealthResult:
    return CheckRunHealthResult(WorkerStatus.RUNNING) if lives else CheckRunHealthResult(WorkerStatus.FAILED, message)


def _is_gone(run: DagsterRun) -> bool:
    """Returns whether the run worked in the process that requested it, and this process has ended. False for a process of another machine."""
    if WORKER not in run.tags or GRPC_INFO_TAG in run.tags:  # a run that is launched again in the UI keeps the first run's tag
        return False
    worker = json.loads(run.tags[WORKER])
    return worker["host"] == socket.gethostname() and not _lives(worker["pid"], worker["began"])


def _lives(pid: int, began: float) -> bool:
    """Returns whether a process with this id lives that began at this time or earlier. A process that began later has reused the id."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= began + _CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _knows(client: Any, run_id: str) -> bool:
    """Returns whether the code server has the run's process; True if the code server does not answer, because it may answer again soon."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
    from dagster._serdes import deserialize_value

    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id))
    except DagsterUserCodeUnreachableError:
        return True
    return bool(deserialize_value(answer, CanCancelExecutionResult).can_cancel)


def _works(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Returns whether a process that the run's log names lives on this machine."""
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = entry.get_dagster_event()
        pid = event.engine_event_data.metadata.get("pid") if event.event_specific_data else None
        if pid is not None and _lives(int(str(pid.value)), entry.timestamp):
            return True
    return False
