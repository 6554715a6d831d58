"""What every definition shares: the settings of the deployment, its daily partitions, and the Spark session of a run."""

import json
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from features.definitions import user_events, user_features
from infra.settings import Settings
from infra.spark import spark_properties

SETTINGS = Settings.load()
SOURCE = user_events
GROUP = user_features
OWNERS = ["team:features"]


def first_day(settings: Settings) -> date:
    """The earliest day of all loads; a year ago where nothing was loaded."""
    path = settings.home / "first_day.json"
    return date.fromisoformat(json.loads(path.read_text())) if path.exists() else datetime.now(UTC).date() - timedelta(days=365)


#: Today is a partition too: a backfill may end at any millisecond of it.
days = dg.DailyPartitionsDefinition(start_date=first_day(SETTINGS).isoformat(), end_offset=1)
one_run = dg.BackfillPolicy.single_run()


def spark_resource() -> LazyPySparkResource:
    """Spark, started when an asset first asks for it."""
    return LazyPySparkResource(spark_config=spark_properties(SETTINGS, "braid batch", SETTINGS.batch_memory))
