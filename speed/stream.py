"""Kafka → events → what each contributes to the entities of all groups of a source: the plan of the speed layer's queries.

Reads a source's topic; gives messages, events that fit the contract, and contributions, each event once. An event from the future is refused
here, before it can move the watermark. A backlog is read in micro-batches of at most `settings.speed_batch_events` messages, so that its memory is
bounded. Spark shares that bound among the partitions by how much each holds, so that all of them come to their ends at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyspark.sql import DataFrame, SparkSession

from features.declaration import FeatureGroup
from features.judgement import message_projections
from features.sources import EventSource
from infra.kafka import FIRST_ARRIVAL_MS, spark_reader_options
from infra.settings import Settings

#: Where a message is in its topic.
PLACE = {"kafka_partition": "partition", "kafka_offset": "offset"}
#: The columns of `features.arrival.ARRIVAL_ORDER`.
ARRIVAL = ("arrival_ms", *PLACE)


def _arrival_ms_sql() -> str:
    """When a message arrived: by the broker's clock, or by a producer's where the topic has CreateTime, but never after now.

    A clock that says a time before there was Kafka is none: the message arrived when it was read.
    """
    # Spark writes a number into the code that it generates, and would compile that code anew in each micro-batch, but refers to a decimal.
    now = "CAST(unix_millis(current_timestamp()) AS DECIMAL(20, 0))"
    message_ms = f"CASE WHEN unix_millis(timestamp) >= {FIRST_ARRIVAL_MS} THEN CAST(unix_millis(timestamp) AS DECIMAL(20, 0)) END"
    return f"CAST(least({message_ms}, {now}) AS BIGINT)"


def messages(spark: SparkSession, settings: Settings, source: EventSource, at_most: int | None = None) -> DataFrame:
    """The messages of the source's topic as a stream: key, value, partition, offset, arrival_ms.

    A first run begins at the earliest message. Where retention has deleted messages before they were read, the stream goes on
    with the next one. `at_most` bounds a micro-batch instead of the setting; 0 does not.
    """
    at_most = settings.speed_batch_events if at_most is None else at_most
    options = {
        **spark_reader_options(settings),
        "subscribe": source.topic,
        "startingOffsets": "earliest",
        "failOnDataLoss": "false",
        **({"maxOffsetsPerTrigger": str(at_most)} if at_most else {}),
    }
    stream = spark.readStream.format("kafka").options(**options).load()
    return stream.coalesce(spark.sparkContext.defaultParallelism).selectExpr(
        "key", "value", "partition", "offset", f"{_arrival_ms_sql()} AS arrival_ms"
    )


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


def judged_events(spark: SparkSession, settings: Settings, source: EventSource, at_most: int | None = None) -> DataFrame:
    """The events of a source that fit as a stream: typed columns, `ts_ms`, `arrival_ms`, `kafka_partition`, `kafka_offset`."""
    return judged(settings, messages(spark, settings, source, at_most), source, PLACE).where("_reason IS NULL")


def contributions(groups: Iterable[FeatureGroup], typed: DataFrame) -> DataFrame:
    """What events contribute to groups of one source, in the few columns that their tiles need: a row per event.

    Args:
        groups: The declarations.
        typed: The source's typed columns, `ts_ms`, `arrival_ms`, `kafka_partition` and `kafka_offset`, as in the table of events.

    Returns:
        event: a hash of the event id; the source's time column (timestamp); the order of arrival (`features.arrival`); ts_ms; entities: per different
        entity of the groups the id of the entity as a text, or NULL; input_0 … input_k: the different inputs of all groups.
    """
    groups = list(groups)
    source = groups[0].source
    ids = ", ".join(f"IF({condition}, CAST({entity_id} AS STRING), NULL)" for entity_id, condition in _entities(groups).items())
    inputs = [f"CAST({sql} AS {kind}) AS {name}" for (sql, kind), name in _inputs(groups).items()]
    return typed.selectExpr(
        f"xxhash64(`{source.event_id}`) AS event", f"`{source.time}`", *ARRIVAL, "ts_ms",
        f"array({ids}) AS entities", *inputs,
    )  # fmt: skip


def by_entity(groups: Iterable[FeatureGroup], events: DataFrame, tasks: int | None = None) -> DataFrame:
    """Contributions by entity: a row per event and entity, those of one entity in one partition: slot (its place in `slots`), entity, the other columns.

    Args:
        groups: The declarations.
        events: Their contributions.
        tasks: The number of partitions; None for Spark's own.
    """
    groups = list(groups)
    rows = events.selectExpr("posexplode(entities) AS (slot, entity)", "ts_ms", *PLACE, *_inputs(groups).values())
    rows = rows.where("entity IS NOT NULL")
    return rows.repartition("slot", "entity") if tasks is None else rows.repartition(tasks, "slot", "entity")


def slots(groups: Iterable[FeatureGroup]) -> dict[str, int]:
    """The SQL of an entity's id → the place of the entity among those of the groups."""
    return {entity_id: place for place, entity_id in enumerate(_entities(groups))}


def input_names(groups: Iterable[FeatureGroup], group: FeatureGroup) -> list[str]:
    """The columns of the inputs of one of the groups."""
    names = _inputs(groups)
    return [names[one.sql, one.sql_type] for one in group.inputs]


def different_inputs(groups: Iterable[FeatureGroup]) -> list[tuple[str, str]]:
    """The SQL and the type of each of the different inputs of groups, in the order of their columns."""
    return list(_inputs(groups))


def _entities(groups: Iterable[FeatureGroup]) -> dict[str, str]:
    return {group.entity_sql: group.has_entity_sql for group in groups}


def _inputs(groups: Iterable[FeatureGroup]) -> dict[tuple[str, str], str]:
    different = dict.fromkeys((one.sql, one.sql_type) for group in groups for one in group.inputs)
    return {one: f"input_{index}" for index, one in enumerate(different)}
