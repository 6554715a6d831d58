"""The Dagster definitions of a project."""

import dagster as dg

from features.project import Project
from infra.settings import Settings
from orchestration.assets import assets_of
from orchestration.checks import checks_of
from orchestration.deployment import BatchEnd, Deployment
from orchestration.jobs import jobs_of, schedules_of
from orchestration.sensors import sensors_of


def definitions(project: Project, settings: Settings) -> dg.Definitions:
    """Returns the assets, checks, jobs, schedules and sensors of a project."""
    deployment = Deployment(project, settings)
    assets = assets_of(deployment)
    return dg.Definitions(
        assets=assets,
        asset_checks=checks_of(deployment),
        jobs=jobs_of(deployment),
        schedules=schedules_of(deployment),
        sensors=sensors_of(deployment),
        resources={"spark": deployment.spark_resource, "batch_end": BatchEnd.configure_at_launch()},
        executor=dg.in_process_executor,
    )
