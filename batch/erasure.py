"""Erasure: deletes every row of an entity from every table of the lake, and from the files of older versions of the tables.

Reads and writes all Delta tables of a project, of every version of a declaration. The order matters. The archive comes before the events, so that a
later ingestion of the archive restores no event. The files come last, after the tiles of other entities have been folded again. `count_rows` is the
proof: it counts the rows of the entity in the current version of each table.

A row belongs to the entity if the entity's column has its id, or if the row's id of several columns has the entity's id as a part. A message that
does not fit the contract (in the archive, the quarantine and the dead letters) belongs to the entity if its JSON has the id in that column; if that
value cannot be read, also if its text contains the id as a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from batch.events import ingest_archive
from batch.housekeeping import delete_folder, delta_tables
from batch.load import QUARANTINE
from batch.tables import retry_conflicts, table_state
from features.declaration import FeatureGroup, ModelInput
from features.declaration.entity import escaped, part_sql
from features.project import Project
from features.sources import Column, ColumnType, EventSource
from infra.errors import InputError, NotReadyError
from infra.kafka import SERVED_TOPIC
from infra.settings import Settings

_VERSION = r"[0-9a-f]{16}"
#: What the name of the archive of a source begins with, before that of its table.
_ARCHIVE = "raw_"
_USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"


@dataclass(frozen=True)
class Entity:
    """An entity: the column of a source that identifies it, and its id, of that column's type.

    If several columns identify the entities of a group, all entities with this id in this column are erased.
    """

    column: str
    id: int | str

    def __str__(self) -> str:
        return f"{self.column}={self.id}"

    @property
    def sql(self) -> str:
        """The id as a SQL literal."""
        return _literal(self.id)


def entity_of(project: Project, text: str) -> Entity:
    """Returns the entity that a text such as "user_id=17" names.

    Raises:
        InputError: No source has such a column of texts or integers, or the id is not of the column's type.
    """
    name, _, value = text.partition("=")
    columns = [
        column
        for source in project.sources
        if (column := source.column(name)) and column.type in (ColumnType.INT64, ColumnType.STRING)
    ]
    if not columns or not value:
        known = ", ".join(sorted({name for group in project.groups for name in group.entity_names}))
        raise InputError(f"The entity {text!r} cannot be read.", f"Write COLUMN=ID; the entities of the groups are: {known}.")
    if columns[0].type is ColumnType.STRING:
        return Entity(name, value)
    try:
        number = int(value)
    except ValueError:
        raise InputError(f"The id {value!r} of {name} is not an integer.", f"Write it as {name}=17.") from None
    if not -(2**63) <= number < 2**63:
        raise InputError(f"The id {value!r} of {name} is not an integer of 64 bits, so no event has it.", "Check the id.")
    return Entity(name, number)


def sources_of(project: Project, entity: Entity) -> tuple[EventSource, ...]:
    """Returns the sources whose events have the entity's column."""
    return tuple(source for source in project.sources if source.column(entity.column))


def groups_of(project: Project, entity: Entity) -> tuple[FeatureGroup, ...]:
    """Returns the groups whose entities are identified by the entity's column, alone or with other columns."""
    return tuple(group for group in project.groups if entity.column in group.entity_names)


def is_of(group: FeatureGroup, entity: Entity) -> str:
    """Returns a SQL condition that is true for the rows of the entity, by the id in the column `entity`."""
    if not group.is_composite:
        return f"entity = {entity.sql}"
    return f"{part_sql('entity', group.entity_names.index(entity.column))} = {_literal(escaped(entity.id))}"


def names_entity(source: EventSource, entity: Entity, text: str, key: str = "NULL") -> str:
    """Returns a SQL condition that is true for a message of the entity.

    Args:
        source: The contract.
        entity: The entity.
        text: An expression of the message's text.
        key: An expression of the message's key, as text.
    """
    column = source.column(entity.column)
    assert column is not None
    schema = ", ".join(f"`{column.name}` STRING" for column in source.columns)
    json = f"from_json({text}, {_literal(schema)})"
    value = _typed(column, json)
    word = _literal(rf"(?<![\p{{L}}\p{{N}}_]){re.escape(str(entity.id))}(?![\p{{L}}\p{{N}}_])")
    fits = " AND ".join(f"{_typed(other, json)} IS NOT NULL" for other in source.columns if other.required)
    keyed = f"coalesce({key} = {_literal(str(entity.id))}, false)" if entity.column == source.key else "false"
    return (
        f"coalesce({value} = {entity.sql}, false) "
        f"OR ({value} IS NULL AND NOT ({fits}) AND ({keyed} OR coalesce(regexp_like({text}, {word}), false)))"
    )


