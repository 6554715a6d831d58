"""The commands `braid backfill`, `train` and `consistency --logged`, which run Dagster's jobs.

A backfill is one run per source over a range of days, then one training per model, and then one run of the assets that the project itself adds.
The backfill of one model is one run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from batch.load import remember_first_day
from features.declaration import FeatureGroup
from features.instants import now_ms, parse_rfc3339, rfc3339, utc_day
from features.model import Model
from features.project import Project
from features.sources import EventSource
from infra.errors import InputError, NoEventsError
from infra.settings import Settings
from monitoring.attribution import Reason
from orchestration.execution import OnAsset, run_job, steps, use_deployment
from orchestration.first_day import first_day
from orchestration.running import require

if TYPE_CHECKING:
    import dagster as dg


@dataclass(frozen=True)
class TrainingReport:
    """The result of a training.

    Attributes:
        trained: Whether a candidate was trained.
        reason: Why the candidate was or was not promoted, or why no candidate was trained.
        champion_version: The version of the champion; None without a champion.
        auc_merged: The AUC of the candidate; None if no candidate was trained, or for objectives without an AUC.
        auc_batch_only: The AUC of the candidate's twin on batch features; None like `auc_merged`.
    """

    trained: bool
    reason: str
    champion_version: str | None = None
    auc_merged: float | None = None
    auc_batch_only: float | None = None


@dataclass(frozen=True)
class BackfillReport:
    """The result of a backfill.

    Attributes:
        batch_end_ms: The earliest batch_end of the published groups.
        entities: Group → number of published entities.
        first_day: The first day of the range.
        last_day: The last day of the range.
        seconds: Step → its seconds.
        without_events: The sources that have no events yet, whose groups were skipped.
        models: Model → the result of its training; empty without a training.
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
    """Brings events, tiles, views and online store up to a time, trains the models with enough labels, and materializes the project's own assets.

    The project's own assets are materialized last, and only if each source has events.

    In Kappa there are no tiles and views: the backfill adds the archive to the events, and the speed layer makes new histories from the events.

    Args:
        project: The project.
        settings: The settings of the deployment, whose Dagster records the runs.
        to_ms: The batch_end, at most now. None: the latest time before which the lake has every event, for each source.
        first: The first day; by default the last day before the first day that Dagster has never materialized. Earlier days with late events are
            folded as well.
        train: Whether to train and promote as well.
        sources: The sources whose groups and models are included; by default all sources.
        on_asset: Called at the start and the end of each asset and check.

    Raises:
        InputError: No group and no outcome reads one of the sources, or no event can lie before `to_ms`.
        ServiceError: The online store, or MLflow if it is needed, does not run.
        NoEventsError: None of the sources has events.
        NotReadyError: An asset has failed, or a check has blocked the day; the error names it with the reason.
    """
    chosen, models = _chosen(project, train, sources)
    _refuse_empty(chosen, sources, to_ms)
    require(settings, "valkey", *(["speed"] if settings.kappa else []), *(["mlflow"] if models else []))
    begin = _Begin.of(settings, to_ms)
    import dagster as dg

    from orchestration.deployment import Deployment
    from orchestration.materialized import latest_metadata
    from orchestration.names import OWN_JOB, events_key, features_job

    deployment = Deployment(project, settings)
    seconds: dict[str, float] = {}
    done: dict[str, dict[str, Any]] = {}
    begun: list[date] = []
    empty: list[EventSource] = []
    with dg.DagsterInstance.get() as instance:
        for source in chosen:
            start = begin.first_day(instance, (source,), first)
            try:
                done |= run_job(deployment, features_job(source), instance, seconds, on_asset, **begin.arguments(start))
            except NoEventsError:
                empty.append(source)
                if len(empty) == len(chosen):
                    raise
                continue
            begun.append(start)
        if settings.kappa:
            began = time.monotonic()
            done |= _rebuilt(settings, [group for source in chosen for group in project.groups_of(source)])
            seconds["histories"] = time.monotonic() - began
        trained = {
            model.name: _train(deployment, model, instance, seconds, on_asset)
            for model in models
            if not set(model.sources) & set(empty)
        }
        if deployment.own_keys and all(latest_metadata(instance, events_key(source)) for source in project.batch_sources):
            run_job(deployment, OWN_JOB, instance, seconds, on_asset)
    groups = [group for source in chosen if source not in empty for group in project.groups_of(source)]
    return begin.report(groups, done, min(begun), seconds, tuple(source.name for source in empty), trained)


