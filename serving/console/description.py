"""What the page says about the project and about the state of the deployment: declarations and the store's notes → JSON. Pure.

Times are milliseconds since 1970.
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

#: How a form names the type of a column.
_FORM_TYPES = {
    ColumnType.STRING: "text", ColumnType.INT64: "integer", ColumnType.DECIMAL: "decimal", ColumnType.TIMESTAMP: "time", ColumnType.MAP: "map",
}  # fmt: skip


class FeatureDescription(msgspec.Struct, frozen=True):
    """A declared feature.

    Attributes:
        name: Its name.
        description: One sentence for people.
        rule: How it is computed, such as "sum of amount".
        where: The SQL condition on its events, or None.
        window: The length of its window, such as "7d"; None for all time.
        exact_tail: Whether its window begins to the millisecond.
        is_list: Whether its value is a list.
    """

    name: str
    description: str
    rule: str
    where: str | None
    window: str | None
    exact_tail: bool
    is_list: bool


class GroupDescription(msgspec.Struct, frozen=True):
    """A declared group; `entity_type` is "integer" or "text"."""

    name: str
    description: str
    entity: str
    entity_type: str
    features: Sequence[FeatureDescription]


class FieldDescription(msgspec.Struct, frozen=True):
    """A field of a model's form. `group` is the group whose entity it identifies; None for a request column."""

    name: str
    type: str
    required: bool
    default: float | int | str | None
    group: str | None


class ModelDescription(msgspec.Struct, frozen=True):
    """A declared model: the fields of its requests, and what its prediction is the probability of."""

    name: str
    label: str
    budget_ms: float | None
    keys: Sequence[FieldDescription]
    request: Sequence[FieldDescription]


class ProjectDescription(msgspec.Struct, frozen=True):
    """The declarations of the project, in their order."""

    groups: Sequence[GroupDescription]
    models: Sequence[ModelDescription]


class GroupState(msgspec.Struct, frozen=True):
    """What is published of a group, its newest event in either layer, and the age of that event that an alert begins at."""

    name: str
    batch_end_ms: int | None
    published_at_ms: int | None
    entities: int
    newest_event_ms: int | None
    max_age_seconds: float


class StreamState(msgspec.Struct, frozen=True):
    """How far the speed layer is behind Kafka, and when it last said so."""

    lag: int | None
    lag_seconds: float | None
    rows_per_second: float | None
    written_at_ms: int | None


class VariantState(msgspec.Struct, frozen=True):
    """A variant of a model: its share of the entities, the registered version that answers, and why none does."""

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
    """The state of the deployment; `fault` says why the online store tells nothing about the groups."""

    now_ms: int
    groups: Sequence[GroupState]
    stream: StreamState | None
    models: Sequence[ModelState]
    fault: str


def project_description(project: Project) -> ProjectDescription:
    """The declarations of a project."""
    return ProjectDescription([_group(group) for group in project.groups], [_model(model) for model in project.models])


def group_state(settings: Settings, group: FeatureGroup, published: Published | None, newest_ms: int | None) -> GroupState:
    """The state of a group."""
    max_age_seconds = settings.bounds(group.name).max_age_seconds
    if published is None:
        return GroupState(group.name, None, None, 0, newest_ms, max_age_seconds)
    return GroupState(
        group.name, published.batch_end_ms, published.published_at_ms or None, published.entities, newest_ms, max_age_seconds
    )


def stream_state(progress: Mapping[str, Mapping[str, Any]]) -> StreamState | None:
    """The state of the speed layer, by what it wrote last; None where it has never written."""
    entry = progress.get("online")
    if entry is None:
        return None
    return StreamState(entry.get("lag"), entry.get("lag_seconds"), entry.get("rows_per_second"), entry.get("written_at_ms"))


def model_state(name: str, models: Models) -> ModelState:
    """The state of a model."""
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
    return ModelDescription(model.name, model.label_text, model.budget_ms, keys, request)
