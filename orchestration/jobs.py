"""Jobs and schedules: the daily chain from the archive to the online store, and the weekly one from labels to the champion."""

import dagster as dg

from orchestration.assets import batch, models
from orchestration.deployment import days

features_job = dg.define_asset_job(
    "features", dg.AssetSelection.assets(*batch.assets), executor_def=dg.in_process_executor,
    description="Archive → events → tiles → view → online store, over any range of days in one run.",
)  # fmt: skip
training_job = dg.define_asset_job(
    "training", dg.AssetSelection.assets(*models.assets), executor_def=dg.in_process_executor,
    description="Training set → candidate → champion.",
)  # fmt: skip


@dg.schedule(
    job=features_job,
    cron_schedule="15 0 * * *",
    execution_timezone="UTC",
    description="Yesterday's batch, once its watermark has passed.",
)
def daily_features(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """batch_end is midnight: what the stream still accepted before it has arrived by a quarter past."""
    midnight = context.scheduled_execution_time.replace(hour=0, minute=0, second=0, microsecond=0)
    day = days.get_partition_key_for_timestamp(midnight.timestamp() - 1)
    config = {"ops": {"user_features_view": {"config": {"batch_end_ms": int(midnight.timestamp() * 1_000)}}}}
    return dg.RunRequest(partition_key=day, run_config=config)


weekly_training = dg.ScheduleDefinition(
    job=training_job, cron_schedule="0 1 * * 1", execution_timezone="UTC", description="A new candidate every Monday."
)

jobs = [features_job, training_job]
schedules = [daily_features, weekly_training]
