"""The batch layer: archive → events → tiles → view."""

from datetime import date

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import SparkSession

from batch.events import ingest_archive, require_events
from batch.tiles import build_tiles, stale_days
from batch.view import build_view, default_batch_end_ms, read_view
from features.declaration import FeatureGroup
from features.instants import now_ms, rfc3339
from features.sources import EventSource
from features.windows import MINUTE_MS
from infra.errors import NoEventsError
from infra.settings import Settings
from orchestration.catch_up import wait_for_archive
from orchestration.columns import event_columns, feature_lineage, same_columns, schema, tile_columns, view_columns
from orchestration.deployment import OWNERS, BatchEnd, Deployment, one_run
from orchestration.materialized import VIEW_VERSION
from orchestration.names import QUALITY_JOB, archive_key, events_key, tiles_key, view_key
from orchestration.plots import feature_distributions
from orchestration.run_days import first_and_last_day

#: Metadata of events: the numbers of messages that were read from the archive, that do not fit the source, and that were already in the table.
READ, REFUSED, DUPLICATES = "messages read from the archive", "messages refused", "messages known already"


def events_asset(deployment: Deployment, source: EventSource) -> dg.AssetsDefinition:
    """Returns the asset of a source's events."""
    settings = deployment.settings

    @dg.asset(
        key=events_key(source), partitions_def=deployment.days, backfill_policy=one_run, deps=[archive_key(source)], group_name="batch",
        kinds={"spark", "delta"}, owners=OWNERS, metadata=schema(*event_columns(source)),
        description=f"Every event of {source.name} once, typed, by day: from loaded files and from the stream's archive, with late events.",
    )  # fmt: skip
    def events(context: dg.AssetExecutionContext, spark: LazyPySparkResource, batch_end: BatchEnd) -> dg.MaterializeResult:
        session = spark.spark_session
        # The job of quality builds no view, so it takes nothing from the stream.
        derived = batch_end.at_ms is None and context.run.job_name != QUALITY_JOB
        waited = wait_for_archive(settings, source, batch_end.at_ms, _newest_end_ms(session, settings, source) if derived else None)
        report = ingest_archive(session, settings, source)
        require_events(session, settings, source)
        first, last = first_and_last_day(context)
        rows = (
            session.read.format("delta")
            .load(settings.table(source.table))
            .where(f"day BETWEEN DATE'{first}' AND DATE'{last}'")
            .count()
        )
        _note_healed(context, deployment, events_key(source), [day for day in report.days if day < first])
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": rows, "archive": waited, READ: report.read, "events added": report.added,
                REFUSED: report.refused, DUPLICATES: report.read - report.refused - report.added,
                "days touched by new events": ", ".join(map(str, report.days[:20])) or "none",
            }
        )  # fmt: skip

    return events


def _newest_end_ms(session: SparkSession, settings: Settings, source: EventSource) -> int | None:
    """The batch_end of the events that the table has already; None where it has none."""
    try:
        return default_batch_end_ms(session, settings, source, now_ms())
    except NoEventsError:
        return None


def tiles_asset(deployment: Deployment, group: FeatureGroup) -> dg.AssetsDefinition:
    """Returns the asset of a group's tiles."""
    settings, events = deployment.settings, events_key(group.source)

    @dg.asset(
        key=tiles_key(group), partitions_def=deployment.days, backfill_policy=one_run, deps=[events], group_name="batch", kinds={"spark", "delta"},
        owners=OWNERS, metadata=schema(*tile_columns(group)),
        description=f"The partials of each {group.entity_text} over each {group.tile_ms // MINUTE_MS} minutes, by day. Only days whose events have changed are folded again.",
    )  # fmt: skip
    def tiles(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
        first, last = first_and_last_day(context)
        lineage = feature_lineage(group, events)
        # Stale days before the run's days are folded as well, so that late events are included.
        stale = [day for day in stale_days(spark.spark_session, settings, group) if day <= last]
        if not stale:
            return dg.MaterializeResult(metadata={"days folded": 0, **lineage})
        report = build_tiles(spark.spark_session, settings, group, stale)
        _note_healed(context, deployment, context.asset_key, [day for day in stale if day < first])
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.tiles, "events": report.events, "days folded": report.days, "from": str(stale[0]), "to": str(stale[-1]),
                **lineage,
            }
        )  # fmt: skip

    return tiles


def view_asset(deployment: Deployment, group: FeatureGroup) -> dg.AssetsDefinition:
    """Returns the asset of a group's batch view."""
    settings = deployment.settings

    @dg.asset(
        key=view_key(group), deps=[tiles_key(group)], group_name="batch", kinds={"spark", "delta"}, owners=OWNERS,
        metadata=schema(*view_columns(group)), freshness_policy=deployment.fresh_within,
        description=f"The features of each {group.entity_text} from all events before batch_end: packed for the online store, and as values.",
    )  # fmt: skip
    def view(spark: LazyPySparkResource, batch_end: BatchEnd) -> dg.MaterializeResult:
        session = spark.spark_session
        batch_end_ms = (
            default_batch_end_ms(session, settings, group.source, now_ms()) if batch_end.at_ms is None else batch_end.at_ms
        )
        report = build_view(session, settings, group, batch_end_ms)
        sample = read_view(session, settings, group, report.version).rows.select(*group.feature_names).limit(20_000).toPandas()
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.entities, "tiles read": report.tiles, "batch_end": rfc3339(batch_end_ms), VIEW_VERSION: report.version,
                "distributions": feature_distributions(sample), **same_columns(("entity", *group.feature_names), tiles_key(group)),
            }
        )  # fmt: skip

    return view


def _note_healed(context: dg.AssetExecutionContext, deployment: Deployment, asset: dg.AssetKey, healed: list[date]) -> None:
    """Records a materialization of each day before the run's days that late events have changed."""
    for day in healed:
        if deployment.days.has_partition_key(day.isoformat()):
            context.log_event(
                dg.AssetMaterialization(asset, partition=day.isoformat(), metadata={"healed": "late events have changed this day"})
            )


def assets_of(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """Returns the batch assets of all sources and groups."""
    project = deployment.project
    of_groups = (make(deployment, group) for group in deployment.batch_groups for make in (tiles_asset, view_asset))
    return [*(events_asset(deployment, source) for source in project.sources), *of_groups]
