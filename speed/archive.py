"""Messages → the raw archive in Delta, and misfits → the dead-letter topic.

Reads the topic; appends every message, whatever it holds, to the source's archive `raw_{table}`: what the batch layer learns the stream
from, also what came too late for the tiles. The table is partitioned by the UTC day of the message's arrival; its change feed gives the
batch layer what came since it last looked. Each message is in the archive exactly once: an append carries the query's id, which belongs to its
checkpoint, and the micro-batch's number, and Delta refuses to take the same pair twice.

A message that does not fit the contract goes to `{topic}.dlq` with its key and its bytes as they were; the headers say the reason
and where it was. The dead letters are at least once: a reader who minds drops doubles by the headers topic, partition and offset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.sources import EventSource
from infra.errors import ServiceError
from infra.kafka import spark_options
from infra.settings import Settings
from speed.engine import Query
from speed.spark_engine import SparkQuery
from speed.stream import judged, messages
from speed.topics import is_anew

#: Delta columns of the archive. Statistics only of the first four columns: the bytes need none.
COLUMNS = "topic STRING, partition INT, offset BIGINT, arrival_ms BIGINT, key BINARY, value BINARY, arrival_day DATE"
_PROPERTIES = {
    "delta.dataSkippingNumIndexedCols": "4", "delta.checkpointInterval": "50", "delta.enableChangeDataFeed": "true",
}  # fmt: skip


def start_archive(spark: SparkSession, settings: Settings, source: EventSource, topic: str) -> Query:
    """Starts the query of a source; `topic` is the identity of its topic: one that is made anew is read from its start."""
    name = f"archive_{source.name}"
    place = settings.checkpoint(f"{name}_{topic}")
    query = (
        messages(spark, settings, source)
        .writeStream.queryName(name)
        .foreachBatch(partial(archive_batch, settings, source, topic))
        .trigger(processingTime=f"{round(settings.archive_seconds * 1_000)} milliseconds")
        .option("checkpointLocation", place)
        .start()
    )
    return SparkQuery(query, place)


def create_archive(spark: SparkSession, settings: Settings, source: EventSource) -> None:
    """Makes the table, so that a reader finds it before the first message."""
    properties = ", ".join(f"'{key}' = '{value}'" for key, value in _PROPERTIES.items())
    spark.sql(
        f"CREATE TABLE IF NOT EXISTS delta.`{settings.table(source.archive_table)}` ({COLUMNS}) USING delta "
        f"PARTITIONED BY (arrival_day) TBLPROPERTIES ({properties})"
    )


def archived_offsets(
    spark: SparkSession, settings: Settings, source: EventSource, topic: str, micro_batches: Mapping[str, int]
) -> dict[int, int]:
    """Partition → the offset behind the last message of a topic in a commit of the archive; empty where it has none.

    Args:
        spark: The session.
        settings: Where the checkpoints are.
        source: Whose archive.
        topic: The identity of the topic. The archive may have messages of a topic that had the name before.
        micro_batches: Query → the last micro-batch that the commit has (`batch.tables.TableState.transactions`).
    """
    path = settings.checkpoint(f"archive_{source.name}_{topic}")

    def text(name: str) -> str:
        return str(spark.read.text(f"{path}/{name}", wholetext=True).collect()[0][0])

    try:
        micro_batch = micro_batches.get(json.loads(text("metadata"))["id"])
    except AnalysisException:  # no query of the topic has begun
        return {}
    if micro_batch is None:
        return {}
    # Spark writes the offsets of a micro-batch before it begins: a line with a version, one with properties, and one per topic's reader.
    offsets = json.loads(text(f"offsets/{micro_batch}").splitlines()[-1])[source.topic]
    return {int(partition): int(offset) for partition, offset in offsets.items()}


def archive_batch(settings: Settings, source: EventSource, topic: str, batch: DataFrame, batch_id: int) -> None:
    """Writes one micro-batch: first the archive, then the dead letters.

    Raises:
        ServiceError: It cannot be written, or its messages are those of a topic made anew, of which this query has not the first.
    """
    if is_anew(settings, source.topic, topic):
        raise ServiceError(f"The topic {source.topic} was made anew.", "The speed layer starts again, and reads it from its start.")
    # Kafka is read once for both.
    batch = batch.persist()
    try:
        query_id = batch.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId")
        assert query_id, "a foreachBatch runs within a query"
        (
            batch.select(
                F.lit(source.topic).alias("topic"), "partition", "offset", "arrival_ms", "key", "value",
                F.to_date(F.timestamp_millis("arrival_ms")).alias("arrival_day"),
            ).coalesce(1).write.format("delta").mode("append")
            .option("txnAppId", query_id).option("txnVersion", batch_id)
            .save(settings.table(source.archive_table))
        )  # fmt: skip
        (
            dead_letters(settings, source, batch)
            .write.format("kafka")
            .options(**spark_options(settings))
            .option("topic", source.dlq_topic)
            .save()
        )
    except (PySparkException, Py4JJavaError) as error:
        # Spark searches a failure's text by a regular expression that overflows the stack on a long one, as Java's traces are.
        cause = " ".join(str(error).split())[:1_000]
        raise ServiceError(
            f"The micro-batch {batch_id} of {source.topic} was not archived: {cause}.", "It is tried again."
        ) from None
    finally:
        batch.unpersist()


def dead_letters(settings: Settings, source: EventSource, batch: DataFrame) -> DataFrame:
    """Of a batch of messages those that do not fit, as Kafka's sink takes them: key, value, headers."""
    renamed = {f"_{name}": name for name in ("key", "value", "partition", "offset")}
    letters = judged(settings, batch, source, renamed)
    headers = F.array(
        _header("reason", F.col("_reason")),
        _header("topic", F.lit(source.topic)),
        _header("partition", F.col("_partition")),
        _header("offset", F.col("_offset")),
        _header("arrival_ms", F.col("arrival_ms")),
    )
    misfits = letters.where("_reason IS NOT NULL")
    return misfits.select(F.col("_key").alias("key"), F.col("_value").alias("value"), headers.alias("headers"))


def _header(name: str, value: Column) -> Column:
    return F.struct(F.lit(name).alias("key"), value.cast("string").cast("binary").alias("value"))
