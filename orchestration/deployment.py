"""What every definition shares: the settings of the deployment, its daily partitions, and the Spark session of a run."""

import warnings

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from features.definitions import user_events, user_features
from infra.settings import Settings
from infra.spark import spark_properties
from orchestration.first_day import first_day

# Single-run backfills are in beta; the versions are pinned, and nobody who runs a backfill can do anything about it.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

SETTINGS = Settings.load()
SOURCE = user_events
GROUP = user_features
OWNERS = ["team:features"]


#: Today is a partition too: a backfill may end at any millisecond of it.
days = dg.DailyPartitionsDefinition(start_date=first_day(SETTINGS).isoformat(), end_offset=1)
one_run = dg.BackfillPolicy.single_run()


def spark_resource() -> LazyPySparkResource:
    """Spark, started when an asset first asks for it."""
    return LazyPySparkResource(spark_config=spark_properties(SETTINGS, "braid batch", SETTINGS.batch_memory))
