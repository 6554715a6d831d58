"""What every definition shares: the settings of the deployment, its groups, its daily partitions, and the resources of a run."""

import warnings
from datetime import timedelta

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
#: What the model is asked about; the other groups are served, not learnt from.
MODEL_GROUP = user_features
OWNERS = ["team:features"]

#: Today is a partition too: a backfill may end at any millisecond of it.
days = dg.DailyPartitionsDefinition(start_date=first_day(SETTINGS).isoformat(), end_offset=1)
one_run = dg.BackfillPolicy.single_run()
period = timedelta(days=1) if SETTINGS.batch_every == "day" else timedelta(hours=1)
#: Two periods of the batch may pass before what it makes is called stale.
fresh_within = dg.FreshnessPolicy.time_window(fail_window=2 * period)


class BatchEnd(dg.ConfigurableResource):
    """Up to when the views of a run know everything: milliseconds since 1970; by default as late as the batch can vouch for."""

    at_ms: int | None = None

    @staticmethod
    def run_config(at_ms: int | None) -> dict[str, object]:
        """The configuration of a run whose views end at `at_ms`."""
        return {"resources": {"batch_end": {"config": {"at_ms": at_ms}}}} if at_ms is not None else {}


def spark_resource() -> LazyPySparkResource:
    """Spark, started when an asset first asks for it."""
    return LazyPySparkResource(spark_config=spark_properties(SETTINGS, "braid batch", SETTINGS.batch_memory))
