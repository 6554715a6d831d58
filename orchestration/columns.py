"""The columns of each table and their lineage, as Dagster shows them; both are derived from the declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import sqlglot
from sqlglot import exp

from features.declaration import FeatureGroup, columns_read
from features.model import Model
from features.sources import ColumnType, EventSource

Columns = tuple[tuple[str, str, str], ...]


def schema(*columns: tuple[str, str, str]) -> Mapping[str, Any]:
    """Returns the definition metadata of an asset with the columns of its table. A column is (name, type, description)."""
    return {"dagster/column_schema": dg.TableSchema([dg.TableColumn(name, kind, description=text) for name, kind, text in columns])}


def sql_columns(ddl: str) -> Columns:
    """Returns the columns of a schema that is written as SQL, such as `id BIGINT, name STRING`."""
    table = sqlglot.parse_one(f"CREATE TABLE t ({ddl})", dialect="spark")
    columns = table.find_all(exp.ColumnDef)
    return tuple((column.name, column.kind.sql("spark") if column.kind else "", "") for column in columns)


def event_columns(source: EventSource) -> Columns:
    """Returns the columns of a source's events table."""
    contract = tuple((column.name, column.type.value, "required" if column.required else "optional") for column in source.columns)
    return (
        *contract,
        ("ts_ms", "BIGINT", "time of the event, ms since 1970"),
        ("arrival_ms", "BIGINT", "when the event was loaded or reached Kafka"),
        ("origin", "STRING", "load or stream"),
        ("kafka_partition", "INT", ""),
        ("kafka_offset", "BIGINT", ""),
        ("day", "DATE", "UTC day of the event"),
    )


def archive_columns() -> Columns:
    """Returns the columns of the raw archive that Dagster shows."""
    return (
        ("partition", "INT", "of the topic"),
        ("offset", "BIGINT", "in the partition"),
        ("arrival_ms", "BIGINT", "by the broker's clock"),
        ("key", "BINARY", ""),
        ("value", "BINARY", "the bytes of the message"),
    )


def tile_columns(group: FeatureGroup) -> Columns:
    """Returns the columns of the group's tiles."""
    partials = tuple(
        (feature.name, group.partial_sql_type(index), f"partial of: {feature.description}")
        for index, feature in enumerate(group.features)
    )
    return (
        *_tile_columns(group),
        ("events", "BIGINT", "number of events"),
        *partials,
        ("day", "DATE", "UTC day of the tile"),
    )


def closed_tile_columns(group: FeatureGroup) -> Columns:
    """Returns the columns of the speed layer's closed tiles."""
    values = tuple((feature.name, "DOUBLE", f"in this tile: {feature.description}") for feature in group.model_features)
    if group.model_names != group.feature_names:
        values += (("lists", "MAP<STRING, STRING>", "in this tile, as JSON: the features that are lists"),)
    entity, *times = _tile_columns(group)
    return (
        entity,
        ("fingerprint", "STRING", "version of the declaration"),
        *times,
        *values,
        ("packed", "BINARY", "the packed tile"),
        ("tile_end", "TIMESTAMP", ""),
    )


def _tile_columns(group: FeatureGroup) -> Columns:
    return (
        ("entity", group.entity_type.value, group.entity_text),
        ("tile_start_ms", "BIGINT", f"tiles are {group.tile_ms} ms long"),
        ("first_ms", "BIGINT", "earliest event"),
        ("last_ms", "BIGINT", "latest event"),
    )


def view_columns(group: FeatureGroup) -> Columns:
    """Returns the columns of the group's batch view."""
    return (
        ("entity", group.entity_type.value, group.entity_text),
        ("batch_end_ms", "BIGINT", "the view has all events before this instant"),
        ("fingerprint", "STRING", "version of the declaration"),
        ("newest_event_ms", "BIGINT", "the entity's latest event"),
        ("packed", "BINARY", "the packed value for the online store"),
        *_value_columns(group),
    )


def training_columns(model: Model) -> Columns:
    """Returns the columns of a model's training set."""
    group, vector = model.group, model.vector
    values = tuple(
        (f"{entry.prefix}{name}", kind, text) for entry in vector.inputs for name, kind, text in _value_columns(entry.group)
    )
    keys = {key: (kind, entry.group.name) for entry in reversed(vector.inputs[1:]) for key, kind in entry.key_types.items()}
    points = [(key, kind.value, f"of the entity of {name}") for key, (kind, name) in keys.items()]
    kinds = {ColumnType.TIMESTAMP: "BIGINT"}
    points += [(column.name, kinds.get(column.type, column.type.value), "what a request tells") for column in model.request]
    batch = [(f"batch_{name}", kind, f"as of the midnight before q: {text}") for name, kind, text in values]
    return (
        ("entity", group.entity_type.value, group.entity_text),
        ("q_ms", "BIGINT", "the instant of the label"),
        ("label", model.objective.label_sql_type, f"1: {model.label_text}" if model.labels is None else model.label_text),
        ("split", "STRING", "train, gap or evaluation"),
        *points,
        *values,
        *batch,
    )


def _value_columns(group: FeatureGroup) -> Columns:
    return tuple((feature.name, group.value_sql_type(index), feature.description) for index, feature in enumerate(group.features))


def feature_lineage(group: FeatureGroup, events: dg.AssetKey) -> Mapping[str, Any]:
    """Returns lineage metadata: each feature depends on the event columns that its declaration reads."""
    time, entity = group.source.time, group.entity_names
    deps = {feature.name: [*columns_read(feature), time, *entity] for feature in group.features}
    return _lineage({"entity": list(entity), **deps}, events)


def same_columns(names: tuple[str, ...], upstream: dg.AssetKey) -> Mapping[str, Any]:
    """Returns lineage metadata: each column depends on the upstream column of the same name."""
    return _lineage({name: [name] for name in names}, upstream)


def _lineage(columns: Mapping[str, list[str]], upstream: dg.AssetKey) -> Mapping[str, Any]:
    deps = {name: [dg.TableColumnDep(upstream, read) for read in dict.fromkeys(reads)] for name, reads in columns.items()}
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}
