"""Dagster's own jobs, run in this process and followed; the UI shows them like any other run."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import NoEventsError, NotReadyError
from infra.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from orchestration.deployment import Deployment

#: Told of each asset and check when it starts (None) and when it is done (its seconds).
OnAsset = Callable[[str, float | None], None]
_POLL_SECONDS = 0.5


def use_deployment(settings: Settings) -> None:
    """Lets Dagster and the definitions, which read the environment, find this deployment."""
    home = settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).parent.parent / "infra" / "dagster.yaml", home / "dagster.yaml")
    os.environ.update({**settings.environment(), "DAGSTER_HOME": str(home), "GX_ANALYTICS_ENABLED": "false"})


def run_job(
    deployment: Deployment,
    job: str,
    instance: dg.DagsterInstance,
    seconds: dict[str, float],
    on_asset: OnAsset | None,
    **arguments: Any,
) -> dict[str, dict[str, Any]]:
    """Runs a job of the deployment, which is in use; gives the metadata of each asset that it materialized.

    Args:
        deployment: Whose job.
        job: Its name.
        instance: Whose runs it is among.
        seconds: Gets the seconds of each step.
        on_asset: Told of progress.
        arguments: `run_config` and `tags` of the run.

    Raises:
        NoEventsError: The job's source has no events.
        NotReadyError: An asset failed, or a check kept the day out; says which and why.
    """
    from dagster import DagsterExecutionInterruptedError

    from orchestration.definitions import definitions
    from orchestration.workers import fail_dead_runs, worker_tag

    fail_dead_runs(instance)
    started, run_id = time.monotonic(), str(uuid.uuid4())
    tags = {**arguments.pop("tags", {}), **worker_tag()}
    # The run's events are in the UI; in the terminal they would bury the progress.
    config = {**(arguments.pop("run_config", None) or {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    try:
        with _followed(instance, run_id, on_asset):
            result = (
                definitions(deployment.project, deployment.settings)
                .resolve_job_def(job)
                .execute_in_process(
                    instance=instance, run_id=run_id, raise_on_error=False, run_config=config, tags=tags, **arguments
                )
            )
    except DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None  # Dagster's name for Ctrl-C
    metadata: dict[str, dict[str, Any]] = {}
    for event in result.all_events:
        if event.is_step_success and event.step_key:
            duration = event.step_success_data.duration_ms / 1_000
            seconds[event.step_key] = round(seconds.get(event.step_key, 0) + duration, 2)
        if event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            metadata[materialization.asset_key.to_user_string()] = {k: v.value for k, v in materialization.metadata.items()}
    if not result.success:
        kind = NoEventsError if _lacks_events(result.all_events) else NotReadyError
        raise kind(
            _cause(result.all_events), f"See run {result.run_id} in Dagster, started {time.monotonic() - started:.0f} s ago."
        )
    return metadata


@contextmanager
def _followed(instance: dg.DagsterInstance, run_id: str, on_asset: OnAsset | None) -> Iterator[None]:
    """Tells of the run's steps, as its log has them, while the block runs it."""
    import dagster as dg

    told, ended = 0, threading.Event()

    def tell() -> None:
        nonlocal told
        assert on_asset is not None
        entries = instance.all_logs(run_id, of_type={dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS})
        for entry in entries[told:]:
            event = entry.get_dagster_event()
            on_asset(event.step_key or "", event.step_success_data.duration_ms / 1_000 if event.is_step_success else None)
        told = len(entries)

    def follow() -> None:
        while not ended.wait(_POLL_SECONDS):
            tell()
        tell()

    if on_asset is None:
        yield
        return
    following = threading.Thread(target=follow, daemon=True)
    following.start()
    try:
        yield
    finally:
        ended.set()
        following.join()


def steps(deployment: Deployment, *jobs: str) -> int:
    """How many assets and checks the jobs run."""
    use_deployment(deployment.settings)
    from orchestration.definitions import definitions

    defs = definitions(deployment.project, deployment.settings)
    return sum(len(defs.resolve_job_def(job).graph.nodes) for job in jobs)


def _lacks_events(events: Sequence[Any]) -> bool:
    """Whether a run failed because its source has no events."""
    return any(
        event.is_step_failure and _root(event.step_failure_data.error).cls_name == NoEventsError.__name__ for event in events
    )


def _root(error: Any) -> Any:
    """The error that caused an error."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error


def _cause(events: Sequence[Any]) -> str:
    for event in events:
        if (
            event.event_type_value == "ASSET_CHECK_EVALUATION"
            and not event.asset_check_evaluation_data.passed
            and event.asset_check_evaluation_data.blocking
        ):
            check = event.asset_check_evaluation_data
            failed = check.metadata["failed"].value if "failed" in check.metadata else "it did not say why"
            return f"The check {check.check_name} of {check.asset_key.to_user_string()} failed: {failed}; the online store keeps the last good view."
    for event in events:
        if event.is_step_failure:
            error = _root(event.step_failure_data.error)
            return f"{event.step_key} failed: {_sentence(error.message) if error else 'it did not say why'}"
    return "The run failed."


def _sentence(message: str) -> str:
    """The first line of an error that Dagster has kept; of braid's own, without the name of its type."""
    first = message.strip().split("\n", 1)[0]
    name, _, told = first.partition(": ")
    return told if name.startswith(("infra.errors.", "features.errors.")) else first


def reload_definitions(settings: Settings) -> None:
    """Lets a running Dagster load its definitions again: after a load, its partitions may begin earlier."""
    import httpx

    query = 'mutation { reloadRepositoryLocation(repositoryLocationName: "braid") { __typename } }'
    try:
        httpx.post(f"{settings.dagster_url}/graphql", json={"query": query}, timeout=60)
    except httpx.HTTPError:
        pass  # it does not run; it will load them when it starts
