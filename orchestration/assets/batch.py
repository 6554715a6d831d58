"""The batch layer: archive → events → tiles → view, and the view into the online store."""

import time

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from delta.tables import DeltaTable

from batch.events import ingest_archive
from batch.publish import publish_view
from batch.tiles import build_tiles, stale_days
from batch.view import build_view, default_batch_end_ms, view_table
from infra.errors import NotReadyError
from orchestration.assets.speed import raw_events
from orchestration.catch_up import wait_for_archive
from orchestration.deployment import GROUP, OWNERS, SETTINGS, SOURCE, days, one_run
from orchestration.plots import feature_distributions
from orchestration.run_days import first_and_last_day
from serving.contract import rfc3339


class ViewConfig(dg.Config):
    """Up to when the view knows everything: milliseconds since 1970; by default as late as the batch can vouch for."""

    batch_end_ms: int | None = None


def columns_of(*groups_of_columns: tuple[str, str, str]) -> dg.TableSchema:
    """A table schema for the UI, of (name, type, description)."""
    return dg.TableSchema([dg.TableColumn(name, kind, description=text) for name, kind, text in groups_of_columns])


@dg.asset(
    partitions_def=days, backfill_policy=one_run, deps=[raw_events], group_name="batch", kinds={"spark", "delta"}, owners=OWNERS,
    metadata={"dagster/column_schema": columns_of(*((c.name, c.type.value, "required" if c.required else "") for c in SOURCE.columns))},
)  # fmt: skip
def events(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
    """Every event once, typed, by day: what was loaded from files, and what the stream has archived, late events included."""
    waited = wait_for_archive(SETTINGS, SOURCE)
    report = ingest_archive(spark.spark_session, SETTINGS, SOURCE)
    if not DeltaTable.isDeltaTable(spark.spark_session, SETTINGS.table(SOURCE.table)):
        raise NotReadyError("There are no events yet.", "Load a file by `braid load FILE` or stream some by `braid replay FILE`.")
    first, last = first_and_last_day(context)
    table = spark.spark_session.read.format("delta").load(SETTINGS.table(SOURCE.table))
    rows = table.where(f"day BETWEEN DATE'{first}' AND DATE'{last}'").count()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows, "archive": waited, "messages read from the archive": report.read, "events added": report.added,
            "days touched by new events": ", ".join(map(str, report.days[:20])) or "none",
        }
    )  # fmt: skip


@dg.asset(partitions_def=days, backfill_policy=one_run, deps=[events], group_name="batch", kinds={"spark", "delta"}, owners=OWNERS)
def user_feature_tiles(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
    """The partials of each user over each 5 minutes, by day. Only days whose events have changed are folded again."""
    _, last = first_and_last_day(context)
    # Late events heal whatever days the run was asked for.
    stale = [day for day in stale_days(spark.spark_session, SETTINGS, GROUP) if day <= last]
    if not stale:
        return dg.MaterializeResult(metadata={"days folded": 0})
    report = build_tiles(spark.spark_session, SETTINGS, GROUP, stale)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.tiles,
            "events": report.events,
            "days folded": report.days,
            "from": str(stale[0]),
            "to": str(stale[-1]),
        }
    )


@dg.asset(
    deps=[user_feature_tiles], group_name="batch", kinds={"spark", "delta"}, owners=OWNERS,
    metadata={"dagster/column_schema": columns_of(*((f.name, GROUP.value_sql_type(i), f.description) for i, f in enumerate(GROUP.features)))},
)  # fmt: skip
def user_features_view(config: ViewConfig, spark: LazyPySparkResource) -> dg.MaterializeResult:
    """All that is known of each user before batch_end: packed for the online store, and readable."""
    session = spark.spark_session
    now_ms = time.time_ns() // 1_000_000
    batch_end_ms = config.batch_end_ms or default_batch_end_ms(session, SETTINGS, SOURCE, now_ms)
    report = build_view(session, SETTINGS, GROUP, batch_end_ms)
    sample = (
        session.read.format("delta").load(SETTINGS.table(view_table(GROUP))).select(*GROUP.feature_names).limit(20_000).toPandas()
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.entities, "tiles read": report.tiles, "batch_end": rfc3339(batch_end_ms),
            "distributions": feature_distributions(sample),
        }
    )  # fmt: skip


@dg.asset(deps=[user_features_view], group_name="serving", kinds={"redis"}, owners=OWNERS)
def online_user_features(spark: LazyPySparkResource) -> dg.MaterializeResult:
    """The view in the online store, where a request merges it with the speed tiles."""
    report = publish_view(spark.spark_session, SETTINGS, GROUP)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.entities, "bytes per user": report.bytes / report.entities, "seconds": report.seconds,
            "batch_end": rfc3339(report.batch_end_ms),
        }
    )  # fmt: skip


assets = [events, user_feature_tiles, user_features_view, online_user_features]
