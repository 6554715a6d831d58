"""The columns of each table for Dagster's UI, and from which columns they are made: both out of the declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import sqlglot
from sqlglot import exp

from features.declaration import FeatureGroup, columns_read
from features.project import Model
from features.sources import EventSource

Columns = tuple[tuple[str, str, str], ...]


def schema(*columns: tuple[str, str, str]) -> Mapping[str, Any]:
    """Definition metadata with the columns: (name, type, description)."""
    return {"dagster/column_schema": dg.TableSchema([dg.TableColumn(name, kind, description=text) for name, kind, text in columns])}


def sql_columns(ddl: str) -> Columns:
    """The columns of a schema in SQL."""
    table = sqlglot.parse_one(f"CREATE TABLE t ({ddl})", dialect="spark")
    return tuple((one.name, one.kind.sql("spark") if one.kind else "", "") for one in table.find_all(exp.ColumnDef))


def event_columns(source: EventSource) -> Columns:
    """The columns of the `events` table."""
    contract = tuple((column.name, column.type.value, "required" if column.required else "optional") for column in source.columns)
    return (
        *contract, ("ts_ms", "BIGINT", "time of the event, ms since 1970"), ("arrival_ms", "BIGINT", "when it was loaded or reached Kafka"),
        ("origin", "STRING", "load or stream"), ("kafka_partition", "INT", ""), ("kafka_offset", "BIGINT", ""), ("day", "DATE", "UTC day of the event"),
    )  # fmt: skip


def archive_columns() -> Columns:
    """The columns of the raw archive that people read."""
    return (
        ("partition", "INT", "of the topic"), ("offset", "BIGINT", "in the partition"), ("arrival_ms", "BIGINT", "by the broker's clock"),
        ("key", "BINARY", ""), ("value", "BINARY", "the message as it came"),
    )  # fmt: skip


def tile_columns(group: FeatureGroup) -> Columns:
    """The columns of the group's tiles."""
    partials = tuple(
        (one.name, group.partial_sql_type(index), f"partial of: {one.description}") for index, one in enumerate(group.features)
    )
    return (
        ("entity", group.entity_type.value, group.entity), ("tile_start_ms", "BIGINT", f"tiles are {group.tile_ms} ms long"),
        ("first_ms", "BIGINT", "earliest event"), ("last_ms", "BIGINT", "latest event"), ("events", "BIGINT", "how many"), *partials,
        ("day", "DATE", "UTC day of the tile"),
    )  # fmt: skip


def closed_tile_columns(group: FeatureGroup) -> Columns:
    """The columns of the speed layer's closed tiles."""
    values = tuple((one.name, "DOUBLE", f"of this tile alone: {one.description}") for one in group.model_features)
    if group.model_names != group.feature_names:
        values += (("lists", "MAP<STRING, STRING>", "of this tile alone, as JSON: the features that are lists"),)
    return (
        ("entity", group.entity_type.value, group.entity), ("fingerprint", "STRING", "version of the declaration"),
        ("tile_start_ms", "BIGINT", f"tiles are {group.tile_ms} ms long"), ("first_ms", "BIGINT", "earliest event"), ("last_ms", "BIGINT", "latest event"),
        *values, ("packed", "BINARY", "the tile to compute with"), ("tile_end", "TIMESTAMP", ""),
    )  # fmt: skip


def view_columns(group: FeatureGroup) -> Columns:
    """The columns of the group's batch view."""
    values = tuple((one.name, group.value_sql_type(index), one.description) for index, one in enumerate(group.features))
    return (
        ("entity", group.entity_type.value, group.entity), ("batch_end_ms", "BIGINT", "the view knows everything before"),
        ("fingerprint", "STRING", "version of the declaration"), ("newest_event_ms", "BIGINT", "the entity's latest event"),
        ("packed", "BINARY", "what the online store gets"), *values,
    )  # fmt: skip


def training_columns(model: Model) -> Columns:
    """The columns of a model's training set."""
    group = model.group
    values = [(one.name, group.value_sql_type(index), one.description) for index, one in enumerate(group.features)]
    batch = [(f"batch_{name}", kind, f"as of the midnight before q: {text}") for name, kind, text in values]
    return (
        ("entity", group.entity_type.value, group.entity), ("q_ms", "BIGINT", "the instant of the label"),
        ("label", "INT", f"1: {model.outcome.where} within {model.outcome.within}"), ("split", "STRING", "train or evaluation"), *values, *batch,
    )  # fmt: skip


def feature_lineage(group: FeatureGroup, events: dg.AssetKey) -> Mapping[str, Any]:
    """Metadata that leads each feature back to the columns of its events."""
    time, entity = group.source.time, group.entity
    deps = {one.name: [*columns_read(one), time, entity] for one in group.features}
    return _lineage({"entity": [entity], **deps}, events)


def same_columns(names: tuple[str, ...], upstream: dg.AssetKey, prefix: str = "") -> Mapping[str, Any]:
    """Metadata that leads each column to the column of the same name upstream."""
    return _lineage({f"{prefix}{name}": [name] for name in names}, upstream)


def _lineage(columns: Mapping[str, list[str]], upstream: dg.AssetKey) -> Mapping[str, Any]:
    deps = {name: [dg.TableColumnDep(upstream, one) for one in dict.fromkeys(found)] for name, found in columns.items()}
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}