def backfill_model(
    project: Project, settings: Settings, model: Model, to_ms: int | None = None, first: date | None = None,
    on_asset: OnAsset | None = None,
) -> BackfillReport:  # fmt: skip
    """Brings the groups of one model up to a time, builds its training set, trains a candidate, and promotes the candidate if it passes the gate.

    All of this is one run of Dagster. Groups that the model does not use stay as they are.

    Args:
        project: The project.
        settings: The settings of the deployment, whose Dagster records the run.
        model: The model.
        to_ms: As in `backfill`.
        first: As in `backfill`.
        on_asset: Called at the start and the end of each asset and check.

    Raises:
        InputError: No event can lie before `to_ms`.
        ServiceError: The online store or MLflow does not run.
        NoEventsError: A source of the model has no events.
        NotReadyError: An asset has failed, or a check has blocked the day; the error names it with the reason.
    """
    _refuse_empty(model.sources, None, to_ms)
    require(settings, "valkey", "mlflow")
    begin = _Begin.of(settings, to_ms)
    import dagster as dg

    from orchestration.deployment import Deployment
    from orchestration.names import model_job

    seconds: dict[str, float] = {}
    with dg.DagsterInstance.get() as instance:
        start = begin.first_day(instance, model.sources, first)
        done = run_job(Deployment(project, settings), model_job(model), instance, seconds, on_asset, **begin.arguments(start))
        if settings.kappa:
            done |= _rebuilt(settings, model.groups)
    return begin.report(model.groups, done, start, seconds, (), {model.name: _training_report(model, done)})


def _refuse_empty(chosen: Sequence[EventSource], sources: Sequence[EventSource] | None, to_ms: int | None) -> None:
    """Refuses a backfill that can have no event, before its day is remembered as the first day of Dagster's partitions.

    Raises:
        InputError: No group and no outcome reads the sources, or each source refuses every event before `to_ms`.
    """
    if not chosen:
        names = ", ".join(source.name for source in sources or ())
        raise InputError(
            f"The source {names} is read by no group and no outcome of a model, so there is nothing to backfill.",
            "Declare a group with this source, or name another source by --source.",
        )
    earliest = min(chosen, key=lambda source: source.earliest_ms)
    if to_ms is not None and to_ms <= earliest.earliest_ms:
        raise InputError(
            f"No event can lie before the end of this batch: {earliest.name} refuses every event before {earliest.earliest}.",
            "Give a later time by --to.",
        )


def _rebuilt(settings: Settings, groups: Sequence[FeatureGroup]) -> dict[str, dict[str, Any]]:
    """Lets the speed layer make new histories of groups. Returns the metadata that the batch would record for each asset `online_{group}`."""
    from orchestration.names import online_key
    from orchestration.rebuild import rebuild

    published = rebuild(settings, groups)
    return {
        online_key(group).to_user_string(): {
            "batch_end": rfc3339(published[group.name].batch_end_ms), "dagster/row_count": published[group.name].entities
        }
        for group in groups
    }  # fmt: skip


@dataclass(frozen=True)
class _Begin:
    """The range of days of a backfill that begins now.

    Attributes:
        earliest: The day at which the daily partitions begin.
        last: The last day.
        to_ms: The batch_end; None for the latest time before which the lake has every event.
        now_ms: The time at which the backfill begins.
    """

    earliest: date
    last: date
    to_ms: int | None
    now_ms: int

    @classmethod
    def of(cls, settings: Settings, to_ms: int | None) -> _Begin:
        current_ms = now_ms()
        to_ms = None if to_ms is None else min(to_ms, current_ms)
        last = utc_day(current_ms if to_ms is None else to_ms)
        # Replayed events may be older than all loaded events.
        if last < first_day(settings):
            remember_first_day(settings, last)
        use_deployment(settings)
        return cls(first_day(settings), last, to_ms, current_ms)

    def first_day(self, instance: dg.DagsterInstance, sources: Sequence[EventSource], first: date | None) -> date:
        """Returns the first day of a run over some sources."""
        from orchestration.names import events_key

        new = min(_first_new_day(instance, events_key(source), self.earliest) for source in sources)
        return min(max(first, self.earliest) if first else new, self.last)

    def arguments(self, start: date) -> dict[str, Any]:
        """Returns the arguments of `run_job` for a run whose range begins with a day."""
        from orchestration.deployment import BatchEnd
        from orchestration.run_days import RANGE_END, RANGE_START

        tags = {RANGE_START: start.isoformat(), RANGE_END: self.last.isoformat()}
        return {"tags": tags, "run_config": BatchEnd.run_config(self.to_ms)}

    def report(
        self, groups: Sequence[FeatureGroup], done: dict[str, dict[str, Any]], start: date, seconds: dict[str, float],
        empty: tuple[str, ...], trained: dict[str, TrainingReport],
    ) -> BackfillReport:  # fmt: skip
        """Returns the report on a backfill, from the metadata of the materialized assets."""
        from orchestration.names import online_key

        online = {group.name: done[online_key(group).to_user_string()] for group in groups}
        return BackfillReport(
            batch_end_ms=min((parse_rfc3339(figures["batch_end"]) for figures in online.values()), default=self.to_ms or self.now_ms),
            entities={name: figures["dagster/row_count"] for name, figures in online.items()},
            first_day=start, last_day=self.last, seconds=seconds, without_events=empty, models=trained,
        )  # fmt: skip


