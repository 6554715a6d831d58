"""The table of served answers: the topic `served_features` → the Delta table `served_features`, each record once.

    served_id                       the id of the record
    request_id                      the `X-Request-ID` of the request; null in records of before this column
    group, fingerprint, entity      the group, the version of its declaration, and the entity's id as text, whatever its type
    q_ms, served_at_ms              the time of the request's features, and the time of the answer
    features_at_ms                  the instant at which the features were computed: q, or batch_end if the speed layer was left out
    features                        JSON: feature → served value, null for no value; a value may be a list
    batch_end_ms, newest_event_ms, tiles_merged, degraded      provenance of the features; `degraded` lists the reasons
    degraded_features               the names of the features that may not be exact; null in records of before this column
    answer_id, input                predictions only: the records of one answer share the id; the name of the input
    experiment, variant, model, model_version, prediction, shadows     the first input of predictions only: the experiment and the variant that
                                    answered, the registered model and its version, and the predictions of the shadow variants; null for
                                    several classes, whose predictions are in `predictions` and `shadow_predictions`: class → probability
    request, outcome_id, degraded_inputs     the same: the request columns as JSON, what an outcome will name, and the inputs that are degraded

`serving.served_log` writes the topic: a message has many records, as JSON lines.
"""

from __future__ import annotations

import threading

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
    served_id STRING, request_id STRING, `group` STRING, fingerprint STRING, entity STRING, q_ms BIGINT, served_at_ms BIGINT, features_at_ms BIGINT,
    features STRING, batch_end_ms BIGINT, newest_event_ms BIGINT, tiles_merged INT, degraded ARRAY<STRING>,
    degraded_features ARRAY<STRING>,
    experiment STRING, variant STRING, model STRING, model_version STRING, prediction DOUBLE, shadows MAP<STRING, DOUBLE>,
    answer_id STRING, input STRING, request STRING, outcome_id STRING, predictions MAP<STRING, DOUBLE>,
    shadow_predictions MAP<STRING, MAP<STRING, DOUBLE>>, degraded_inputs ARRAY<STRING>
"""

#: Where two threads start one query at once, Spark refuses the second, and from then on every other one in this process.
_ingesting = threading.Lock()


def ingest_served(spark: SparkSession, settings: Settings) -> int:
    """Appends the records that are in Kafka and not yet in the table. Returns their number.

    The records are read by a streaming query that ends when it has caught up. Delta commits each micro-batch once, also when a run
    crashes, is repeated, or meets a second run. The checkpoint carries the topic's id, so a topic that was deleted and created again
    is read from its beginning.

    Raises:
        ServiceError: Kafka does not answer, or another run has just appended the same records.
    """
    topic = topic_id(settings, SERVED_TOPIC)
    if topic is None:
        return 0
    path = settings.table(TABLE)
    spark.sql(f"CREATE TABLE IF NOT EXISTS delta.`{path}` ({SCHEMA}) USING delta")
    options = {
        **spark_reader_options(settings),
        "subscribe": SERVED_TOPIC,
        "startingOffsets": "earliest",
        "failOnDataLoss": "false",
    }
    messages = spark.readStream.format("kafka").options(**options).load()
    lines = messages.select(F.explode(F.split(F.col("value").cast("string"), "\n")).alias("line"))
    records = lines.select(F.from_json("line", SCHEMA).alias("record")).select("record.*")
    writer = (
        records.where("served_id IS NOT NULL")
        .observe("served", F.count(F.lit(1)).alias("records"))
        .coalesce(1)
        .writeStream.format("delta")
        .trigger(availableNow=True)
        .option("checkpointLocation", settings.checkpoint(f"{TABLE}_{topic}"))
        .option("mergeSchema", "true")  # a table of before a column gets it
    )
    try:
        with _ingesting:
            query = writer.start(path)
            query.awaitTermination()
    except StreamingQueryException as error:
        if "concurrent" not in str(error).lower():
            raise
        raise ServiceError("Another run is reading the served log now.", "Wait until that run has ended, or run again.") from None
    counts = [progress.observedMetrics.get("served") for progress in query.recentProgress if progress.numInputRows]
    return sum(count["records"] for count in counts if count is not None)


def served_of(spark: SparkSession, settings: Settings, group: FeatureGroup) -> DataFrame:
    """The records of a group; the column `entity` has the type that the group declares."""
    path, served = settings.table(TABLE), spark.createDataFrame([], SCHEMA)
    if DeltaTable.isDeltaTable(spark, path):
        served = served.unionByName(spark.read.format("delta").load(path), allowMissingColumns=True)
    return served.where(F.col("group") == group.name).withColumn("entity", F.expr(f"CAST(entity AS {group.entity_type.value})"))
