"""The table of served answers: the topic `served_features` → the Delta table `served_features`, each record once.

    served_id                       the id of the record
    request_id                      the `X-Request-ID` of the request; null in records that are older than this column
    group, fingerprint, entity      the group, the version of its declaration, and the entity's id, always as text
    q_ms, served_at_ms              the time of the request's features, and the time of the answer
    features_at_ms                  the instant at which the features were computed: q, or batch_end if the speed layer was left out
    features                        JSON: feature → served value, null for no value; a value may be a list
    batch_end_ms, newest_event_ms, tiles_merged, degraded      provenance of the features; `degraded` lists the reasons
    degraded_features               the names of the features that may be inexact; null in records that are older than this column
    answer_id, input                only for predictions: the id that the records of one answer share, and the name of the input

Only for the first input of predictions:

    experiment, variant             the experiment, and the variant that answered
    model, model_version            the registered model and its version
    prediction, shadows             the prediction, and the predictions of the shadow variants; null for several classes
    predictions, shadow_predictions     the same for several classes: class → probability
    request                         the request columns as JSON
    outcome_id                      the value that an outcome of the answer will have in the column that joins them
    degraded_inputs                 the names of the inputs that are degraded

`serving.served_log` writes the topic. A message contains many records, as JSON lines.
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

#: If two threads start the query at once, Spark refuses the second start, and from then on every further start in this process.
_ingesting = threading.Lock()


def ingest_served(spark: SparkSession, settings: Settings) -> int:
    """Appends the records that are in Kafka and not yet in the table. Returns their number.

    A streaming query reads the records and ends when it has caught up. Delta commits each micro-batch once, even if a run
    crashes, is repeated, or overlaps with a second run. The name of the checkpoint contains the topic's id, so a topic that was deleted and
    created again is read from its beginning.

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
        .option("mergeSchema", "true")  # adds new columns to a table that an earlier version has written
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
    """Returns the records of a group. The column `entity` has the type that the group declares."""
    path, served = settings.table(TABLE), spark.createDataFrame([], SCHEMA)
    if DeltaTable.isDeltaTable(spark, path):
        served = served.unionByName(spark.read.format("delta").load(path), allowMissingColumns=True)
    return served.where(F.col("group") == group.name).withColumn("entity", F.expr(f"CAST(entity AS {group.entity_type.value})"))
