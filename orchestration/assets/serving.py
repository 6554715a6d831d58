"""The serving layer: the views in the online store, and what was served from there."""

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from batch.publish import publish_view
from batch.view import view_table
from features.declaration import FeatureGroup
from features.definitions import GROUPS
from infra.kafka import SERVED_TOPIC
from monitoring.served import SCHEMA, ingest_served
from orchestration.assets.batch import views
from orchestration.catch_up import wait_for_tiles
from orchestration.columns import schema, sql_columns, view_columns
from orchestration.deployment import OWNERS, SETTINGS, fresh_within
from orchestration.health import RECENT
from orchestration.running import runs
from serving.contract import rfc3339

#: Recently active entities that the coverage of the online store is judged by.
SAMPLE = 500


def online_asset(group: FeatureGroup, view: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """The batch view of a group in the online store."""

    @dg.asset(
        name=f"online_{group.name}", deps=[view], group_name="serving", kinds={"redis"}, owners=OWNERS, freshness_policy=fresh_within,
        metadata=schema(*view_columns(group)[:1], ("batch", "BINARY", "the packed view")),
        description="The view in the online store, where a request merges it with the speed tiles.",
    )  # fmt: skip
    def online(spark: LazyPySparkResource) -> dg.MaterializeResult:
        wait_for_tiles(SETTINGS, group)
        report = publish_view(spark.spark_session, SETTINGS, group)
        written = spark.spark_session.read.format("delta").load(SETTINGS.table(view_table(group)))
        recent = written.orderBy("newest_event_ms", ascending=False).select("entity").limit(SAMPLE).collect()
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.entities, "bytes per entity": report.bytes / max(report.entities, 1), "seconds": report.seconds,
                "batch_end": rfc3339(report.batch_end_ms), RECENT: dg.MetadataValue.json([row["entity"] for row in recent]),
            }
        )  # fmt: skip

    return online


served_topic = dg.AssetSpec(
    "served_topic", deps=[f"online_{name}" for name in GROUPS], group_name="serving", kinds={"kafka"}, owners=OWNERS,
    description=f"The Kafka topic `{SERVED_TOPIC}`: the features and predictions of a share of the answers, as they were given.",
)  # fmt: skip


@dg.asset(deps=[served_topic], group_name="serving", kinds={"spark", "delta"}, owners=OWNERS, metadata=schema(*sql_columns(SCHEMA)))
def served_features(spark: LazyPySparkResource) -> dg.MaterializeResult:
    """What serving answered, each record once: for experiments, live quality, and the check of consistency."""
    if not runs(SETTINGS, "kafka"):
        return dg.MaterializeResult(metadata={"dagster/row_count": 0, "reason": "Kafka does not run."})
    return dg.MaterializeResult(metadata={"dagster/row_count": ingest_served(spark.spark_session, SETTINGS)})


online = {name: online_asset(group, views[name]) for name, group in GROUPS.items()}
assets: list[dg.AssetsDefinition | dg.AssetSpec] = [*online.values(), served_topic, served_features]
