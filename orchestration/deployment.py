"""What every definition is made from: the project, the settings, the daily partitions, and the resources of a run."""

import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from features.project import Project
from infra.settings import Settings
from infra.spark import spark_properties
from orchestration.first_day import first_day

# Single-run backfills are in beta; the versions are pinned, and nobody who runs a backfill can do anything about it.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

OWNERS = ["team:features"]
one_run = dg.BackfillPolicy.single_run()


@dataclass(frozen=True)
class Deployment:
    """A project and the settings that it runs with."""

    project: Project
    settings: Settings

    @cached_property
    def days(self) -> dg.DailyPartitionsDefinition:
        """The daily partitions. Today is one too: a backfill may end at any millisecond of it."""
        return dg.DailyPartitionsDefinition(start_date=first_day(self.settings).isoformat(), end_offset=1)

    @property
    def period(self) -> timedelta:
        """How often the batch moves on."""
        return timedelta(days=1) if self.settings.batch_every == "day" else timedelta(hours=1)

    @property
    def fresh_within(self) -> dg.FreshnessPolicy:
        """Two periods of the batch may pass before what it makes is called stale."""
        return dg.FreshnessPolicy.time_window(fail_window=2 * self.period)

    @property
    def spark_resource(self) -> LazyPySparkResource:
        """Spark, started when an asset first asks for it."""
        return LazyPySparkResource(spark_config=spark_properties(self.settings, "braid batch", self.settings.batch_memory))


class BatchEnd(dg.ConfigurableResource):
    """Up to when the views of a run know everything: milliseconds since 1970; by default as late as the batch can vouch for."""

    at_ms: int | None = None

    @staticmethod
    def run_config(at_ms: int | None) -> dict[str, object]:
        """The configuration of a run whose views end at `at_ms`."""
        return {"resources": {"batch_end": {"config": {"at_ms": at_ms}}}} if at_ms is not None else {}
