"""Describes the project and the state of the deployment for the page: declarations and published metadata → structs of JSON.

All functions are pure. Times are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from features.declaration import Feature, FeatureGroup
from features.model import Model
from features.project import Project
from features.sources import ColumnType
from features.windows import duration_text
from infra.settings import Settings
from serving.variants import Models
from store.protocol import Published

#: Type of a column → its name in a form of the page.
_FORM_TYPES = {
    ColumnType.STRING: "text", ColumnType.INT64: "integer", ColumnType.DECIMAL: "decimal", ColumnType.TIMESTAMP: "time", ColumnType.MAP: "map",
}  # fmt: skip


class FeatureDescription(msgspec.Struct, frozen=True):
    """A declared feature.

    Attributes:
        name: The name of the feature.
        description: The description of the feature, one sentence.
        rule: The aggregation and its column, such as "sum of amount".
        where: The SQL condition on the events, or None.
        window: The length of the window, such as "7d"; None for all time.
        exact_tail: Whether the tail of the window is exact to the millisecond.
        is_list: Whether the value is a list.
    """

    name: str
    description: str
    rule: str
    where: str | None
    window: str | None
    exact_tail: bool
    is_list: bool


class GroupDescription(msgspec.Struct, frozen=True):
    """A declared group. `entity_type` is "integer" or "text"."""

    name: str
    description: str
    entity: str
    entity_type: str
    features: Sequence[FeatureDescription]


class FieldDescription(msgspec.Struct, frozen=True):
    """A field of a model's form. `group` is the group whose entity the field identifies; None for a request column."""

    name: str
    type: str
    required: bool
    default: float | int | str | None
    group: str | None


class ModelDescription(msgspec.Struct, frozen=True):
    """A declared model: the fields of its requests (`keys` and `request`), in `label` the meaning of its label in words, and its objective."""

    name: str
    label: str
    objective: str
    budget_ms: float | None
    keys: Sequence[FieldDescription]
    request: Sequence[FieldDescription]


class ProjectDescription(msgspec.Struct, frozen=True):
    """The declarations of the project, in the order of the project."""

    groups: Sequence[GroupDescription]
    models: Sequence[ModelDescription]


class GroupState(msgspec.Struct, frozen=True):
    """The state of a group.

    Attributes:
        name: The name of the group.
        batch_end_ms: batch_end of the published view; None if nothing is published.
        published_at_ms: The time of the publication; None if it is unknown.
        entities: The number of published entities.
        newest_event_ms: The time of the newest event in either layer; None without events.
        max_age_seconds: The age of the newest event above which an alert is raised.
    """

    name: str
    batch_end_ms: int | None
    published_at_ms: int | None
    entities: int
    newest_event_ms: int | None
    max_age_seconds: float


class StreamState(msgspec.Struct, frozen=True):
    """The lag of the speed layer behind Kafka, in messages and in seconds, its rate, and the time when the speed layer reported them."""

    lag: int | None
    lag_seconds: float | None
    rows_per_second: float | None
    written_at_ms: int | None


class VariantState(msgspec.Struct, frozen=True):
    """A variant of a model: its share of the entities, the registered version that answers, and why the version with the alias does not answer."""

    name: str
    share: float
    version: str | None
    fault: str


class ModelState(msgspec.Struct, frozen=True):
    """The variants of a model, the champion first; `experiment` is the name of the running experiment."""

    name: str
    experiment: str | None
    shadow: bool
    variants: Sequence[VariantState]


class Status(msgspec.Struct, frozen=True):
    """The state of the deployment. `fault` is why the online store could not be read; empty if it was read."""

    now_ms: int
    groups: Sequence[GroupState]
    stream: StreamState | None
    models: Sequence[ModelState]
    fault: str


def project_description(project: Project) -> ProjectDescription:
    """Describes the declarations of a project."""
    return ProjectDescription([_group(group) for group in project.groups], [_model(model) for model in project.models])


def group_state(settings: Settings, group: FeatureGroup, published: Published | None, newest_ms: int | None) -> GroupState:
    """Returns the state of a group, from its published metadata and its newest event."""
    max_age_seconds = settings.bounds(group.name).max_age_seconds
    if published is None:
        return GroupState(group.name, None, None, 0, newest_ms, max_age_seconds)
    return GroupState(
        group.name, published.batch_end_ms, published.published_at_ms or None, published.entities, newest_ms, max_age_seconds
    )


def stream_state(progress: Mapping[str, Mapping[str, Any]]) -> StreamState | None:
    """Returns the state of the speed layer from its last report; None if it has never reported.

    Args:
        progress: Streaming query → its progress (`store.protocol.Store.progress`).
    """
    entry = progress.get("online")
    if entry is None:
        return None
    return StreamState(entry.get("lag"), entry.get("lag_seconds"), entry.get("rows_per_second"), entry.get("written_at_ms"))


def model_state(name: str, models: Models) -> ModelState:
    """Returns the state of a model and its variants."""
    experiment = models.experiment
    shares: Mapping[Any, float] = experiment.shares if experiment else {"champion": 1.0}
    variants = [
        VariantState(variant, shares.get(variant, 0.0), model.current.version if model.current else None, model.fault)
        for variant, model in models.followed.items()
    ]
    return ModelState(name, experiment.name if experiment else None, bool(experiment and experiment.shadow), variants)


def _group(group: FeatureGroup) -> GroupDescription:
    features = [_feature(feature) for feature in group.features]
    return GroupDescription(group.name, group.description, group.entity_text, _FORM_TYPES[group.entity_type], features)


def _feature(feature: Feature) -> FeatureDescription:
    window = feature.window
    rule = feature.aggregation.kind.replace("_", " ")
    return FeatureDescription(
        name=feature.name,
        description=feature.description,
        rule=f"{rule} of {feature.of}" if feature.of else rule,
        where=feature.where,
        window=duration_text(window.size_ms) if window is not None else None,
        exact_tail=window is not None and window.exact,
        is_list=feature.aggregation.value_sql_type.startswith("ARRAY"),
    )


def _model(model: Model) -> ModelDescription:
    groups = {key: entry.group.name for entry in reversed(model.vector.inputs) for key in entry.keys}
    keys = [FieldDescription(key, _FORM_TYPES[kind], True, None, groups[key]) for key, kind in model.vector.keys.items()]
    request = [
        FieldDescription(column.name, _FORM_TYPES[column.type], column.required, column.default, None) for column in model.request
    ]
    return ModelDescription(model.name, model.label_text, str(model.objective), model.budget_ms, keys, request)
