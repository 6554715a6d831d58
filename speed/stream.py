"""The plans of the speed layer's queries: Kafka → messages → judged events → contributions to the entities of all groups of a source.

Reads a source's topic; returns messages, events that fit the contract, and contributions, with one row per event. An event from the future is refused
here, before it can move the watermark. A backlog is read in micro-batches of at most `settings.speed_batch_events` messages, so that the memory is
bounded. Spark shares this bound among the partitions in proportion to their backlogs, so that all partitions reach their ends at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyspark.sql import DataFrame, SparkSession

from features.declaration import FeatureGroup
from features.judgement import message_projections
from features.sources import EventSource
from infra.kafka import FIRST_ARRIVAL_MS, spark_reader_options
from infra.settings import Settings

#: The place of a message in its topic: column of an event → column of a message.
PLACE = {"kafka_partition": "partition", "kafka_offset": "offset"}
#: The columns of `features.arrival.ARRIVAL_ORDER`.
ARRIVAL = ("arrival_ms", *PLACE)


def _arrival_ms_sql() -> str:
    """Returns the SQL of the time at which a message arrived, in ms.

    It is the time of the broker's clock, or of the producer's clock if the topic has CreateTime, and at most now. A time before the first Kafka
    (`FIRST_ARRIVAL_MS`) comes from a wrong clock: then the message counts as arrived when it is read.
    """
    # Spark writes an integer into the generated code, and would compile that code anew in each micro-batch. The code refers to a decimal instead.
    now = "CAST(unix_millis(current_timestamp()) AS DECIMAL(20, 0))"
    message_ms = f"CASE WHEN unix_millis(timestamp) >= {FIRST_ARRIVAL_MS} THEN CAST(unix_millis(timestamp) AS DECIMAL(20, 0)) END"
    return f"CAST(least({message_ms}, {now}) AS BIGINT)"


def messages(spark: SparkSession, settings: Settings, source: EventSource, at_most: int | None = None) -> DataFrame:
    """Returns the messages of a source's topic as a stream.

    The first run begins at the earliest message. If retention has deleted messages before they were read, the stream goes on with the next message.

    Args:
        spark: The speed layer's session.
        settings: The settings with the address of Kafka.
        source: The source.
        at_most: The bound on the messages of a micro-batch; 0 for no bound, None for the bound of the settings.

    Returns:
        A stream with the columns key, value, partition, offset and arrival_ms.
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
    """Judges messages by the contract of a source.

    Args:
        settings: The settings with how far the time of an event may lie in the future.
        frame: The messages: value, arrival_ms, and the columns to keep.
        source: The source with the contract.
        keep: Name → a column of the frame that stays under this name, which must differ from the columns of the source.

    Returns:
        The columns to keep, arrival_ms, the typed columns, ts_ms, and `_reason`: why the message does not fit, or NULL.
    """
    names = {**keep, "arrival_ms": "arrival_ms"}
    for projection in message_projections(source, names, "arrival_ms", settings.future_seconds * 1_000):
        frame = frame.selectExpr(*projection)
    return frame


def judged_events(spark: SparkSession, settings: Settings, source: EventSource, at_most: int | None = None) -> DataFrame:
    """Returns the events that fit the contract, as a stream: typed columns, `ts_ms`, `arrival_ms`, `kafka_partition`, `kafka_offset`."""
    return judged(settings, messages(spark, settings, source, at_most), source, PLACE).where("_reason IS NULL")


def contributions(groups: Iterable[FeatureGroup], typed: DataFrame) -> DataFrame:
    """Returns the contributions of events to groups of one source: a row per event, with only the columns that the tiles need.

    Args:
        groups: The declarations.
        typed: The source's typed columns, `ts_ms`, `arrival_ms`, `kafka_partition` and `kafka_offset`, as in the table of events.

    Returns:
        event (a hash of the event id), the source's time column (timestamp), arrival_ms, kafka_partition and kafka_offset (the order of arrival,
        `features.arrival`), ts_ms, entities (per slot the id of the entity as a text, or NULL), and input_0 … input_k (the different inputs of all
        groups).
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
    """Distributes contributions by entity: a row per event and entity. All rows of an entity are in one partition.

    Args:
        groups: The declarations.
        events: The contributions to the groups.
        tasks: The number of partitions; None for Spark's default.

    Returns:
        slot (the place of the entity in `slots`), entity (its id as a text), ts_ms, kafka_partition, kafka_offset, input_0 … input_k.
    """
    groups = list(groups)
    rows = events.selectExpr("posexplode(entities) AS (slot, entity)", "ts_ms", *PLACE, *_inputs(groups).values())
    rows = rows.where("entity IS NOT NULL")
    return rows.repartition("slot", "entity") if tasks is None else rows.repartition(tasks, "slot", "entity")


def slots(groups: Iterable[FeatureGroup]) -> dict[str, int]:
    """Returns the slots of groups: the SQL of an entity's id → the place of the entity among the different entities of the groups."""
    return {entity_id: place for place, entity_id in enumerate(_entities(groups))}


def input_names(groups: Iterable[FeatureGroup], group: FeatureGroup) -> list[str]:
    """Returns the columns of the inputs of `group`, which is one of the groups, in the order of its inputs."""
    names = _inputs(groups)
    return [names[one.sql, one.sql_type] for one in group.inputs]


def different_inputs(groups: Iterable[FeatureGroup]) -> list[tuple[str, str]]:
    """Returns the SQL and the type of each of the different inputs of groups, in the order of their columns."""
    return list(_inputs(groups))


def _entities(groups: Iterable[FeatureGroup]) -> dict[str, str]:
    return {group.entity_sql: group.has_entity_sql for group in groups}


def _inputs(groups: Iterable[FeatureGroup]) -> dict[tuple[str, str], str]:
    different = dict.fromkeys((one.sql, one.sql_type) for group in groups for one in group.inputs)
    return {one: f"input_{index}" for index, one in enumerate(different)}
