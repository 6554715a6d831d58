"""The feature group: the declaration of the features of one kind of entity, which every layer evaluates.

Batch and speed evaluate the SQL of `inputs`. Tiles, view, merge and training set follow from the aggregations and windows of
`features`. Every packed value contains the `fingerprint`, the version of the declaration.
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

#: Prefixes of the keys under which the online store keeps its own data. A group cannot have these names.
_RESERVED_GROUPS = {"braid", "speed", "alerts"}
#: Columns that braid adds to the tables of a group.
_RESERVED = {
    "entity", "tile_start_ms", "tile_end", "first_ms", "last_ms", "newest_event_ms", "events", "day", "batch_end_ms", "q_ms", "label",
    "split", "id", "fingerprint", "packed", "lists", "is_instant", "folded_from", "until", "built_from",
}  # fmt: skip


@dataclass(frozen=True)
class FeatureGroup:
    """The features of one kind of entity, from one source.

    Args:
        name: The name of the group, which is the prefix of its keys in the online store.
        entity: The column of the source that identifies the entity; or several columns, such as ("card_id", "terminal_id"), whose values
            identify it together. An event with a null in one of these columns does not count.
        source: The source of the events.
        features: At least one feature.
        description: One sentence for people.
        buffer: The time after batch_end during which every feature is exact, such as "2d": the longest delay of a batch without inexact
            features. A longer buffer costs bytes in each view; see docs/tails.md.
        checks: Thresholds for the view of the group.

    Attributes:
        entity_columns: The columns of `entity`.
        inputs: The different inputs of all features, in the order of first use.
        input_of: For each feature, the index of its input.
        tile_ms: The length of a tile: the smallest hop, of which every hop is a multiple.
        exact_windows: The different windows with an exact tail.
        buffer_ms: `buffer`, in milliseconds.
        model_features: The features that are inputs of a model: all features whose value is a number, in the order of the declaration.
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
        """The names of the entity's columns as a phrase, for descriptions and errors."""
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
        """A Spark SQL expression for the id of an event's entity."""
        return id_sql(self.entity_names)

    @property
    def has_entity_sql(self) -> str:
        """A SQL condition that is true for an event with an entity. An empty text, or a text longer than `MAX_ENTITY_LENGTH`, is no entity."""
        return " AND ".join(map(has_value_sql, self.entity_columns))

    def id_of(self, values: Sequence[int | str]) -> int | str:
        """Returns the id of the entity with these values of `entity_columns`."""
        return id_of(values)

    def values_of(self, entity_id: int | str) -> tuple[int | str, ...]:
        """Returns the values of `entity_columns` in an id.

        Raises:
            ValueError: The id is not an id of this group.
        """
        return values_of(entity_id, [column.type for column in self.entity_columns])

    def request_id(self, entity_id: int | str) -> int | str | dict[str, int | str]:
        """Returns the id in the form of requests and responses of `/features`: an object if several columns identify the entity."""
        return dict(zip(self.entity_names, self.values_of(entity_id), strict=True)) if self.is_composite else entity_id

    def on(self, *keys: str, prefix: str = "") -> ModelInput:
        """Makes this group an input of a model.

        Args:
            keys: A key for each column of the entity; by default the names of the columns.
            prefix: The prefix of the names of the features in the model, as in `ModelInput`.

        Raises:
            DeclarationError: The number of keys is not the number of the entity's columns.
        """
        keys = keys or self.entity_names
        if len(keys) != len(self.entity_columns):
            raise DeclarationError(
                f"The input {self.name} has {len(keys)} keys, and its entity is {self.entity_text}.",
                "Give one key for each column.",
            )
        return ModelInput(self, keys, prefix)

    def scale_of(self, index: int) -> int:
        """Returns the number of units per 1 of the input of the feature at `index` (`Input.scale`)."""
        return self.inputs[self.input_of[index]].scale

    def partial_sql_type(self, index: int) -> str:
        """Returns the Spark SQL type of the partial of the feature at `index`."""
        return self.features[index].aggregation.sql_type.replace("{input}", self.inputs[self.input_of[index]].sql_type)

    def value_sql_type(self, index: int) -> str:
        """Returns the Spark SQL type of the finished value of the feature at `index`: BIGINT, DOUBLE, or an ARRAY."""
        return self.features[index].aggregation.value_sql_type.replace("{value}", self.inputs[self.input_of[index]].value_sql_type)

    def key(self, entity_id: int | str) -> str:
        """Returns the key of an entity in the online store. The name of a group has no colon, so no two entities share a key."""
        return f"{self.name}:{entity_id}"

    def model_input(self, values: Mapping[str, Value]) -> list[float]:
        """Returns the input of a model, in the order of `model_names`; for a feature without a value, the declared default."""
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
        """The parts of the declaration that determine the values of all features: the entity with its types, the source, its time and event id."""
        kinds = [column.type.value for column in self.entity_columns]
        return [self.entity, _single(kinds), self.source.name, self.source.time, self.source.event_id]

    def meaning(self, index: int) -> list[Any]:
        """Returns all parts of the declaration, besides `subject`, that determine the values of the feature at `index`."""
        feature = self.features[index]
        window = feature.window and [feature.window.size_ms, feature.window.hop_ms]
        types = [[column.name, column.type.value] for name in columns_read(feature) if (column := self.source.column(name))]
        sql = self.inputs[self.input_of[index]].sql
        return [feature.name, feature.aggregation.kind, vars(feature.aggregation), sql, self.scale_of(index), types, window]

    def _fingerprint(self) -> str:
        """Returns a hash of all parts of the declaration that change a value, a model's input for a missing value, or the stored form of a value.

        Descriptions, the place of the events (topic, table, key of the messages) and columns that no feature reads do not change the hash.
        """
        parts = [
            [self.meaning(index), self.partial_sql_type(index), float(feature.default)]
            for index, feature in enumerate(self.features)
        ]
        text = json.dumps([self.name, self.subject, self.tile_ms, self.buffer_ms, parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ModelInput:
    """A group whose features are inputs of a model, made by `FeatureGroup.on`.

    Args:
        group: The group.
        keys: For each column of the group's entity, the name of the request field, and of the label point's column, that contains its value.
        prefix: The prefix of the names of the features in the model, such as "terminal_"; it distinguishes two inputs of one group.
    """

    group: FeatureGroup
    keys: tuple[str, ...]
    prefix: str = ""

    @property
    def key(self) -> str | tuple[str, ...]:
        """The key; for an entity of several columns, the tuple of the keys."""
        return _single(self.keys)

    @property
    def key_types(self) -> dict[str, ColumnType]:
        """Key → the type of its values."""
        return dict(zip(self.keys, (column.type for column in self.group.entity_columns), strict=True))

    @property
    def id_sql(self) -> str:
        """A Spark SQL expression for the id of the entity, over columns with the names of the keys; null if a key is null."""
        return id_sql(self.keys)

    @property
    def name(self) -> str:
        """The name of this input in answers: the prefix, and the name of the group."""
        return f"{self.prefix}{self.group.name}"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names in the model of all features of the group, including the features that are lists."""
        return tuple(f"{self.prefix}{name}" for name in self.group.feature_names)


def _single(values: Sequence[str]) -> str | tuple[str, ...]:
    """Returns a single value as it is, several values as a tuple. So the stored form of an entity of one column remains a text."""
    return values[0] if len(values) == 1 else tuple(values)
