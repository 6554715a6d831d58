"""The assets of serving: the views in the online store, and the served answers."""

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import SparkSession

from batch.publish import publish_view
from batch.view import published_version, view_table
from features.declaration import FeatureGroup
from features.instants import rfc3339
from infra.errors import NotReadyError
from infra.kafka import SERVED_TOPIC
from infra.settings import Settings
from monitoring.served import SCHEMA, ingest_served
from orchestration.catch_up import wait_for_tiles
from orchestration.columns import schema, sql_columns, view_columns
from orchestration.deployment import OWNERS, Deployment
from orchestration.health import RECENT
from orchestration.materialized import VIEW_VERSION, built_version, latest_metadata
from orchestration.names import PUBLISH_JOB, SERVED, online_key, view_key
from orchestration.running import runs

#: The number of recently active entities with which the coverage of the online store is checked.
SAMPLE = 500


def online_asset(deployment: Deployment, group: FeatureGroup) -> dg.AssetsDefinition:
    """Returns the asset of a group's batch view in the online store."""
    settings, project = deployment.settings, deployment.project

    @dg.asset(
        key=online_key(group), deps=[view_key(group)], group_name="serving", kinds={"redis"}, owners=OWNERS, freshness_policy=deployment.fresh_within,
        metadata=schema(*view_columns(group)[:1], ("batch", "BINARY", "the packed view")),
        description="The view in the online store, where a request merges it with the speed tiles.",
    )  # fmt: skip
    def online(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
        wait_for_tiles(settings, project, group)
        session = spark.spark_session
        # The latest view of the lake may be one that a check has blocked, or that another run has built and not yet checked.
        if context.run.job_name == PUBLISH_JOB:
            version = version_to_publish_again(context.instance, session, settings, group)
        else:
            version = version_built(context.run, context.instance, session, settings, group)
        report = publish_view(session, settings, group, version)
        written = session.read.format("delta").option("versionAsOf", report.version).load(settings.table(view_table(group)))
        recent = written.orderBy("newest_event_ms", ascending=False).select("entity").limit(SAMPLE).collect()
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.entities, "bytes per entity": report.bytes / max(report.entities, 1), "seconds": report.seconds,
                "entities removed": report.removed, VIEW_VERSION: report.version,
                "batch_end": rfc3339(report.batch_end_ms), RECENT: dg.MetadataValue.json([row["entity"] for row in recent]),
            }
        )  # fmt: skip

    return online


def version_to_publish_again(
    instance: dg.DagsterInstance, session: SparkSession, settings: Settings, group: FeatureGroup
) -> int | None:
    """Returns the Delta version of the view that was published last; None for the latest version.

    The version is None if the last materialization has no such metadata, because an earlier version of braid published the view.

    Raises:
        NotReadyError: That view is no longer stored.
    """
    noted = latest_metadata(instance, online_key(group)).get(VIEW_VERSION)
    return None if noted is None else _stored_version(session, settings, group, noted, "was published last")


def version_built(
    run: dg.DagsterRun, instance: dg.DagsterInstance, session: SparkSession, settings: Settings, group: FeatureGroup
) -> int | None:
    """Returns the Delta version of the view that a run has built and checked, without what was erased since; None, which means the latest, if it has built none.

    Raises:
        NotReadyError: That view is not stored any more.
    """
    built = built_version(run, instance, group)
    return None if built is None else _stored_version(session, settings, group, built, "this run has built")


def _stored_version(session: SparkSession, settings: Settings, group: FeatureGroup, noted: int, which: str) -> int:
    version = published_version(session, settings, group, noted)
    if version is None:
        raise NotReadyError(f"The view of {group.name} that {which} is not stored any more.", "Run `braid backfill`.")
    return version


def served_topic(deployment: Deployment) -> dg.AssetSpec:
    """Returns the asset of the topic of served answers."""
    return dg.AssetSpec(
        "served_topic", deps=[deployment.online_key(group) for group in deployment.project.groups], group_name="serving", kinds={"kafka"}, owners=OWNERS,
        description=f"The Kafka topic `{SERVED_TOPIC}`: the served features and predictions of a share of the answers.",
    )  # fmt: skip


def served_features_asset(deployment: Deployment) -> dg.AssetsDefinition:
    """Returns the asset of the table of served answers."""
    settings = deployment.settings

    @dg.asset(
        key=SERVED,
        deps=["served_topic"],
        group_name="serving",
        kinds={"spark", "delta"},
        owners=OWNERS,
        metadata=schema(*sql_columns(SCHEMA)),
    )
    def served_features(spark: LazyPySparkResource) -> dg.MaterializeResult:
        """The answers of serving, each record once: for experiments, live quality, and the check of consistency."""
        if not runs(settings, "kafka"):
            return dg.MaterializeResult(metadata={"dagster/row_count": 0, "reason": "Kafka does not run."})
        return dg.MaterializeResult(metadata={"dagster/row_count": ingest_served(spark.spark_session, settings)})

    return served_features


def assets_of(deployment: Deployment) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Returns the published views of all groups, and the topic and the table of served answers."""
    online = (online_asset(deployment, group) for group in deployment.batch_groups)
    return [*online, served_topic(deployment), served_features_asset(deployment)]
