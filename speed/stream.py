"""Kafka → events: the first step of every query of the speed layer.

Reads a source's topic; gives messages, and events that fit the contract. An event from the future is refused here, before it can
move the watermark. Reads the backlog whole: the watermark moves between micro-batches only, and a bound such as
`maxOffsetsPerTrigger` would let one partition run ahead of another in event time, whose events were then too late.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features.declaration import FeatureGroup
from features.judgement import message_projections
from features.sources import EventSource
from infra.kafka import spark_reader_options
from infra.settings import Settings

#: 2011, the year of the first Kafka.
_FIRST_ARRIVAL_MS = 1_293_840_000_000
#: Where a message is in its topic: (partition, offset) in one integer, to order what arrived in the same millisecond.
_PLACE = "shiftleft(CAST(kafka_partition AS BIGINT), 48) + kafka_offset"


def _arrival_ms_sql() -> str:
    """When a message arrived: by the broker's clock, or by a producer's where the topic has CreateTime, but never after now.

    A clock that says a time before there was Kafka is none: the message arrived when it was read.
    """
    now = "unix_millis(current_timestamp())"
    return f"CASE WHEN unix_millis(timestamp) BETWEEN {_FIRST_ARRIVAL_MS} AND {now} THEN unix_millis(timestamp) ELSE {now} END"


def messages(spark: SparkSession, settings: Settings, source: EventSource, at_most: int | None = None) -> DataFrame:
    """The messages of the source's topic as a stream: key, value, partition, offset, arrival_ms.

    A first run begins at the earliest message. Where retention has deleted messages before they were read, the stream goes on
    with the next one. `at_most` bounds a micro-batch, where the partitions are known to go along together: for measurements.
    """
    options = {
        **spark_reader_options(settings),
        "subscribe": source.topic,
        "startingOffsets": "earliest",
        "failOnDataLoss": "false",
        **({"maxOffsetsPerTrigger": str(at_most)} if at_most else {}),
    }
    stream = spark.readStream.format("kafka").options(**options).load()
    return stream.selectExpr("key", "value", "partition", "offset", f"{_arrival_ms_sql()} AS arrival_ms")


def judged(settings: Settings, frame: DataFrame, source: EventSource, keep: Mapping[str, str]) -> DataFrame:
    """Messages held to the contract: the columns to keep and `arrival_ms`, the typed ones, `ts_ms`, and `_reason`: why one does not fit, or NULL.

    Args:
        settings: How far a clock may be ahead.
        frame: value, arrival_ms, and what is to be kept.
        source: The contract.
        keep: Name → column of the frame; a name is no column of the source.
    """
    names = {**keep, "arrival_ms": "arrival_ms"}
    for projection in message_projections(source, names, "arrival_ms", settings.future_seconds * 1_000):
        frame = frame.selectExpr(*projection)
    return frame


def tile_events(spark: SparkSession, settings: Settings, group: FeatureGroup, at_most: int | None = None) -> DataFrame:
    """The events of a group as a stream, as `contributions` gives them."""
    place = {"kafka_partition": "partition", "kafka_offset": "offset"}
    typed = judged(settings, messages(spark, settings, group.source, at_most), group.source, place)
    return contributions(group, typed.where("_reason IS NULL"))


def contributions(group: FeatureGroup, typed: DataFrame) -> DataFrame:
    """What events contribute to a group, in the few columns that a tile needs.

    Args:
        group: The declaration.
        typed: The source's typed columns, `ts_ms`, `arrival_ms`, `kafka_partition` and `kafka_offset`, as in the table of events.

    Returns:
        entity; the source's time column (timestamp); event: a struct of id (hash of the event id), arrival_ms and place (together
        the order of arrival, which is the batch layer's), ts_ms, and input_0 … input_k as the declaration's inputs give them.
    """
    source = group.source
    inputs = [f"{one.sql} AS input_{index}" for index, one in enumerate(group.inputs)]
    event = f"xxhash64(`{source.event_id}`) AS id, arrival_ms, {_PLACE} AS place, ts_ms, {', '.join(inputs)}"
    return typed.where(group.has_entity_sql).selectExpr(
        f"`{group.entity}` AS entity", f"`{source.time}`", f"struct({event}) AS event"
    )


def tiles(settings: Settings, group: FeatureGroup, events: DataFrame) -> DataFrame:
    """The one stateful aggregation: `tile_events` to tiles, each the list of its events: entity, tile_start_ms, events.

    The list is the state, so that duplicates fall by event id without a second stateful operator, and so that the fold over it
    is the very one of the batch layer.
    """
    time = group.source.time
    window = F.window(F.col(time), f"{group.tile_ms} milliseconds")
    watermarked = events.withWatermark(time, f"{settings.watermark_seconds} seconds")
    grouped = watermarked.groupBy("entity", window.alias("tile")).agg(F.collect_list("event").alias("events"))
    return grouped.select("entity", F.unix_millis("tile.start").alias("tile_start_ms"), "events")