def conditions(spark: SparkSession, settings: Settings, project: Project, entity: Entity) -> dict[str, str]:
    """Returns for each table that can hold the entity, by name, a SQL condition that is true for the entity's rows.

    Tables of older versions of a declaration are included. Tables that do not exist are left out.
    """
    matching: dict[str, str] = {}
    for source in sources_of(project, entity):
        matching[source.archive_table] = names_entity(source, entity, "CAST(value AS STRING)", "CAST(key AS STRING)")
        matching[source.table] = f"`{entity.column}` = {entity.sql}"
        matching[QUARANTINE] = " OR ".join(filter(None, (matching.get(QUARANTINE), names_entity(source, entity, "content"))))
    groups = {group.name: group for group in groups_of(project, entity)}
    present = delta_tables(spark, settings, project)
    if groups:
        served = {name: _served_id_is(group, entity) for name, group in groups.items()}
        matching[SERVED_TOPIC] = " OR ".join(f"(`group` = {_literal(name)} AND {condition})" for name, condition in served.items())
        keyed = re.compile(
            rf"(?:tiles|history)_(?P<tiles>{'|'.join(groups)})_{_VERSION}|view_(?P<view>{'|'.join(groups)})|(?P<realtime>{'|'.join(groups)})_realtime"
        )
        matching |= {
            name: is_of(groups[str(match[match.lastgroup or 0])], entity) for name in present if (match := keyed.fullmatch(name))
        }
        for model in project.models:
            keys = [_key(entry, entity) for entry in model.vector.inputs if entry.group.name in groups]
            # In a training set the id of the first input is the column `entity`.
            others = [_key(entry, entity) for entry in model.vector.inputs[1:] if entry.group.name in groups]
            rows = [*_any_is(others, entity), *([is_of(model.group, entity)] if model.group.name in groups else [])]
            matching |= dict.fromkeys((model.training_table, model.logged_training_table), " OR ".join(rows)) if rows else {}
            matching |= {model.labels.table: " OR ".join(_any_is(keys, entity))} if model.labels and keys else {}
    return {name: condition for name, condition in matching.items() if name in present}


def undeclared_tables(spark: SparkSession, settings: Settings, project: Project) -> list[str]:
    """The names of braid's tables whose source, group or model the project does not declare any more.

    Nobody knows which entities they are about, so an erasure does not search them. The table of events of such a source is known by its archive.
    """
    declared = {QUARANTINE, SERVED_TOPIC}
    declared |= {name for source in project.sources for name in (source.table, source.archive_table)}
    for model in project.models:
        declared |= {model.training_table, model.logged_training_table, *([model.labels.table] if model.labels else [])}
    groups = "|".join(group.name for group in project.groups)
    of_groups = re.compile(rf"(?:tiles|history)_(?:{groups})_{_VERSION}|view_(?:{groups})|(?:{groups})_realtime")
    present = [name for name in delta_tables(spark, settings, project) if name not in declared and not of_groups.fullmatch(name)]
    events = (name.removeprefix(_ARCHIVE) for name in present if name.startswith(_ARCHIVE))
    return sorted({*present, *(name for name in events if table_state(spark, settings.table(name)))})


def _served_id_is(group: FeatureGroup, entity: Entity) -> str:
    """Returns the condition of `is_of` for the log of served answers, in which every id is a text."""
    return is_of(group, entity) if group.is_composite else f"entity = {_literal(str(entity.id))}"


def _key(entry: ModelInput, entity: Entity) -> str:
    """Returns the key of a model's input that has the value of the entity's column."""
    return entry.keys[entry.group.entity_names.index(entity.column)]


def _any_is(columns: Iterable[str], entity: Entity) -> list[str]:
    return [f"`{column}` = {entity.sql}" for column in dict.fromkeys(columns)]


def erase_rows(spark: SparkSession, settings: Settings, project: Project, entity: Entity) -> tuple[dict[str, int], list[date]]:
    """Deletes the entity's rows from every table.

    Returns:
        Table → the number of deleted rows; and the days of the entity's events, for which the tiles of other groups must be folded again.
    """
    deleted: dict[str, int] = {}
    days: set[date] = set()
    matching = conditions(spark, settings, project, entity)
    for source in sources_of(project, entity):
        if source.archive_table in matching:
            deleted[source.archive_table] = _delete(spark, settings, source.archive_table, matching[source.archive_table])
            _skip_deletion(spark, settings, source)
    matching = conditions(spark, settings, project, entity)  # again: the table of events may be new
    for source in sources_of(project, entity):
        if source.table in matching:
            rows = spark.read.format("delta").load(settings.table(source.table)).where(matching[source.table])
            days |= {row["day"] for row in rows.select("day").distinct().collect()}
    for name in matching.keys() - deleted.keys():
        deleted[name] = _delete(spark, settings, name, matching[name])
    return deleted, sorted(days)


