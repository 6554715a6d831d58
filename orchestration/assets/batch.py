"""The batch layer: archive → events → tiles → view."""

import time
from datetime import date

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from batch.events import ingest_archive, require_events
from batch.tiles import build_tiles, stale_days
from batch.view import build_view, default_batch_end_ms, view_table
from features.declaration import FeatureGroup
from features.definitions import GROUPS
from orchestration.assets.speed import raw_events
from orchestration.catch_up import wait_for_archive
from orchestration.columns import event_columns, feature_lineage, same_columns, schema, tile_columns, view_columns
from orchestration.deployment import OWNERS, SETTINGS, SOURCE, BatchEnd, days, fresh_within, one_run
from orchestration.plots import feature_distributions
from orchestration.run_days import first_and_last_day
from serving.contract import rfc3339


@dg.asset(
    partitions_def=days, backfill_policy=one_run, deps=[raw_events], group_name="batch", kinds={"spark", "delta"}, owners=OWNERS,
    metadata=schema(*event_columns(SOURCE)),
)  # fmt: skip
def events(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
    """Every event once, typed, by day: what was loaded from files, and what the stream has archived, late events included."""
    waited = wait_for_archive(SETTINGS, SOURCE)
    report = ingest_archive(spark.spark_session, SETTINGS, SOURCE)
    require_events(spark.spark_session, SETTINGS, SOURCE)
    first, last = first_and_last_day(context)
    table = spark.spark_session.read.format("delta").load(SETTINGS.table(SOURCE.table))
    rows = table.where(f"day BETWEEN DATE'{first}' AND DATE'{last}'").count()
    _note_healed(context, events.key, [day for day in report.days if day < first])
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows, "archive": waited, "messages read from the archive": report.read, "events added": report.added,
            "days touched by new events": ", ".join(map(str, report.days[:20])) or "none",
        }
    )  # fmt: skip


def tiles_asset(group: FeatureGroup) -> dg.AssetsDefinition:
    """The tiles of a group."""

    @dg.asset(
        name=f"{group.name}_tiles", partitions_def=days, backfill_policy=one_run, deps=[events], group_name="batch", kinds={"spark", "delta"},
        owners=OWNERS, metadata=schema(*tile_columns(group)),
        description=f"The partials of each {group.entity} over each {group.tile_ms // 60_000} minutes, by day. Only days whose events have changed are folded again.",
    )  # fmt: skip
    def tiles(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
        first, last = first_and_last_day(context)
        lineage = feature_lineage(group, events.key)
        # Late events heal whatever days the run was asked for.
        stale = [day for day in stale_days(spark.spark_session, SETTINGS, group) if day <= last]
        if not stale:
            return dg.MaterializeResult(metadata={"days folded": 0, **lineage})
        report = build_tiles(spark.spark_session, SETTINGS, group, stale)
        _note_healed(context, context.asset_key, [day for day in stale if day < first])
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.tiles, "events": report.events, "days folded": report.days, "from": str(stale[0]), "to": str(stale[-1]),
                **lineage,
            }
        )  # fmt: skip

    return tiles


def view_asset(group: FeatureGroup, tiles: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """The batch view of a group."""

    @dg.asset(
        name=f"{group.name}_view", deps=[tiles], group_name="batch", kinds={"spark", "delta"}, owners=OWNERS,
        metadata=schema(*view_columns(group)), freshness_policy=fresh_within,
        description=f"All that is known of each {group.entity} before batch_end: packed for the online store, and readable.",
    )  # fmt: skip
    def view(spark: LazyPySparkResource, batch_end: BatchEnd) -> dg.MaterializeResult:
        session = spark.spark_session
        batch_end_ms = batch_end.at_ms or default_batch_end_ms(session, SETTINGS, group.source, time.time_ns() // 1_000_000)
        report = build_view(session, SETTINGS, group, batch_end_ms)
        written = session.read.format("delta").load(SETTINGS.table(view_table(group)))
        sample = written.select(*group.feature_names).limit(20_000).toPandas()
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.entities, "tiles read": report.tiles, "batch_end": rfc3339(batch_end_ms),
                "distributions": feature_distributions(sample), **same_columns(("entity", *group.feature_names), tiles.key),
            }
        )  # fmt: skip

    return view


def _note_healed(context: dg.AssetExecutionContext, asset: dg.AssetKey, healed: list[date]) -> None:
    """Shows days that late events have changed, beside those that the run was asked for."""
    for day in healed:
        if days.has_partition_key(day.isoformat()):
            context.log_event(
                dg.AssetMaterialization(asset, partition=day.isoformat(), metadata={"healed": "late events have changed this day"})
            )


tiles = {name: tiles_asset(group) for name, group in GROUPS.items()}
views = {name: view_asset(group, tiles[name]) for name, group in GROUPS.items()}
assets = [events, *tiles.values(), *views.values()]
