"""What Dagster loads."""

import dagster as dg

from orchestration.assets import batch, models, quality, serving, speed
from orchestration.checks import checks
from orchestration.deployment import BatchEnd, spark_resource
from orchestration.jobs import jobs, schedules
from orchestration.sensors import sensors

defs = dg.Definitions(
    assets=[*speed.assets, *batch.assets, *serving.assets, *models.assets, *quality.assets],
    asset_checks=checks,
    jobs=jobs,
    schedules=schedules,
    sensors=sensors,
    resources={"spark": spark_resource(), "batch_end": BatchEnd.configure_at_launch()},
    executor=dg.in_process_executor,
)
