"""The job of a source: Flink SQL that is generated from the declarations of its groups.

The job reads the source's topic and writes a topic of contributions. Each message has a contribution, even a message that does not fit, so that the
writer knows how far the job has read. A contribution is a JSON object:

    {"p": partition, "o": offset, "a": arrival (text, UTC), "v": the verdict of `speed.flink.contract`,
     "t": time of the event in ms, "e": its id, "n0"…: per slot of `speed.stream.slots` the id of the entity or null, "i0"…: the different inputs}

An input that Spark hashes is not hashed by the job. The writer hashes it (`speed.flink.rows`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlglot
from sqlglot import exp

from features.declaration import FeatureGroup, columns_read
from features.declaration.entity import MAX_ENTITY_LENGTH, SEPARATOR
from features.project import Project
from features.sources import Column, ColumnType, EventSource
from speed.engine import FITS
from speed.flink.contract import Reading, judged_sql, text
from speed.flink.expressions import UntranslatableError, columns_used, condition_sql
from speed.stream import different_inputs, slots

_HASHED = re.compile(r"XXHASH64\(`([^`]+)`\)", re.IGNORECASE)
_DECIMAL = re.compile(r"CAST\(`([^`]+)` \* 1000000 AS BIGINT\)", re.IGNORECASE)
_COLUMN = re.compile(r"`([^`]+)`")


class InputColumn(NamedTuple):
    """The form of an input in a contribution.

    Attributes:
        text: Whether its values are texts.
        hashed: Whether the writer hashes its values.
    """

    text: bool
    hashed: bool


@dataclass(frozen=True)
class Job:
    """A job of Flink.

    Attributes:
        name: The name of the job and of its topic. Jobs with the same name write the same rows.
        select: The query of contributions over a table `messages`.
        inputs: The form of each of the different inputs.
        entities: The number of slots.
    """

    name: str
    select: str
    inputs: tuple[InputColumn, ...]
    entities: int

    @property
    def columns(self) -> str:
        """The columns of the contributions with their types, as in CREATE TABLE."""
        entities = [f"n{slot} STRING" for slot in range(self.entities)]
        inputs = [f"i{index} {'STRING' if column.text else 'BIGINT'}" for index, column in enumerate(self.inputs)]
        return ", ".join(["p INT", "o BIGINT", "a STRING", "v INT", "t BIGINT", "e STRING", *entities, *inputs])

    def statements(
        self, source: EventSource, options: Mapping[str, str], offsets: Mapping[int, int], partitions: Iterable[int]
    ) -> str:
        """Returns the statements that start the job.

        Args:
            source: The source.
            options: The options of Flink's Kafka connector (`infra.kafka.flink_options`).
            offsets: Partition → the offset at which the job begins to read; 0 for a partition that is not in it.
            partitions: The partitions of the source's topic.
        """
        starts = ";".join(f"partition:{partition},offset:{offsets.get(partition, 0)}" for partition in sorted(partitions))
        reads = {
            **options, "topic": source.topic, "value.format": "raw", "scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": starts,
            "scan.topic-partition-discovery.interval": "10 s", "properties.isolation.level": "read_committed", "properties.group.id": self.name,
            # Small parts, so that the partitions of a backlog advance side by side.
            "properties.max.partition.fetch.bytes": "131072",
        }  # fmt: skip
        writes = {
            **options, "topic": self.name, "value.format": "json", "value.json.encode.decimal-as-plain-number": "true",
            # One request per contribution would cost the broker as much CPU as Flink.
            "sink.delivery-guarantee": "at-least-once", "properties.linger.ms": "5",
        }  # fmt: skip
        metadata = (
            "`partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL, `timestamp` TIMESTAMP_LTZ(3) METADATA VIRTUAL"
        )
        return (
            f"SET 'pipeline.name' = {text(self.name)};\n"
            f"CREATE TEMPORARY TABLE messages (`value` BYTES, {metadata}) WITH ({_options({'connector': 'kafka', **reads})});\n"
            f"CREATE TEMPORARY TABLE contributions ({self.columns}) WITH ({_options({'connector': 'kafka', **writes})});\n"
            f"INSERT INTO contributions {self.select};\n"
        )


def job_of(groups: Sequence[FeatureGroup], generation: str) -> Job:
    """Returns the job of groups of one source.

    Args:
        groups: The versions of the groups.
        generation: A text on which the name of the job depends as well, such as the name of the checkpoint.

    Raises:
        UntranslatableError: A declaration has an expression that Flink may read otherwise than Spark.
    """
    source = groups[0].source
    texts, keys = {source.event_id}, dict[str, list[str]]()
    for group in groups:
        texts |= {*group.entity_names, *(name for feature in group.features for name in columns_read(feature))}
        for declared in group.inputs:
            for name, used in columns_used(declared.sql)[1].items():
                keys[name] = list(dict.fromkeys([*keys.get(name, []), *used]))
    reading = Reading(source, frozenset(texts), keys)
    owners = {
        group.inputs[group.input_of[index]]: f"The feature {feature.name} of {group.name}"
        for group in groups
        for index, feature in enumerate(group.features)
    }
    owner_of = {(declared.sql, declared.sql_type): owner for declared, owner in owners.items()}
    columns = {"v": "verdict"}
    columns |= {"t": reading.column(source.time), "e": reading.column(source.event_id)}
    entity_columns = {group.entity_sql: group.entity_columns for group in groups}
    for sql, slot in slots(groups).items():
        columns[f"n{slot}"] = _entity(entity_columns[sql], reading)
    inputs = []
    for index, key in enumerate(different_inputs(groups)):
        columns[f"i{index}"], column = _input(key[0], reading, owner_of[key])
        inputs.append(column)
    values = ", ".join(
        f"CASE WHEN verdict = {FITS} THEN {sql} END AS {name}" if name != "v" else "verdict AS v" for name, sql in columns.items()
    )
    select = f"SELECT `partition` AS p, `offset` AS o, arrival AS a, {values} FROM {judged_sql(reading, 'messages')}"
    job = Job("", select, tuple(inputs), len(entity_columns))
    digest = hashlib.sha256(f"{generation} {select} {job.columns}".encode()).hexdigest()[:12]
    return Job(f"{source.topic}.contributions.{digest}", select, job.inputs, job.entities)


def check_translations(project: Project) -> None:
    """Checks that Flink can compute all groups of a project.

    Raises:
        UntranslatableError: As in `job_of`.
    """
    for source in project.sources:
        if groups := project.groups_of(source):
            job_of(groups, "")


def _options(options: Mapping[str, str]) -> str:
    return ", ".join(f"{text(name)} = {text(value)}" for name, value in options.items())


def _entity(columns: Sequence[Column], reading: Reading) -> str:
    """Returns the SQL of the id of an entity as a text; it is NULL if the event has no such entity."""
    values = [reading.column(column.name) for column in columns]
    present = [
        f"{value} IS NOT NULL"
        if column.type is ColumnType.INT64
        else f"COALESCE(CHAR_LENGTH({value}), 0) BETWEEN 1 AND {MAX_ENTITY_LENGTH}"
        for column, value in zip(columns, values, strict=True)
    ]
    texts = [f"CAST({value} AS STRING)" for value in values]
    if len(texts) > 1:
        texts = [f"REPLACE(REPLACE({value}, '~', '~0'), '/', '~1')" for value in texts]
    joined = f" || '{SEPARATOR}' || ".join(texts)
    return f"CASE WHEN {' AND '.join(present)} THEN {joined} END"


def _input(sql: str, reading: Reading, owner: str) -> tuple[str, InputColumn]:
    """Returns an input in Flink SQL, with its form in a contribution."""
    tree = sqlglot.parse_one(sql, dialect="spark")
    where, value = None, tree
    if isinstance(tree, exp.Case) and not tree.this and len(tree.args["ifs"]) == 1 and tree.args.get("default") is None:
        where, value = tree.args["ifs"][0].this, tree.args["ifs"][0].args["true"]
    spelled = value.sql(dialect="spark")
    name = next((match[1] for pattern in (_HASHED, _DECIMAL, _COLUMN) if (match := pattern.fullmatch(spelled))), None)
    column = reading.source.column(name) if name else None
    if spelled == "1":
        result, kind = "CAST(1 AS BIGINT)", InputColumn(text=False, hashed=False)
    elif column and column.type in (ColumnType.STRING, ColumnType.INT64, ColumnType.DECIMAL):
        result = reading.column(column.name)
        kind = InputColumn(column.type is ColumnType.STRING, bool(_HASHED.fullmatch(spelled)))
    else:
        raise UntranslatableError(owner, spelled)
    if where is None:
        return result, kind
    # `x IS NOT NULL` of a time or a map does not occur here, because such inputs are refused above.
    return f"CASE WHEN {condition_sql(where.sql(dialect='spark'), reading, owner)} THEN {result} END", kind
