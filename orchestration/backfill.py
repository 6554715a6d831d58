"""`braid backfill` and what follows it: per source the job over a range of days in one run, per model its training, and `quality`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from batch.load import remember_first_day
from features.project import Model, Project
from features.sources import EventSource
from infra.errors import NoEventsError
from infra.settings import Settings
from monitoring.attribution import Reason
from orchestration.execution import OnAsset, run_job, steps, use_deployment
from orchestration.first_day import first_day
from orchestration.running import require

if TYPE_CHECKING:
    import dagster as dg


@dataclass(frozen=True)
class TrainingReport:
    """What became of a model: whether a candidate was trained, why it was promoted or not, and how well it ranks."""

    trained: bool
    reason: str
    champion_version: str | None = None
    auc_merged: float | None = None
    auc_batch_only: float | None = None


@dataclass(frozen=True)
class BackfillReport:
    """What was run.

    Attributes:
        batch_end_ms: The earliest batch_end of all groups that were published.
        entities: Group → entities that were published.
        first_day: The first day that was looked at.
        last_day: The last one.
        seconds: Step → its seconds.
        without_events: The sources that have no events yet; their groups were passed over.
        models: Model → what became of it; empty where nothing was to be trained.
    """

    batch_end_ms: int
    entities: dict[str, int]
    first_day: date
    last_day: date
    seconds: dict[str, float]
    without_events: tuple[str, ...] = ()
    models: dict[str, TrainingReport] = field(default_factory=dict)


def backfill(
    project: Project, settings: Settings, to_ms: int | None = None, first: date | None = None, train: bool = True,
    sources: tuple[EventSource, ...] | None = None, on_asset: OnAsset | None = None,
) -> BackfillReport:  # fmt: skip
    """Brings events, tiles, view and online store up to a time, and trains where there are labels enough.

    Args:
        project: Whose sources, groups and models.
        settings: The deployment; its Dagster home gets the runs.
        to_ms: batch_end; never later than now. None: as late as the batch can vouch for, per source.
        first: From this day on; by default from the first that Dagster has never materialized. Late events before it heal all the same.
        train: Whether to train and promote too.
        sources: Only the groups and models of these; by default of all.
        on_asset: Told of progress.

    Raises:
        ServiceError: The online store, or MLflow if it is needed, does not run.
        NoEventsError: None of the sources has events.
        NotReadyError: An asset failed, or a check kept the day out; says which and why.
    """
    chosen, models = _chosen(project, train, sources)
    require(settings, "valkey", *(["mlflow"] if models else []))
    now = datetime.now(UTC)
    to_ms = None if to_ms is None else min(to_ms, int(now.timestamp() * 1_000))
    last = now.date() if to_ms is None else datetime.fromtimestamp(to_ms / 1_000, UTC).date()
    # A stream of the past may reach back before everything that was loaded.
    if last < first_day(settings):
        remember_first_day(settings, last)
    use_deployment(settings)
    import dagster as dg

    from orchestration.deployment import BatchEnd, Deployment
    from orchestration.names import events_key, features_job, online_key
    from orchestration.run_days import RANGE_END, RANGE_START

    deployment = Deployment(project, settings)
    seconds: dict[str, float] = {}
    online: dict[str, dict[str, Any]] = {}
    begun: list[date] = []
    empty: list[EventSource] = []
    with dg.DagsterInstance.get() as instance:
        earliest = first_day(settings)
        for source in chosen:
            start = min(max(first, earliest) if first else _first_new_day(instance, events_key(source), earliest), last)
            tags = {RANGE_START: start.isoformat(), RANGE_END: last.isoformat()}
            try:
                done = run_job(
                    deployment, features_job(source), instance, seconds, on_asset, tags=tags, run_config=BatchEnd.run_config(to_ms)
                )
            except NoEventsError:
                empty.append(source)
                if len(empty) == len(chosen):
                    raise
                continue
            begun.append(start)
            online |= {group.name: done[online_key(group).to_user_string()] for group in project.groups_of(source)}
        trained = {
            model.name: _train(deployment, model, instance, seconds, on_asset)
            for model in models
            if model.group.source not in empty
        }
    return BackfillReport(
        batch_end_ms=min(_instant_ms(one["batch_end"]) for one in online.values()),
        entities={name: one["dagster/row_count"] for name, one in online.items()},
        first_day=min(begun), last_day=last, seconds=seconds, without_events=tuple(source.name for source in empty), models=trained,
    )  # fmt: skip


def backfill_steps(project: Project, settings: Settings, train: bool, sources: tuple[EventSource, ...] | None = None) -> int:
    """How many assets and checks `backfill` runs with the same arguments."""
    from orchestration.deployment import Deployment
    from orchestration.names import features_job, training_job

    chosen, models = _chosen(project, train, sources)
    return steps(Deployment(project, settings), *map(features_job, chosen), *map(training_job, models))


def _chosen(project: Project, train: bool, sources: tuple[EventSource, ...] | None) -> tuple[list[EventSource], list[Model]]:
    """The sources whose groups are brought up to date, and the models that are trained."""
    chosen = [source for source in sources or project.sources if project.groups_of(source)]
    return chosen, [model for model in project.models if train and model.group.source in chosen]


def train(
    project: Project, settings: Settings, model: Model, served: bool = False, on_asset: OnAsset | None = None
) -> TrainingReport:
    """Trains a candidate of one model and holds it to the gate.

    Args:
        project: Whose model.
        settings: The deployment; its Dagster home gets the run.
        model: Which one.
        served: Whether to learn from the features as they were served, instead of those that are computed from the events.
        on_asset: Told of progress.

    Raises:
        ServiceError: MLflow does not run.
        NotReadyError: An asset failed; says which and why.
    """
    require(settings, "mlflow")
    use_deployment(settings)
    import dagster as dg

    from orchestration.deployment import Deployment

    with dg.DagsterInstance.get() as instance:
        return _train(Deployment(project, settings), model, instance, {}, on_asset, served)


def _train(
    deployment: Any, model: Model, instance: dg.DagsterInstance, seconds: dict[str, float], on_asset: OnAsset | None, served: bool = False
) -> TrainingReport:  # fmt: skip
    from orchestration.names import candidate_key, champion_key, logged_training_job, training_job

    done = run_job(deployment, logged_training_job(model) if served else training_job(model), instance, seconds, on_asset)
    candidate, champion = done[candidate_key(model).to_user_string()], done[champion_key(model).to_user_string()]
    return TrainingReport(
        trained=candidate["trained"],
        reason=champion["reason"] if candidate["trained"] else candidate["reason"],
        champion_version=champion.get("champion_version"),
        auc_merged=candidate.get("auc_merged"),
        auc_batch_only=candidate.get("auc_batch_only"),
    )


def _instant_ms(text: object) -> int:
    return round(datetime.fromisoformat(str(text)).timestamp() * 1_000)


def check_quality(project: Project, settings: Settings, on_asset: OnAsset | None = None) -> dict[str, dict[str, Any]]:
    """Runs the job `quality`, on what has arrived by now; gives what each of its assets says.

    Raises:
        ServiceError: The online store, or MLflow if it is needed, does not run.
        NotReadyError: An asset failed; says which and why.
    """
    require(settings, "valkey", *(["mlflow"] if project.models else []))
    use_deployment(settings)
    import dagster as dg

    from orchestration.deployment import Deployment
    from orchestration.names import QUALITY_JOB
    from orchestration.run_days import RANGE_END, RANGE_START

    today = datetime.now(UTC).date().isoformat()
    with dg.DagsterInstance.get() as instance:
        tags = {RANGE_START: today, RANGE_END: today}
        return run_job(Deployment(project, settings), QUALITY_JOB, instance, {}, on_asset, tags=tags)


def consistency_figures(project: Project, quality: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Of what `check_quality` gives, per group: answers, cells, defects, and the differing cells by `Reason`."""
    names = ("answers", "cells", "defects", *map(str, Reason))
    return {group.name: {key: quality[f"{group.name}_consistency"][key] for key in names} for group in project.groups}


def _first_new_day(instance: dg.DagsterInstance, events: dg.AssetKey, earliest: date) -> date:
    """The first day from `earliest` on that has no materialization; one before the last that has, since that day went on."""
    done = instance.get_materialized_partitions(events)
    day = earliest
    while day.isoformat() in done:
        day += timedelta(days=1)
    return max(earliest, day - timedelta(days=1))