def forget_days(spark: SparkSession, settings: Settings, project: Project, entity: Entity, days: Iterable[date]) -> None:
    """Deletes the tiles of the days, and the history, of other groups' versions that are no longer declared.

    An aggregate of another entity may contain this entity's id, such as the most frequent buyers of an item. The tiles of a declared
    version are folded again. The tiles of an older version are not, so they are deleted.
    """
    declared = {f"{kind}_{group.name}_{group.fingerprint}" for group in project.groups for kind in ("tiles", "history")}
    dates = ", ".join(f"DATE'{day}'" for day in days)
    groups = [group for source in sources_of(project, entity) for group in project.groups_of(source)]
    others = "|".join(group.name for group in groups if entity.column not in group.entity_names)
    for name in delta_tables(spark, settings, project) if dates and others else ():
        if name not in declared and re.fullmatch(rf"(tiles|history)_({others})_{_VERSION}", name):
            _delete(spark, settings, name, f"day IN ({dates})" if name.startswith("tiles_") else "true")


def erase_files(spark: SparkSession, settings: Settings, names: Iterable[str]) -> list[str]:
    """Deletes the files that only older versions of the tables read. Returns the tables for which this failed.

    VACUUM LITE deletes only files that the log names, so it never deletes a file that a stream has written and not committed yet.
    """
    session = spark.newSession()
    session.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    failed = []
    for name in names:
        try:
            session.sql(f"VACUUM delta.`{settings.table(name)}` LITE RETAIN 0 HOURS")
            # The change feed holds the deleted rows. No stream writes to this folder.
            delete_folder(spark, f"{settings.table(name)}/_change_data")
        except Exception:  # noqa: BLE001 — the log does not go back far enough, or the files cannot be deleted; the caller reports it
            failed.append(name)
    return failed


def count_rows(spark: SparkSession, settings: Settings, project: Project, entity: Entity) -> dict[str, int]:
    """Returns the current number of the entity's rows, by table."""
    return {
        name: spark.read.format("delta").load(settings.table(name)).where(condition).count()
        for name, condition in conditions(spark, settings, project, entity).items()
    }


def _delete(spark: SparkSession, settings: Settings, name: str, condition: str) -> int:
    """Deletes rows and returns their number. The commit repeats the table's last `userMetadata`, which contains the batch_end of a view."""
    path = settings.table(name)

    def commit() -> int:
        table = DeltaTable.forPath(spark, path)
        rows = table.toDF().where(condition).count()
        if rows:
            metadata = (
                table.history().where("userMetadata IS NOT NULL").orderBy("version", ascending=False).select("userMetadata").first()
            )
            session = spark.newSession()
            if metadata:
                session.conf.set(_USER_METADATA, metadata[0])
            DeltaTable.forPath(session, path).delete(condition)
        return rows

    return retry_conflicts(commit)


def _skip_deletion(spark: SparkSession, settings: Settings, source: EventSource) -> None:
    """Ingests the archive up to the deletion, and records in the log of the events that the deletion has been processed.

    The next ingestion then begins after the deletion, so it does not need the files that are deleted later.
    """
    archive, path = table_state(spark, settings.table(source.archive_table)), settings.table(source.table)
    ingest_archive(spark, settings, source)
    events = table_state(spark, path)
    if archive is None or events is None or events.transactions.get(archive.id, -1) >= archive.version:
        return
    session = spark.newSession()
    session.conf.set("spark.databricks.delta.write.txnAppId", archive.id)
    session.conf.set("spark.databricks.delta.write.txnVersion", str(archive.version))
    retry_conflicts(lambda: DeltaTable.forPath(session, path).delete("false"))
    events = table_state(spark, path)
    if events is None or events.transactions.get(archive.id, -1) < archive.version:
        raise NotReadyError(
            f"The deletion from the archive of {source.name} could not be recorded; no file was deleted.", "Run the command again."
        )


def _typed(column: Column, json: str) -> str:
    """Returns SQL for the typed column of a message; the value is NULL if it cannot be read."""
    return column.typed_sql().replace(f"`{column.name}`", f"{json}.`{column.name}`")


def _literal(value: int | str) -> str:
    if isinstance(value, int):
        return f"{value}L"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
