"""The base of every definition: the project, the settings, the daily partitions, and the resources of a run."""

import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from features.declaration import FeatureGroup
from features.model import Model
from features.project import Project
from infra.experiments import experiment_model
from infra.gateway import batch_session
from infra.settings import Settings
from infra.spark import spark_properties
from orchestration.first_day import first_day
from orchestration.names import events_key, online_key, speed_tiles_key, view_key
from orchestration.own_assets import own_assets

# Single-run backfills are in beta. The versions are pinned, and a user cannot act on the warning.
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
        """The daily partitions, including today, because a backfill may end at any millisecond of today."""
        return dg.DailyPartitionsDefinition(start_date=first_day(self.settings).isoformat(), end_offset=1)

    @property
    def batch_groups(self) -> tuple[FeatureGroup, ...]:
        """The groups whose tiles, views and published views are assets: all groups; in Kappa none."""
        return () if self.settings.kappa else self.project.groups

    def lake_key(self, group: FeatureGroup) -> dg.AssetKey:
        """Returns the asset whose materialization completes a group's past in the lake: the view; in Kappa, which has no views, the events."""
        return events_key(group.source) if self.settings.kappa else view_key(group)

    def online_key(self, group: FeatureGroup) -> dg.AssetKey:
        """Returns the asset of a group in the online store: the published view; in Kappa the open tiles of the stream."""
        return speed_tiles_key(group) if self.settings.kappa else online_key(group)

    @property
    def period(self) -> timedelta:
        """The period of the automatic batch."""
        return timedelta(days=1) if self.settings.batch_every == "day" else timedelta(hours=1)

    @property
    def experiment_models(self) -> tuple[Model, ...]:
        """The model whose variants an experiment compares: the model that it names, else the project's first model; empty without models."""
        if not self.project.models:
            return ()
        return (experiment_model(self.settings.experiment, self.project) or self.project.models[0],)

    @cached_property
    def own_assets(self) -> list[dg.AssetsDefinition]:
        """The assets that the project itself adds."""
        return own_assets(self.project, self.settings)

    @property
    def own_keys(self) -> list[dg.AssetKey]:
        """The assets that the project itself adds and that a backfill materializes: those without partitions."""
        return [key for asset in self.own_assets if asset.partitions_def is None and asset.is_executable for key in asset.keys]

    @property
    def fresh_within(self) -> dg.FreshnessPolicy:
        """The freshness policy of assets: Dagster marks them as stale after two periods of the batch."""
        return dg.FreshnessPolicy.time_window(fail_window=2 * self.period)

    @property
    def spark_resource(self) -> LazyPySparkResource:
        """The Spark resource, whose session starts when an asset first uses it."""
        properties = spark_properties(self.settings, "braid batch", self.settings.batch_memory)
        return BatchSpark(spark_config=properties, home=str(self.settings.home))


class BatchSpark(LazyPySparkResource):
    """The Spark session of a run, on the warm JVM of the home (`infra.gateway`) if the run may use it."""

    home: str

    def _init_session(self) -> None:
        if self._spark_session is None:
            self._spark_session = batch_session(Path(self.home), self.spark_config)


class BatchEnd(dg.ConfigurableResource):
    """The batch_end of a run, in milliseconds since 1970; by default the latest time before which the lake has every event."""

    at_ms: int | None = None

    @staticmethod
    def run_config(at_ms: int | None) -> dict[str, object]:
        """Returns the configuration of a run whose views have the batch_end `at_ms`; empty if `at_ms` is None."""
        return {"resources": {"batch_end": {"config": {"at_ms": at_ms}}}} if at_ms is not None else {}
