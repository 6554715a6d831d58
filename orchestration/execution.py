"""Runs Dagster's jobs in this process and reports their progress. Dagster's UI shows these runs like any other."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.embedded.programs import prepare_dagster
from infra.errors import NoEventsError, NotReadyError
from infra.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from features.project import Project
    from orchestration.deployment import Deployment

#: Called at the start of an asset or check with its name and None, and at the end with its name and its seconds.
OnAsset = Callable[[str, float | None], None]
_POLL_SECONDS = 0.5


def use_deployment(settings: Settings) -> None:
    """Sets the environment variables from which Dagster and the definitions load this deployment."""
    prepare_dagster(settings)
    os.environ.update({**settings.environment(), "DAGSTER_HOME": str(settings.home / "dagster"), "GX_ANALYTICS_ENABLED": "false"})


def run_job(
    deployment: Deployment,
    job: str,
    instance: dg.DagsterInstance,
    seconds: dict[str, float],
    on_asset: OnAsset | None,
    **arguments: Any,
) -> dict[str, dict[str, Any]]:
    """Runs a job. Returns materialized asset → its metadata. The caller must have called `use_deployment`.

    Args:
        deployment: The deployment.
        job: The name of the job.
        instance: The Dagster instance that records the run.
        seconds: The dictionary to which step → its seconds is added.
        on_asset: Called at the start and the end of each asset and check.
        arguments: `run_config` and `tags` of the run.

    Raises:
        NoEventsError: The job's source has no events.
        NotReadyError: An asset has failed, or a check has blocked the day; the error names it with the reason.
    """
    from dagster import DagsterExecutionInterruptedError

    from orchestration.definitions import definitions
    from orchestration.workers import fail_dead_runs, worker_tag

    fail_dead_runs(instance)
    started, run_id = time.monotonic(), str(uuid.uuid4())
    tags = {**arguments.pop("tags", {}), **worker_tag()}
    # Dagster's messages would hide the progress on the terminal. The UI has them.
    config = {**(arguments.pop("run_config", None) or {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    definition = definitions(deployment.project, deployment.settings).resolve_job_def(job)
    try:
        with _followed(instance, run_id, on_asset):
            result = definition.execute_in_process(
                instance=instance, run_id=run_id, raise_on_error=False, run_config=config, tags=tags, **arguments
            )
    except DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None  # Dagster raises its own exception for Ctrl-C
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
        undone = {key.to_user_string() for key in definition.asset_layer.selected_asset_keys} - metadata.keys()
        raise kind(
            _cause(result.all_events, deployment.project, undone),
            f"See run {result.run_id} in Dagster, started {time.monotonic() - started:.0f} s ago.",
        )
    return metadata


@contextmanager
def _followed(instance: dg.DagsterInstance, run_id: str, on_asset: OnAsset | None) -> Iterator[None]:
    """Runs a thread during the block that reads the log of a run and calls `on_asset` for its steps. The block runs the job."""
    import dagster as dg

    cursor: str | None = None
    ended, of_steps = threading.Event(), {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS}

    def report() -> None:
        nonlocal cursor
        assert on_asset is not None
        new = instance.get_records_for_run(run_id, cursor, of_steps)
        for record in new.records:
            event = record.event_log_entry.get_dagster_event()
            on_asset(event.step_key or "", event.step_success_data.duration_ms / 1_000 if event.is_step_success else None)
        cursor = new.cursor

    def follow() -> None:
        while not ended.wait(_POLL_SECONDS):
            report()
        report()

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
    """Returns the number of assets and checks of the jobs."""
    use_deployment(deployment.settings)
    from orchestration.definitions import definitions

    defs = definitions(deployment.project, deployment.settings)
    return sum(len(defs.resolve_job_def(job).graph.nodes) for job in jobs)


def _lacks_events(events: Sequence[Any]) -> bool:
    """Returns whether a run failed because its source has no events."""
    return any(
        event.is_step_failure and _root(event.step_failure_data.error).cls_name == NoEventsError.__name__ for event in events
    )


def _root(error: Any) -> Any:
    """Returns the root cause of an error."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error


def _cause(events: Sequence[Any], project: Project, undone: Collection[str]) -> str:
    """Returns why a run failed, and for a check that blocks also what the run has left as it was.

    Args:
        events: The events of the run.
        project: The project.
        undone: The names of the assets that the run should have materialized and has not.
    """
    for event in events:
        if (
            event.event_type_value == "ASSET_CHECK_EVALUATION"
            and not event.asset_check_evaluation_data.passed
            and event.asset_check_evaluation_data.blocking
        ):
            check = event.asset_check_evaluation_data
            failed = check.metadata["failed"].value if "failed" in check.metadata else "without a reason"
            sentence = f"The check {check.check_name} of {check.asset_key.to_user_string()} failed: {failed}"
            return "; ".join([sentence, *_left(project, undone)]) + "."
    for event in events:
        if event.is_step_failure:
            error = _root(event.step_failure_data.error)
            return f"{event.step_key} failed: {_sentence(error.message) if error else 'without a reason'}"
    return "The run failed."


def _left(project: Project, undone: Collection[str]) -> Iterator[str]:
    """Yields what a run has left as it was, as parts of a sentence."""
    from orchestration.names import candidate_key, online_key

    if groups := [group.name for group in project.groups if online_key(group).to_user_string() in undone]:
        yield f"in the online store, the batch view of {', '.join(groups)} stays as it was"
    if models := [model.name for model in project.models if candidate_key(model).to_user_string() in undone]:
        yield f"no candidate of {', '.join(models)} was trained"


def _sentence(message: str) -> str:
    """Returns the first line of an error message in Dagster's log; for an error of braid, without the name of its type."""
    first = message.strip().split("\n", 1)[0]
    name, _, sentence = first.partition(": ")
    return sentence if name.startswith(("infra.errors.", "features.errors.")) else first


def reload_definitions(settings: Settings) -> None:
    """Makes a running Dagster load its definitions again, because its partitions may begin earlier after `braid load`."""
    import httpx

    query = 'mutation { reloadRepositoryLocation(repositoryLocationName: "braid") { __typename } }'
    try:
        httpx.post(f"{settings.dagster_url}/graphql", json={"query": query}, timeout=60)
    except httpx.HTTPError:
        pass  # Dagster does not run; it loads the definitions when it starts