def backfill_steps(
    project: Project, settings: Settings, train: bool, sources: tuple[EventSource, ...] | None = None, model: Model | None = None
) -> int:
    """Returns the number of assets and checks that `backfill`, or `backfill_model` for a model, runs with the same arguments."""
    from orchestration.deployment import Deployment
    from orchestration.names import OWN_JOB, features_job, model_job, training_job

    deployment = Deployment(project, settings)
    if model is not None:
        return steps(deployment, model_job(model))
    chosen, models = _chosen(project, train, sources)
    own = [OWN_JOB] if deployment.own_keys else []
    return steps(deployment, *map(features_job, chosen), *map(training_job, models), *own)


def _chosen(project: Project, train: bool, sources: tuple[EventSource, ...] | None) -> tuple[list[EventSource], list[Model]]:
    """Returns the sources and the models of a backfill."""
    chosen = [source for source in sources or project.sources if source in project.batch_sources]
    return chosen, [model for model in project.models if train and set(model.sources) & set(chosen)]


def train(
    project: Project, settings: Settings, model: Model, served: bool = False, on_asset: OnAsset | None = None
) -> TrainingReport:
    """Trains a candidate of a model, and promotes the candidate if it passes the gate.

    Args:
        project: The project.
        settings: The settings of the deployment, whose Dagster records the run.
        model: The model.
        served: Whether to train on the served features instead of features that are computed from the events.
        on_asset: Called at the start and the end of each asset and check.

    Raises:
        ServiceError: MLflow does not run.
        NotReadyError: An asset has failed; the error names it with the reason.
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
    from orchestration.names import logged_training_job, training_job

    job = logged_training_job(model) if served else training_job(model)
    return _training_report(model, run_job(deployment, job, instance, seconds, on_asset))


def _training_report(model: Model, done: dict[str, dict[str, Any]]) -> TrainingReport:
    """Returns the report on a training, from the metadata of the materialized assets."""
    from orchestration.names import candidate_key, champion_key

    candidate, champion = done[candidate_key(model).to_user_string()], done[champion_key(model).to_user_string()]
    return TrainingReport(
        trained=candidate["trained"],
        reason=champion["reason"] if candidate["trained"] else candidate["reason"],
        champion_version=champion.get("champion_version"),
        auc_merged=candidate.get("auc_merged"),
        auc_batch_only=candidate.get("auc_batch_only"),
    )


def check_quality(project: Project, settings: Settings, on_asset: OnAsset | None = None) -> dict[str, dict[str, Any]]:
    """Runs the job `quality` on all answers and events so far. Returns asset → its metadata.

    Raises:
        ServiceError: The online store, or MLflow if it is needed, does not run.
        NotReadyError: An asset has failed; the error names it with the reason.
    """
    require(settings, "valkey", *(["mlflow"] if project.models else []))
    use_deployment(settings)
    import dagster as dg

    from orchestration.deployment import Deployment
    from orchestration.names import QUALITY_JOB
    from orchestration.run_days import RANGE_END, RANGE_START

    today = utc_day(now_ms()).isoformat()
    with dg.DagsterInstance.get() as instance:
        tags = {RANGE_START: today, RANGE_END: today}
        return run_job(Deployment(project, settings), QUALITY_JOB, instance, {}, on_asset, tags=tags)


def consistency_figures(project: Project, quality: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Returns group → the numbers of answers, cells, defects, and differing cells by `Reason`, from the result of `check_quality`."""
    names = ("answers", "cells", "defects", *map(str, Reason))
    return {group.name: {key: quality[f"{group.name}_consistency"][key] for key in names} for group in project.groups}


def _first_new_day(instance: dg.DagsterInstance, events: dg.AssetKey, earliest: date) -> date:
    """Returns the last materialized day before the first day, from `earliest` on, without a materialization; `earliest` if there is none.

    The last materialized day is included, because it had not ended when it was materialized.
    """
    done = instance.get_materialized_partitions(events)
    day = earliest
    while day.isoformat() in done:
        day += timedelta(days=1)
    return max(earliest, day - timedelta(days=1))
