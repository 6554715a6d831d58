"""What was served: the topic `served_features` → the Delta table `served_features`, each record once.

    served_id                       the record
    group, fingerprint, entity      whose features, of which version of the declaration; the id as text, whatever its type
    q_ms, served_at_ms              the time that was asked about, and the time of the answer
    features_at_ms                  the instant that the features are of: q, or batch_end where batch alone was asked
    features                        JSON: feature → value as served, null where there was none; a value may be a list
    batch_end_ms, newest_event_ms, tiles_merged, degraded      what went in, and the reasons why the values may not be exact
    experiment, variant, model, model_version, prediction, shadows     of predictions alone: which variant of which experiment answered
                                    by which model, and what the other variants would have said

Written by `serving.served_log`, many in one message, as JSON lines.
"""

from __future__ import annotations

from delta.tables import DeltaTable
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features.declaration import FeatureGroup
from infra.errors import ServiceError
from infra.kafka import SERVED_TOPIC, spark_reader_options, topic_id
from infra.settings import Settings

TABLE = SERVED_TOPIC
SCHEMA = """
    served_id STRING, `group` STRING, fingerprint STRING, entity STRING, q_ms BIGINT, served_at_ms BIGINT, features_at_ms BIGINT,
    features STRING, batch_end_ms BIGINT, newest_event_ms BIGINT, tiles_merged INT, degraded ARRAY<STRING>,
    experiment STRING, variant STRING, model STRING, model_version STRING, prediction DOUBLE, shadows MAP<STRING, DOUBLE>
"""


def ingest_served(spark: SparkSession, settings: Settings) -> int:
    """Appends the records that are in Kafka and not in the table yet; gives their number.

    A stream that ends when it has caught up: Delta takes each of its micro-batches once, whether a run crashes, is done again, or
    meets another one. A topic that is made anew has an id, and by it a checkpoint, of its own.

    Raises:
        ServiceError: Kafka does not answer, or another run was faster.
    """
    topic = topic_id(settings, SERVED_TOPIC)
    if topic is None:
        return 0
    path = settings.table(TABLE)
    spark.sql(f"CREATE TABLE IF NOT EXISTS delta.`{path}` ({SCHEMA}) USING delta")
    messages = spark.readStream.format("kafka").options(**{
        **spark_reader_options(settings), "subscribe": SERVED_TOPIC, "startingOffsets": "earliest", "failOnDataLoss": "false",
    }).load()  # fmt: skip
    lines = messages.select(F.explode(F.split(F.col("value").cast("string"), "\n")).alias("line"))
    records = lines.select(F.from_json("line", SCHEMA).alias("record")).select("record.*")
    query = (
        records.where("served_id IS NOT NULL").observe("served", F.count(F.lit(1)).alias("records")).coalesce(1)
        .writeStream.format("delta").trigger(availableNow=True)
        .option("checkpointLocation", settings.checkpoint(f"{TABLE}_{topic}"))
        .start(path)
    )  # fmt: skip
    try:
        query.awaitTermination()
    except StreamingQueryException as error:
        if "concurrent" not in str(error).lower():
            raise
        raise ServiceError("Another run takes what was served at this moment.", "Leave it to that one, or run again.") from None
    seen = [progress.observedMetrics.get("served") for progress in query.recentProgress if progress.numInputRows]
    return sum(one["records"] for one in seen if one is not None)


def served_of(spark: SparkSession, settings: Settings, group: FeatureGroup) -> DataFrame:
    """The records of a group; `entity` has the group's type."""
    path = settings.table(TABLE)
    served = spark.read.format("delta").load(path) if DeltaTable.isDeltaTable(spark, path) else spark.createDataFrame([], SCHEMA)
    return served.where(F.col("group") == group.name).withColumn("entity", F.expr(f"CAST(entity AS {group.entity_type.value})"))
