"""Jobs and schedules: the chain from the archive to the online store, the one from labels to the champion, and what watches both."""

import dagster as dg

from orchestration.assets import batch, models, quality, serving
from orchestration.deployment import SETTINGS

features_job = dg.define_asset_job(
    "features", dg.AssetSelection.assets(*batch.assets, *serving.online.values()), executor_def=dg.in_process_executor,
    description="Archive → events → tiles → view → online store, over any range of days in one run.",
)  # fmt: skip
publish_job = dg.define_asset_job(
    "publish", dg.AssetSelection.assets(*serving.online.values()), executor_def=dg.in_process_executor,
    description="The views as they are → the online store.",
)  # fmt: skip
training_job = dg.define_asset_job(
    "training", dg.AssetSelection.assets(*models.assets), executor_def=dg.in_process_executor,
    description="Training set → candidate → champion.",
)  # fmt: skip
quality_job = dg.define_asset_job(
    "quality", dg.AssetSelection.assets(batch.events, serving.served_features, *quality.assets), executor_def=dg.in_process_executor,
    description="What was served, beside what is right: consistency, drift, live quality, the experiment.",
)  # fmt: skip

weekly_training = dg.ScheduleDefinition(
    job=training_job, cron_schedule="0 1 * * 1", execution_timezone="UTC", description="A new candidate every Monday.",
    default_status=dg.DefaultScheduleStatus.RUNNING if "retraining" in SETTINGS.automation else dg.DefaultScheduleStatus.STOPPED,
)  # fmt: skip

jobs = [features_job, publish_job, training_job, quality_job]
schedules = [weekly_training]
