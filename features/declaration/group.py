"""The feature group: the declaration of the features of one kind of entity, from which every layer is compiled.

Batch and speed evaluate the SQL of `inputs`. Tiles, view, merge and training set follow from the aggregations and windows of
`features`. Every packed value holds the `fingerprint`, the version of the declaration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from features.aggregations import Value
from features.checks import GroupChecks
from features.declaration.entity import entity_columns, has_value_sql, id_of, id_sql, values_of
from features.declaration.feature import Feature
from features.declaration.inputs import Input, columns_read, input_of
from features.errors import DeclarationError
from features.names import FEATURE_NAME, twin_of
from features.sources import Column, ColumnType, EventSource
from features.windows import BUFFER_MS, DAY_MS, MINUTE_MS, Window, duration_text, parse_duration

#: Prefixes of keys under which the online store keeps its own data.
_RESERVED_GROUPS = {"braid", "speed", "alerts"}
#: Columns of the tables of a group that braid adds.
_RESERVED = {
    "entity", "tile_start_ms", "tile_end", "first_ms", "last_ms", "newest_event_ms", "events", "day", "batch_end_ms", "q_ms", "label",
    "split", "id", "fingerprint", "packed", "lists",
}  # fmt: skip


@dataclass(frozen=True)
class FeatureGroup:
    """The features of one kind of entity, from one source.

    Args:
        name: The group's name: the prefix of its keys in the online store.
        entity: The column of the source that identifies the entity; or several columns, such as ("card_id", "terminal_id"), whose values
            identify it together. An event with a null in one of them does not count.
        source: The source of the events.
        features: At least one feature.
        description: One sentence for people.
        buffer: How long after batch_end every feature is exact, such as "2d"; so this is how late a batch may be. A longer buffer costs
            bytes in each view; see docs/tails.md.
        checks: Thresholds for the view of the group.

    Attributes:
        entity_columns: The columns of `entity`.
        inputs: The different inputs of all features, in the order of first use.
        input_of: For each feature, the index of its input.
        tile_ms: The length of a tile: the smallest hop, of which every hop is a multiple.
        exact_windows: The different windows with an exact tail.
        buffer_ms: `buffer`, in milliseconds.
        model_features: The features that are inputs of a model, in the order of the declaration: all whose value is a number.
        fingerprint: The version of the declaration, 16 hexadecimal digits.

    Raises:
        DeclarationError: A name, the entity, an input or a hop is invalid.
    """

    name: str
    entity: str | tuple[str, ...]
    source: EventSource
    features: tuple[Feature, ...]
    description: str = ""
    buffer: str = duration_text(BUFFER_MS)
    checks: GroupChecks = field(default_factory=GroupChecks)
    entity_columns: tuple[Column, ...] = field(init=False)
    inputs: tuple[Input, ...] = field(init=False)
    input_of: tuple[int, ...] = field(init=False)
    tile_ms: int = field(init=False)
    exact_windows: tuple[Window, ...] = field(init=False)
    buffer_ms: int = field(init=False)
    model_features: tuple[Feature, ...] = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        names = (self.entity,) if isinstance(self.entity, str) else tuple(self.entity)
        object.__setattr__(self, "entity", _single(names))
        self._check_names()
        object.__setattr__(self, "entity_columns", entity_columns(self.name, names, self.source))
        inputs = [input_of(feature, self.source) for feature in self.features]
        unique = tuple(dict.fromkeys(inputs))
        windows = dict.fromkeys(feature.window for feature in self.features if feature.window)
        object.__setattr__(self, "buffer_ms", parse_duration(self.buffer))
        object.__setattr__(self, "inputs", unique)
        object.__setattr__(self, "input_of", tuple(unique.index(used) for used in inputs))
        object.__setattr__(self, "tile_ms", self._tile_ms({window.hop_ms for window in windows if not window.exact}))
        object.__setattr__(self, "exact_windows", tuple(window for window in windows if window.exact))
        numbers = tuple(feature for feature in self.features if not feature.aggregation.value_sql_type.startswith("ARRAY"))
        object.__setattr__(self, "model_features", numbers)
        object.__setattr__(self, "fingerprint", self._fingerprint())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in the order of the declaration."""
        return tuple(feature.name for feature in self.features)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of `model_features`."""
        return tuple(feature.name for feature in self.model_features)

    @property
    def entity_names(self) -> tuple[str, ...]:
        """The names of the columns that identify the entity."""
        return tuple(column.name for column in self.entity_columns)

    @property
    def entity_text(self) -> str:
        """The entity in words, for descriptions and errors."""
        return " × ".join(self.entity_names)

    @property
    def is_composite(self) -> bool:
        """Whether several columns identify the entity."""
        return len(self.entity_columns) > 1

    @property
    def entity_type(self) -> ColumnType:
        """The type of the entity's id: INT64 or STRING."""
        return ColumnType.STRING if self.is_composite else self.entity_columns[0].type

    @property
    def entity_sql(self) -> str:
        """The id of an event's entity, in Spark SQL."""
        return id_sql(self.entity_names)

    @property
    def has_entity_sql(self) -> str:
        """A SQL condition that is true for an event with an entity. An empty text or one above `MAX_ENTITY_LENGTH` is no entity."""
        return " AND ".join(map(has_value_sql, self.entity_columns))

    def id_of(self, values: Sequence[int | str]) -> int | str:
        """The id of the entity with these values of `entity_columns`."""
        return id_of(values)

    def values_of(self, entity_id: int | str) -> tuple[int | str, ...]:
        """The values of `entity_columns` in an id. Raises a ValueError where the id is none of this group."""
        return values_of(entity_id, [column.type for column in self.entity_columns])

    def request_id(self, entity_id: int | str) -> int | str | dict[str, int | str]:
        """The id as a request and a response of `/features` have it: an object where several columns identify the entity."""
        return dict(zip(self.entity_names, self.values_of(entity_id), strict=True)) if self.is_composite else entity_id

    def on(self, *keys: str, prefix: str = "") -> ModelInput:
        """This group as the input of a model.

        Args:
            keys: As many as the entity has columns; by default the names of these columns.
            prefix: As in `ModelInput`.

        Raises:
            DeclarationError: The number of the keys is another.
        """
        keys = keys or self.entity_names
        if len(keys) != len(self.entity_columns):
            raise DeclarationError(
                f"The input {self.name} has {len(keys)} keys, and its entity is {self.entity_text}.",
                "Give one key for each column.",
            )
        return ModelInput(self, keys, prefix)

    def scale_of(self, index: int) -> int:
        """The units per 1 of the input of the feature at `index`."""
        return self.inputs[self.input_of[index]].scale

    def partial_sql_type(self, index: int) -> str:
        """The Spark SQL type of the partial of the feature at `index`."""
        return self.features[index].aggregation.sql_type.replace("{input}", self.inputs[self.input_of[index]].sql_type)

    def value_sql_type(self, index: int) -> str:
        """The Spark SQL type of the finished value of the feature at `index`: BIGINT, DOUBLE, or an ARRAY."""
        return self.features[index].aggregation.value_sql_type.replace("{value}", self.inputs[self.input_of[index]].value_sql_type)

    def key(self, entity_id: int | str) -> str:
        """The key of an entity in the online store. A group's name has no colon, so no two entities share a key."""
        return f"{self.name}:{entity_id}"

    def model_input(self, values: Mapping[str, Value]) -> list[float]:
        """The input of a model, in the order of `model_names`: the declared default where there is no value."""
        return [float(feature.default if (v := values.get(feature.name)) is None else v) for feature in self.model_features]  # type: ignore[arg-type]

    def _check_names(self) -> None:
        if not self.features:
            raise DeclarationError(f"The group {self.name} has no features.", "Declare at least one.")
        for name, reserved in ((self.name, _RESERVED_GROUPS), *((name, _RESERVED) for name in self.feature_names)):
            if not FEATURE_NAME.fullmatch(name) or name in reserved:
                raise DeclarationError(
                    f"The name {name!r} cannot be used.", "Use lower-case letters, digits and underscores, and no reserved name."
                )
        if (twin := twin_of(self.feature_names)) is not None:
            raise DeclarationError(f"The group {self.name} has two features named {twin!r}.", "Rename one of them.")

    def _tile_ms(self, hops: set[int]) -> int:
        tile_ms = min(hops, default=5 * MINUTE_MS)
        for hop_ms in hops:
            if hop_ms % tile_ms or DAY_MS % tile_ms:
                raise DeclarationError(
                    f"The hops of {self.name} do not fit together: {hop_ms} ms or a day is not a multiple of {tile_ms} ms.",
                    "Choose a smallest hop that divides a day and every other hop.",
                )
        return tile_ms

    @property
    def subject(self) -> list[Any]:
        """The entity, and the columns of the source that determine the time of an event and its copies."""
        kinds = [column.type.value for column in self.entity_columns]
        return [self.entity, _single(kinds), self.source.name, self.source.time, self.source.event_id]

    def meaning(self, index: int) -> list[Any]:
        """All that determines the values of the feature at `index`, besides the subject."""
        feature = self.features[index]
        window = feature.window and [feature.window.size_ms, feature.window.hop_ms]
        types = [[column.name, column.type.value] for name in columns_read(feature) if (column := self.source.column(name))]
        sql = self.inputs[self.input_of[index]].sql
        return [feature.name, feature.aggregation.kind, vars(feature.aggregation), sql, self.scale_of(index), types, window]

    def _fingerprint(self) -> str:
        """A hash of all that changes a value, the input of a model for a missing value, or the stored form of a value.

        Descriptions, the place of the events (topic, table, key of the messages) and columns that no feature reads do not change it.
        """
        parts = [
            [self.meaning(index), self.partial_sql_type(index), float(feature.default)]
            for index, feature in enumerate(self.features)
        ]
        text = json.dumps([self.name, self.subject, self.tile_ms, self.buffer_ms, parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ModelInput:
    """A group whose features a model gets, made by `FeatureGroup.on`.

    Args:
        group: The group.
        keys: For each column of the group's entity the field of the request, and the column of the label, that holds its value.
        prefix: What the names of the features begin with in the model, such as "terminal_"; it tells two inputs apart.
    """

    group: FeatureGroup
    keys: tuple[str, ...]
    prefix: str = ""

    @property
    def key(self) -> str | tuple[str, ...]:
        """The key; for an entity of several columns, the keys."""
        return _single(self.keys)

    @property
    def key_types(self) -> dict[str, ColumnType]:
        """Key → the type of its values."""
        return dict(zip(self.keys, (column.type for column in self.group.entity_columns), strict=True))

    @property
    def id_sql(self) -> str:
        """The id of the entity, in Spark SQL over columns with the names of the keys; null where a key is null."""
        return id_sql(self.keys)

    @property
    def name(self) -> str:
        """The name of this input in answers: the name of the group, after the prefix."""
        return f"{self.prefix}{self.group.name}"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the group's features in the model, also of those that are lists."""
        return tuple(f"{self.prefix}{name}" for name in self.group.feature_names)


def _single(values: Sequence[str]) -> str | tuple[str, ...]:
    """The value itself where there is only one, so that the stored form of an entity of one column stays what it was."""
    return values[0] if len(values) == 1 else tuple(values)
