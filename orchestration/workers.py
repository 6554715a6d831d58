"""The process that works at a run, and whether it still lives: what Dagster's run monitoring asks every few seconds.

A run that Dagster launches is a child of the code server, which reports a child that dies; a code server that was killed or whose machine went
down reports nothing. A run of the command line works in the caller's process, of which Dagster knows nothing: it says by a tag who it is.
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

#: Tag of a run that works in the process that asked for it.
WORKER = "braid/worker"
#: Clocks of the process table and of the event log may differ by this much.
_CLOCK_SECONDS = 2.0


def worker_tag() -> dict[str, str]:
    """This process, as the tag of a run that works in it: host, process id, and when the process began."""
    process = psutil.Process()
    return {WORKER: json.dumps({"host": socket.gethostname(), "pid": process.pid, "began": process.create_time()})}


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, which also knows whether a run's process lives."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Asked by the run monitoring."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """FAILED where the process of a started run is known to be gone; else RUNNING, also where it cannot be known from here."""
        client = self._get_grpc_client_for_termination(run.run_id)
        if client is None:
            return _health(not _is_gone(run), "The process that ran it has ended.")
        if _knows(client, run.run_id):
            return _health(True)
        # A worker may outlive the code server that began it.
        return _health(_works(self._instance, run), "Neither the code server nor this machine has its process any more.")


def fail_dead_runs(instance: DagsterInstance) -> list[str]:
    """Marks the started runs of processes of this machine that have ended as failed, and gives their ids.

    What the daemon does within seconds; for a deployment whose daemon does not run.
    """
    dead = [run for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])) if _is_gone(run)]
    for run in dead:
        instance.report_run_failed(run, "The process that ran it has ended.")
    return [run.run_id for run in dead]


def _health(lives: bool, message: str | None = None) -> CheckRunHealthResult:
    return CheckRunHealthResult(WorkerStatus.RUNNING) if lives else CheckRunHealthResult(WorkerStatus.FAILED, message)


def _is_gone(run: DagsterRun) -> bool:
    """Whether the run worked in the process that asked for it, and that has ended. Of another machine's process it is not known here."""
    if WORKER not in run.tags or GRPC_INFO_TAG in run.tags:  # one that is launched again in the UI keeps the tags of the first
        return False
    worker = json.loads(run.tags[WORKER])
    return worker["host"] == socket.gethostname() and not _lives(worker["pid"], worker["began"])


def _lives(pid: int, began: float) -> bool:
    """Whether the process with this id is the one that had begun by then: ids are used again."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= began + _CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _knows(client: Any, run_id: str) -> bool:
    """Whether the code server has the run's process; True where it does not answer, which it may do again soon."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
    from dagster._serdes import deserialize_value

    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id))
    except DagsterUserCodeUnreachableError:
        return True
    return bool(deserialize_value(answer, CanCancelExecutionResult).can_cancel)


def _works(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether one of the processes that the run's log names is alive on this machine."""
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = entry.get_dagster_event()
        pid = event.engine_event_data.metadata.get("pid") if event.event_specific_data else None
        if pid is not None and _lives(int(str(pid.value)), entry.timestamp):
            return True
    return False
