"""What Dagster loads."""

import dagster as dg

from orchestration.assets import batch, models, speed
from orchestration.checks import checks
from orchestration.deployment import spark_resource
from orchestration.jobs import jobs, schedules
from orchestration.sensors import sensors

defs = dg.Definitions(
    assets=[*speed.assets, *batch.assets, *models.assets],
    asset_checks=checks,
    jobs=jobs,
    schedules=schedules,
    sensors=sensors,
    resources={"spark": spark_resource()},
    executor=dg.in_process_executor,
)
