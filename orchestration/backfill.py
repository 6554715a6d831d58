"""`braid backfill`: Dagster's own jobs, run in this process, over a range of days in one run; the UI shows them like any other."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.load import remember_first_day
from infra.errors import NotReadyError
from infra.settings import Settings
from orchestration.first_day import first_day
from orchestration.running import require

if TYPE_CHECKING:
    import dagster as dg

#: Told of each asset and check when it starts (None) and when it is done (its seconds).
OnAsset = Callable[[str, float | None], None]
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class BackfillReport:
    """What was run. Times in seconds; the model's fields are None where nothing was trained, for the reason given."""

    batch_end_ms: int
    entities: int
    first_day: date
    last_day: date
    seconds: dict[str, float]
    trained: bool = False
    reason: str = ""
    champion_version: str | None = None
    auc_merged: float | None = None
    auc_batch_only: float | None = None


def backfill(
    settings: Settings, to_ms: int | None = None, first: date | None = None, train: bool = True, on_asset: OnAsset | None = None
) -> BackfillReport:
    """Brings events, tiles, view and online store up to a time, and trains where there are labels enough.

    Args:
        settings: The deployment; its Dagster home gets the runs.
        to_ms: batch_end; never later than now. None: as late as the batch can vouch for.
        first: From this day on; by default from the first that Dagster has never materialized. Late events before it heal all the same.
        train: Whether to train and promote too.
        on_asset: Told of progress.

    Raises:
        ServiceError: The online store, or MLflow if it is needed, does not run.
        NotReadyError: An asset failed, or a check kept the day out; says which and why.
    """
    require(settings, "valkey", *(["mlflow"] if train else []))
    now = datetime.now(UTC)
    to_ms = None if to_ms is None else min(to_ms, int(now.timestamp() * 1_000))
    last = now.date() if to_ms is None else datetime.fromtimestamp(to_ms / 1_000, UTC).date()
    # A stream of the past may reach back before everything that was loaded.
    if last < first_day(settings):
        remember_first_day(settings, last)
    _environment(settings)
    import dagster as dg

    from orchestration.assets.batch import events
    from orchestration.definitions import defs
    from orchestration.run_days import RANGE_END, RANGE_START

    seconds: dict[str, float] = {}
    with dg.DagsterInstance.get() as instance:
        earliest = first_day(settings)
        start = max(first, earliest) if first else _first_new_day(instance, events.key, earliest)
        config = {"ops": {"user_features_view": {"config": {"batch_end_ms": to_ms}}}} if to_ms is not None else {}
        tags = {RANGE_START: min(start, last).isoformat(), RANGE_END: last.isoformat()}
        done = _run(defs, "features", instance, seconds, on_asset, tags=tags, run_config=config)
        view, online = done["user_features_view"], done["online_user_features"]
        report = {
            "batch_end_ms": int(datetime.fromisoformat(str(view["batch_end"])).timestamp() * 1_000 + 0.5), "entities": online["dagster/row_count"],
            "first_day": min(start, last), "last_day": last, "seconds": seconds,
        }  # fmt: skip
        if not train:
            return BackfillReport(**report)
        done = _run(defs, "training", instance, seconds, on_asset)
        candidate, champion = done["candidate_model"], done["champion_model"]
        return BackfillReport(
            **report,
            trained=candidate["trained"],
            reason=champion["reason"] if candidate["trained"] else candidate["reason"],
            champion_version=champion.get("champion_version"),
            auc_merged=candidate.get("auc_merged"),
            auc_batch_only=candidate.get("auc_batch_only"),
        )


def _run(
    defs: dg.Definitions,
    job: str,
    instance: dg.DagsterInstance,
    seconds: dict[str, float],
    on_asset: OnAsset | None,
    **arguments: Any,
) -> dict[str, dict[str, Any]]:
    """Runs a job; gives the metadata of each asset that it materialized."""
    from dagster import DagsterExecutionInterruptedError

    started, run_id = time.monotonic(), str(uuid.uuid4())
    # The run's events are in the UI; in the terminal they would bury the progress.
    config = {**arguments.pop("run_config", {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    try:
        with _followed(instance, run_id, on_asset):
            result = defs.resolve_job_def(job).execute_in_process(
                instance=instance, run_id=run_id, raise_on_error=False, run_config=config, **arguments
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
        raise NotReadyError(
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


def steps(settings: Settings, train: bool) -> int:
    """How many assets and checks a backfill runs."""
    _environment(settings)
    from orchestration.definitions import defs

    return sum(len(defs.resolve_job_def(job).graph.nodes) for job in (["features", "training"] if train else ["features"]))


def _first_new_day(instance: dg.DagsterInstance, events: dg.AssetKey, earliest: date) -> date:
    """The first day from `earliest` on that has no materialization; one before the last that has, since that day went on."""
    done = instance.get_materialized_partitions(events)
    day = earliest
    while day.isoformat() in done:
        day += timedelta(days=1)
    return max(earliest, day - timedelta(days=1))


def _cause(events: list[Any]) -> str:
    for event in events:
        if (
            event.event_type_value == "ASSET_CHECK_EVALUATION"
            and not event.asset_check_evaluation_data.passed
            and event.asset_check_evaluation_data.blocking
        ):
            check = event.asset_check_evaluation_data
            return f"The check {check.check_name} of {check.asset_key.to_user_string()} failed: {check.metadata.get('failed', '')}; the online store keeps the last good view."
    for event in events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            return f"{event.step_key} failed: {_sentence(error.message) if error else 'it did not say why'}"
    return "The run failed."


def _sentence(message: str) -> str:
    """The first line of an error that Dagster has kept; of braid's own, without the name of its type."""
    first = message.strip().split("\n", 1)[0]
    name, _, told = first.partition(": ")
    return told if name.startswith(("infra.errors.", "features.errors.")) else first


def _environment(settings: Settings) -> None:
    """Lets Dagster and the definitions, which read the environment, find this deployment."""
    home = settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).parent.parent / "infra" / "dagster.yaml", home / "dagster.yaml")
    os.environ.update({**settings.environment(), "DAGSTER_HOME": str(home), "GX_ANALYTICS_ENABLED": "false"})


def reload_definitions(settings: Settings) -> None:
    """Lets a running Dagster load its definitions again: after a load, its partitions may begin earlier."""
    import httpx

    query = 'mutation { reloadRepositoryLocation(repositoryLocationName: "braid") { __typename } }'
    try:
        httpx.post(f"{settings.dagster_url}/graphql", json={"query": query}, timeout=60)
    except httpx.HTTPError:
        pass  # it does not run; it will load them when it starts
