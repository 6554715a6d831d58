"""The group: all that a user writes of one kind of entity, and what everything that runs is compiled from.

`inputs` (the SQL that batch and speed project), `features` with their aggregations and windows (tiles, view, merge, training set),
`fingerprint` (the version that travels in every packed value).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from features.aggregations import Value
from features.checks import GroupChecks
from features.declaration.feature import Feature
from features.declaration.inputs import Input, columns_read, input_of
from features.errors import DeclarationError
from features.sources import ColumnType, EventSource
from features.windows import BUFFER_MS, DAY_MS, MINUTE_MS, Window, duration_text, parse_duration

#: The longest text that identifies an entity: it is part of a key.
MAX_ENTITY_LENGTH = 256

_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Under `braid` and these names the online store keeps what is of no entity.
_RESERVED_GROUPS = {"braid", "speed", "alerts"}
#: Names that the tables of a group use themselves.
_RESERVED = {
    "entity", "tile_start_ms", "tile_end", "first_ms", "last_ms", "newest_event_ms", "events", "day", "batch_end_ms", "q_ms", "label",
    "split", "id", "fingerprint", "packed", "lists",
}  # fmt: skip


@dataclass(frozen=True)
class FeatureGroup:
    """The features of one kind of entity, from one source.

    Args:
        name: The group's name: the prefix of its keys in the online store.
        entity: The column of the source that identifies the entity.
        source: Where the events come from.
        features: At least one feature.
        description: One sentence for people.
        buffer: How long after batch_end every feature is exact, such as "2d": how late a batch may be. A longer one costs bytes in each
            view; see docs/tails.md.
        checks: What is normal of its view.

    Attributes:
        inputs: The different inputs of all features, in the order of first use.
        input_of: For each feature, the index of its input.
        tile_ms: The length of a tile: the smallest hop, of which every hop is a multiple.
        exact_windows: The different windows with an exact tail.
        buffer_ms: `buffer`, in milliseconds.
        model_features: The features that a model is given, in the order of the declaration: all but those whose value is a list.
        fingerprint: The version of the declaration, 16 hexadecimal digits.

    Raises:
        DeclarationError: Anything in it cannot mean what it says.
    """

    name: str
    entity: str
    source: EventSource
    features: tuple[Feature, ...]
    description: str = ""
    buffer: str = duration_text(BUFFER_MS)
    checks: GroupChecks = field(default_factory=GroupChecks)
    inputs: tuple[Input, ...] = field(init=False)
    input_of: tuple[int, ...] = field(init=False)
    tile_ms: int = field(init=False)
    exact_windows: tuple[Window, ...] = field(init=False)
    buffer_ms: int = field(init=False)
    model_features: tuple[Feature, ...] = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        self._check_names()
        inputs = [input_of(feature, self.source) for feature in self.features]
        unique = tuple(dict.fromkeys(inputs))
        windows = dict.fromkeys(feature.window for feature in self.features if feature.window)
        object.__setattr__(self, "buffer_ms", parse_duration(self.buffer))
        object.__setattr__(self, "inputs", unique)
        object.__setattr__(self, "input_of", tuple(unique.index(one) for one in inputs))
        object.__setattr__(self, "tile_ms", self._tile_ms({window.hop_ms for window in windows if not window.exact}))
        object.__setattr__(self, "exact_windows", tuple(window for window in windows if window.exact))
        numbers = tuple(one for one in self.features if not one.aggregation.value_sql_type.startswith("ARRAY"))
        object.__setattr__(self, "model_features", numbers)
        object.__setattr__(self, "fingerprint", self._fingerprint())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in the order of the declaration."""
        return tuple(feature.name for feature in self.features)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of `model_features`."""
        return tuple(one.name for one in self.model_features)

    @property
    def entity_type(self) -> ColumnType:
        """The type of the entity's id: INT64 or STRING."""
        column = self.source.column(self.entity)
        assert column is not None
        return column.type

    @property
    def has_entity_sql(self) -> str:
        """A condition on an event: whether it is of an entity. An empty text is none, nor one too long to be asked for."""
        if self.entity_type is ColumnType.INT64:
            return f"`{self.entity}` IS NOT NULL"
        return f"coalesce(length(`{self.entity}`), 0) BETWEEN 1 AND {MAX_ENTITY_LENGTH}"

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
        """The key of an entity in the online store. A group's name has no colon, so no two entities share one."""
        return f"{self.name}:{entity_id}"

    def model_input(self, values: dict[str, Value]) -> list[float]:
        """What a model is given, in the order of `model_names`: the declared default where there is no value."""
        return [float(one.default if (v := values.get(one.name)) is None else v) for one in self.model_features]  # type: ignore[arg-type]

    def _check_names(self) -> None:
        if not self.features:
            raise DeclarationError(f"The group {self.name} has no features.", "Declare at least one.")
        seen: set[str] = set()
        for name, reserved in ((self.name, _RESERVED_GROUPS), *((name, _RESERVED) for name in self.feature_names)):
            if not _NAME.fullmatch(name) or name in reserved:
                raise DeclarationError(
                    f"The name {name!r} cannot be used.", "Use lower-case letters, digits and underscores, and no reserved word."
                )
        for name in self.feature_names:
            if name in seen:
                raise DeclarationError(f"The group {self.name} has two features named {name!r}.", "Rename one of them.")
            seen.add(name)
        column = self.source.column(self.entity)
        if column is None or column.type not in (ColumnType.INT64, ColumnType.STRING):
            known = ", ".join(known.name for known in self.source.columns)
            raise DeclarationError(
                f"The entity {self.entity!r} of {self.name} is not a text or integer column.", f"{self.source.name} has: {known}."
            )

    def _tile_ms(self, hops: set[int]) -> int:
        tile_ms = min(hops, default=5 * MINUTE_MS)
        for hop_ms in hops:
            if hop_ms % tile_ms or DAY_MS % tile_ms:
                raise DeclarationError(
                    f"The hops of {self.name} do not fit together: {hop_ms} ms is no multiple of {tile_ms} ms, or a day is not.",
                    "Choose hops that divide each other, the smallest of which divides a day.",
                )
        return tile_ms

    @property
    def subject(self) -> list[str]:
        """Whose features these are, and of which events: the entity, and of the source what decides when an event was and which are copies."""
        return [self.entity, self.entity_type.value, self.source.name, self.source.time, self.source.event_id]

    def meaning(self, index: int) -> list[Any]:
        """All that decides on the values of the feature at `index`, given the subject."""
        feature = self.features[index]
        window = feature.window and [feature.window.size_ms, feature.window.hop_ms]
        types = [[one.name, one.type.value] for name in columns_read(feature) if (one := self.source.column(name))]
        sql = self.inputs[self.input_of[index]].sql
        return [feature.name, feature.aggregation.kind, vars(feature.aggregation), sql, self.scale_of(index), types, window]

    def _fingerprint(self) -> str:
        """Of all that changes a value, what a model is given for a missing one, or the form in which either is stored.

        Not of descriptions, nor of where the events lie (topic, table, key of the messages), nor of columns that no feature reads.
        """
        parts = [
            [self.meaning(index), self.partial_sql_type(index), float(feature.default)]
            for index, feature in enumerate(self.features)
        ]
        text = json.dumps([self.name, self.subject, self.tile_ms, self.buffer_ms, parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
