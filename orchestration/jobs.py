"""Jobs and schedules: per source from the archive to the online store, per model to the champion, quality, housekeeping, the project's own assets."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from features.declaration import FeatureGroup
from features.model import Model
from features.sources import EventSource
from orchestration.deployment import Deployment
from orchestration.names import (
    HOUSEKEEPING_JOB,
    LAKE,
    OWN_JOB,
    PUBLISH_JOB,
    QUALITY_JOB,
    SERVED,
    candidate_key,
    champion_key,
    consistency_key,
    drift_key,
    events_key,
    experiment_key,
    features_job,
    live_quality_key,
    logged_training_job,
    logged_training_set_key,
    model_job,
    online_key,
    tiles_key,
    training_job,
    training_set_key,
    view_key,
)


def features_job_of(deployment: Deployment, source: EventSource) -> Any:
    """Returns the job of a source. Each source has its own job, so its groups never wait for those of another source."""
    groups = deployment.project.groups_of(source)
    keys = _batch_keys(deployment, groups)
    way = "Archive → events" if deployment.settings.kappa else "Archive → events → tiles → view → online store"
    return dg.define_asset_job(
        features_job(source), dg.AssetSelection.assets(events_key(source), *keys), executor_def=dg.in_process_executor,
        description=f"{way} of {source.name}, over any range of days in one run.",
    )  # fmt: skip


def _batch_keys(deployment: Deployment, groups: Iterable[FeatureGroup]) -> list[dg.AssetKey]:
    """Returns the keys of the assets that the batch makes for groups; empty in Kappa."""
    return [] if deployment.settings.kappa else [key(group) for group in groups for key in (tiles_key, view_key, online_key)]


def model_job_of(deployment: Deployment, model: Model) -> Any:
    """Returns the job that brings one model up to date: only the groups of the model, then its training."""
    of_groups = _batch_keys(deployment, model.groups)
    keys = training_set_key(model), candidate_key(model), champion_key(model)
    return dg.define_asset_job(
        model_job(model), dg.AssetSelection.assets(*map(events_key, model.sources), *of_groups, *keys), executor_def=dg.in_process_executor,
        description=f"Archives → events → tiles → views → online store → training set → candidate → champion of {model.name}, over any range of days in one run.",
    )  # fmt: skip


def training_job_of(deployment: Deployment, model: Model) -> Any:
    """Returns the job that trains a model. In Kappa the job first adds the archive to the events, because no batch does so."""
    keys = [training_set_key(model), candidate_key(model), champion_key(model)]
    keys += map(events_key, model.sources) if deployment.settings.kappa else ()
    return dg.define_asset_job(
        training_job(model), dg.AssetSelection.assets(*keys), executor_def=dg.in_process_executor,
        description=f"Training set → candidate → champion of {model.name}.",
    )  # fmt: skip


def logged_training_job_of(model: Model) -> Any:
    """Returns the job that trains a model on served features."""
    keys = logged_training_set_key(model), candidate_key(model), champion_key(model)
    config = {"ops": {candidate_key(model).to_python_identifier(): {"config": {"served": True}}}}
    return dg.define_asset_job(
        logged_training_job(model), dg.AssetSelection.assets(*keys), config=config, executor_def=dg.in_process_executor,
        description=f"Served features → candidate → champion of {model.name}.",
    )  # fmt: skip


def publish_job_of(deployment: Deployment) -> Any:
    """Returns the job that publishes again the views that were published last."""
    return dg.define_asset_job(
        PUBLISH_JOB, dg.AssetSelection.assets(*map(online_key, deployment.project.groups)), executor_def=dg.in_process_executor,
        description="The views that were published last → the online store.",
    )  # fmt: skip


def quality_job_of(deployment: Deployment) -> Any:
    """Returns the job that checks the served answers."""
    project = deployment.project
    keys = [SERVED, *map(events_key, project.sources), *map(consistency_key, project.groups)]
    reports = (live_quality_key,) if deployment.settings.kappa else (drift_key, live_quality_key)
    keys += [key(model) for model in project.models for key in reports]
    keys += [experiment_key(model) for model in deployment.experiment_models]
    return dg.define_asset_job(
        QUALITY_JOB, dg.AssetSelection.assets(*keys), executor_def=dg.in_process_executor,
        description="Checks of the served answers: consistency, drift, live quality, the experiment.",
    )  # fmt: skip


def housekeeping_job() -> Any:
    """Returns the job that deletes unused tables and files."""
    return dg.define_asset_job(
        HOUSEKEEPING_JOB, dg.AssetSelection.assets(LAKE), executor_def=dg.in_process_executor,
        description="Deletes older versions of tables, and tables and checkpoints of older versions of a declaration, after BRAID_KEEP_DAYS and if not in use.",
    )  # fmt: skip


def own_job(keys: list[dg.AssetKey]) -> Any:
    """Returns the job that materializes the project's own assets."""
    return dg.define_asset_job(
        OWN_JOB, dg.AssetSelection.assets(*keys), executor_def=dg.in_process_executor,
        description="The assets of the project's own, which a backfill materializes last.",
    )  # fmt: skip


def jobs_of(deployment: Deployment) -> list[Any]:
    """Returns all jobs."""
    project = deployment.project
    of_sources = [features_job_of(deployment, source) for source in project.batch_sources]
    return [
        *of_sources,
        *([] if deployment.settings.kappa else [publish_job_of(deployment)]),
        *(make(deployment, model) for make in (model_job_of, training_job_of) for model in project.models),
        *map(logged_training_job_of, project.models),
        quality_job_of(deployment),
        housekeeping_job(),
        *([own_job(deployment.own_keys)] if deployment.own_keys else []),
    ]


def schedules_of(deployment: Deployment) -> list[dg.ScheduleDefinition]:
    """Returns the schedules: a new candidate of each model every week, and the housekeeping every night."""
    housekeeping = dg.ScheduleDefinition(
        name="nightly_housekeeping", job_name=HOUSEKEEPING_JOB, cron_schedule="30 3 * * *", execution_timezone="UTC",
        description="Deletes unused tables and files every night.", default_status=dg.DefaultScheduleStatus.STOPPED,
    )  # fmt: skip
    on = "retraining" in deployment.settings.automation
    return [
        housekeeping,
        *(dg.ScheduleDefinition(
            name=f"weekly_{training_job(model)}", job_name=training_job(model), cron_schedule="0 1 * * 1", execution_timezone="UTC",
            description=f"A new candidate of {model.name} every Monday.",
            default_status=dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED,
        )
        for model in deployment.project.models),
    ]  # fmt: skip
