"""The raw archive and the dead letters: messages → Delta `raw_{table}`, and messages that do not fit → the topic `{topic}.dlq`.

Reads the topic of a source, and appends every message to the archive of the source, whatever the message contains. The batch layer reads the events
of the stream from the archive, including those that were too late for the tiles. The table is partitioned by the UTC day of a message's arrival. Its
change feed has the messages that are new since the batch layer last read it. Each message is in the archive exactly once: an append has the id of
the query, which belongs to its checkpoint, and the number of the micro-batch, and Delta ignores a second append with the same pair.

A message that does not fit the contract goes to `{topic}.dlq` with its key and its bytes unchanged. The headers have the reason and the place of the
message. Dead letters are delivered at least once. A reader can drop duplicates by the headers topic, partition and offset.
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

#: The columns of the archive. Delta keeps statistics of the first four columns only, because the bytes need none.
COLUMNS = "topic STRING, partition INT, offset BIGINT, arrival_ms BIGINT, key BINARY, value BINARY, arrival_day DATE"
_PROPERTIES = {
    "delta.dataSkippingNumIndexedCols": "4", "delta.checkpointInterval": "50", "delta.enableChangeDataFeed": "true",
}  # fmt: skip


def start_archive(spark: SparkSession, settings: Settings, source: EventSource, topic: str) -> Query:
    """Starts the archiving query of a source.

    Args:
        spark: The speed layer's session.
        settings: The settings with the paths of the lake and the checkpoints.
        source: The source.
        topic: The identity of its topic. It is a part of the checkpoint's name, so a topic that is made anew is read from its start.
    """
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
    """Creates the table of the archive if it does not exist, so that a reader finds it before the first message."""
    properties = ", ".join(f"'{key}' = '{value}'" for key, value in _PROPERTIES.items())
    spark.sql(
        f"CREATE TABLE IF NOT EXISTS delta.`{settings.table(source.archive_table)}` ({COLUMNS}) USING delta "
        f"PARTITIONED BY (arrival_day) TBLPROPERTIES ({properties})"
    )


def archived_offsets(
    spark: SparkSession, settings: Settings, source: EventSource, topic: str, micro_batches: Mapping[str, int]
) -> dict[int, int]:
    """Returns the offsets that a commit of the archive has reached: partition → the offset after the last archived message.

    Args:
        spark: The session.
        settings: The settings with the path of the checkpoints.
        source: The source of the archive.
        topic: The identity of the topic. The archive may have messages of an earlier topic of the same name.
        micro_batches: Id of a query → the last micro-batch in the commit (`batch.tables.TableState.transactions`).

    Returns:
        The offsets by partition; empty if the commit has no micro-batch of this topic.
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
    # Spark writes the offsets of a micro-batch before it starts: a line with a version, a line with properties, and a line per source of the query.
    offsets = json.loads(text(f"offsets/{micro_batch}").splitlines()[-1])[source.topic]
    return {int(partition): int(offset) for partition, offset in offsets.items()}


def archive_batch(settings: Settings, source: EventSource, topic: str, batch: DataFrame, batch_id: int) -> None:
    """Writes one micro-batch: first the archive, then the dead letters.

    Raises:
        ServiceError: The micro-batch cannot be written, or the topic was made anew, so that this query may have passed over its first messages.
    """
    if is_anew(settings, source.topic, topic):
        raise ServiceError(f"The topic {source.topic} was made anew.", "The speed layer starts again, and reads it from its start.")
    # Both writes use the same messages, so that Kafka is read once.
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
        # Spark searches the text of a failure with a regular expression that overflows the stack on a long text such as a Java stack trace.
        cause = " ".join(str(error).split())[:1_000]
        raise ServiceError(
            f"The micro-batch {batch_id} of {source.topic} was not archived: {cause}.", "It is tried again."
        ) from None
    finally:
        batch.unpersist()


def dead_letters(settings: Settings, source: EventSource, batch: DataFrame) -> DataFrame:
    """Returns the messages of a batch that do not fit the contract, with the columns of Spark's Kafka sink: key, value, headers."""
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
