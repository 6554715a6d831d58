"""The declaration: features and feature groups, checked whole while their module loads.

A `FeatureGroup` is all that a user writes. Everything that runs is compiled from it: `inputs` (the SQL that batch and speed
project), `features` with their aggregations and windows (tiles, view, merge, training set), `fingerprint` (the version that
travels in every packed value).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from features.aggregations import (
    TIME_UNITS_MS,
    Aggregation,
    Count,
    Distinct,
    Last,
    Max,
    Mean,
    Min,
    SinceLast,
    Sum,
    Value,
)  # fmt: skip
from features.errors import DeclarationError
from features.predicates import canonical_predicate
from features.sources import MICROS, ColumnType, EventSource
from features.windows import DAY_MS, MINUTE_MS, Window, default_hop_ms, parse_duration

_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Names that the tables of a group use themselves.
_RESERVED = {"entity", "tile_start_ms", "first_ms", "last_ms", "day", "batch_end_ms", "q_ms", "label", "id"}


@dataclass(frozen=True)
class Feature:
    """One feature: an aggregation of a value, under a condition, over a window.

    Use the functions of this module (`count`, `total`, `mean`, …) to make one.

    Attributes:
        name: The feature's name, unique in its group.
        aggregation: The monoid.
        of: The aggregated column; None where only the event itself counts.
        where: A SQL condition on the event, or None for every event.
        window: The sliding window; None for all time.
        default: What a model is given where the feature has no value.
        description: One sentence for people.
    """

    name: str
    aggregation: Aggregation
    of: str | None = None
    where: str | None = None
    window: Window | None = None
    default: float = 0.0
    description: str = ""


def _window(name: str, window: str | None, hop: str | None) -> Window | None:
    if window is None:
        if hop is not None:
            raise DeclarationError(f"The feature {name} has a hop but no window.", "Give a window, or leave the hop out.")
        return None
    size_ms = parse_duration(window)
    hop_ms = parse_duration(hop) if hop else default_hop_ms(size_ms)
    if size_ms < hop_ms:
        raise DeclarationError(
            f"The window of {name}, {window}, is shorter than its hop, {hop or f'{hop_ms // MINUTE_MS} min'}.",
            "Make the window longer or the hop shorter.",
        )
    return Window(size_ms, hop_ms)


def _feature(aggregation: Aggregation, name: str, of: str | None = None, *, window: str | None = None, hop: str | None = None,
             **rest: Any) -> Feature:  # fmt: skip
    return Feature(name, aggregation, of, window=_window(name, window, hop), **rest)


def count(name: str, *, where: str | None = None, window: str | None = None, hop: str | None = None,
          default: float = 0.0, description: str = "") -> Feature:  # fmt: skip
    """How many events. 0 where there are none."""
    return _feature(Count(), name, where=where, window=window, hop=hop, default=default, description=description)


def total(name: str, *, of: str, where: str | None = None, window: str | None = None, hop: str | None = None,
          default: float = 0.0, description: str = "") -> Feature:  # fmt: skip
    """The exact sum of a numeric column. 0 where there are no values."""
    return _feature(Sum(), name, of, where=where, window=window, hop=hop, default=default, description=description)


def mean(name: str, *, of: str, where: str | None = None, window: str | None = None, hop: str | None = None,
         default: float = 0.0, description: str = "") -> Feature:  # fmt: skip
    """The mean of a numeric column. Null where there are no values."""
    return _feature(Mean(), name, of, where=where, window=window, hop=hop, default=default, description=description)


def minimum(name: str, *, of: str, where: str | None = None, window: str | None = None, hop: str | None = None,
            default: float = 0.0, description: str = "") -> Feature:  # fmt: skip
    """The smallest value of a numeric column. Null where there are no values."""
    return _feature(Min(), name, of, where=where, window=window, hop=hop, default=default, description=description)


def maximum(name: str, *, of: str, where: str | None = None, window: str | None = None, hop: str | None = None,
            default: float = 0.0, description: str = "") -> Feature:  # fmt: skip
    """The largest value of a numeric column. Null where there are no values."""
    return _feature(Max(), name, of, where=where, window=window, hop=hop, default=default, description=description)


def last(name: str, *, of: str, where: str | None = None, window: str | None = None, hop: str | None = None,
         default: float = 0.0, description: str = "") -> Feature:  # fmt: skip
    """The latest value of a numeric column; of several in one millisecond, the largest. Null where there are no values."""
    return _feature(Last(), name, of, where=where, window=window, hop=hop, default=default, description=description)


def distinct(name: str, *, of: str, where: str | None = None, window: str | None = None, hop: str | None = None,
             bound: int = 1_024, default: float = 0.0, description: str = "") -> Feature:  # fmt: skip
    """How many different values of a column: exact below `bound`, from there on within 1 / sqrt(bound - 2) (one standard error)."""
    if bound < 16:
        raise DeclarationError(f"The bound of {name}, {bound}, is too small for an estimate.", "Use at least 16.")
    return _feature(Distinct(bound), name, of, where=where, window=window, hop=hop, default=default, description=description)


def since_last(name: str, *, where: str | None = None, unit: str = "days", window: str | None = None, hop: str | None = None,
               default: float = 0.0, description: str = "") -> Feature:  # fmt: skip
    """The time since the latest event, in `unit` (seconds, minutes, hours, days). Null where there was none."""
    if unit not in TIME_UNITS_MS:
        raise DeclarationError(f"The unit of {name}, {unit!r}, is unknown.", f"Use one of {', '.join(TIME_UNITS_MS)}.")
    return _feature(SinceLast(unit), name, where=where, window=window, hop=hop, default=default, description=description)


@dataclass(frozen=True)
class Input:
    """What an event contributes to one or more features: a Spark SQL expression over its typed columns, nullable int64.

    `scale` is the expression's units per 1: 1,000,000 for decimals, else 1.
    """

    sql: str
    scale: int


@dataclass(frozen=True)
class FeatureGroup:
    """The features of one kind of entity, from one source.

    Args:
        name: The group's name: the prefix of its keys in the online store.
        entity: The column of the source that identifies the entity.
        source: Where the events come from.
        features: At least one feature.
        description: One sentence for people.

    Attributes:
        inputs: The different inputs of all features, in the order of first use.
        input_of: For each feature, the index of its input.
        tile_ms: The length of a tile: the smallest hop, of which every hop is a multiple.
        fingerprint: The version of the declaration, 16 hexadecimal digits.

    Raises:
        DeclarationError: Anything in it cannot mean what it says.
    """

    name: str
    entity: str
    source: EventSource
    features: tuple[Feature, ...]
    description: str = ""
    inputs: tuple[Input, ...] = field(init=False)
    input_of: tuple[int, ...] = field(init=False)
    tile_ms: int = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        self._check_names()
        inputs = [_input(feature, self.source) for feature in self.features]
        unique = tuple(dict.fromkeys(inputs))
        object.__setattr__(self, "inputs", unique)
        object.__setattr__(self, "input_of", tuple(unique.index(one) for one in inputs))
        object.__setattr__(self, "tile_ms", self._tile_ms())
        object.__setattr__(self, "fingerprint", self._fingerprint())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in the order of the declaration."""
        return tuple(feature.name for feature in self.features)

    @property
    def entity_type(self) -> ColumnType:
        """The type of the entity's id: INT64 or STRING."""
        column = self.source.column(self.entity)
        assert column is not None
        return column.type

    def scale_of(self, index: int) -> int:
        """The units per 1 of the input of the feature at `index`."""
        return self.inputs[self.input_of[index]].scale

    def value_sql_type(self, index: int) -> str:
        """The Spark SQL type of the finished value of the feature at `index`: BIGINT or DOUBLE."""
        aggregation = self.features[index].aggregation
        whole = aggregation.integral or (self.scale_of(index) == 1 and not isinstance(aggregation, Mean | SinceLast))
        return "BIGINT" if whole else "DOUBLE"

    def key(self, entity_id: int | str) -> str:
        """The key of an entity in the online store."""
        return f"{self.name}:{entity_id}"

    def model_input(self, values: dict[str, Value]) -> list[float]:
        """The features as a model takes them, in the order of the declaration: the declared default where there is no value."""
        return [float(feature.default if (v := values.get(feature.name)) is None else v) for feature in self.features]

    def _check_names(self) -> None:
        if not self.features:
            raise DeclarationError(f"The group {self.name} has no features.", "Declare at least one.")
        seen: set[str] = set()
        for name in (self.name, *self.feature_names):
            if not _NAME.fullmatch(name) or name in _RESERVED:
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

    def _tile_ms(self) -> int:
        hops = {feature.window.hop_ms for feature in self.features if feature.window}
        tile_ms = min(hops, default=5 * MINUTE_MS)
        for hop_ms in hops:
            if hop_ms % tile_ms or DAY_MS % tile_ms:
                raise DeclarationError(
                    f"The hops of {self.name} do not fit together: {hop_ms} ms is no multiple of {tile_ms} ms, or a day is not.",
                    "Choose hops that divide each other, the smallest of which divides a day.",
                )
        return tile_ms

    def _fingerprint(self) -> str:
        parts = [
            [feature.name, feature.aggregation.kind, vars(feature.aggregation), self.inputs[self.input_of[index]].sql,
             self.scale_of(index), feature.window and [feature.window.size_ms, feature.window.hop_ms]]
            for index, feature in enumerate(self.features)
        ]  # fmt: skip
        text = json.dumps([self.name, self.entity, self.source.name, self.tile_ms, parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _input(feature: Feature, source: EventSource) -> Input:
    """The SQL of what an event contributes to the feature."""
    where = canonical_predicate(feature.where, source, feature.name) if feature.where else None
    value, scale = "1", 1
    if feature.of is not None:
        column = source.column(feature.of)
        if column is None:
            known = ", ".join(known.name for known in source.columns)
            raise DeclarationError(
                f"The feature {feature.name} aggregates an unknown column {feature.of!r}.", f"{source.name} has: {known}."
            )
        if isinstance(feature.aggregation, Distinct):
            value = f"xxhash64(`{column.name}`)"
            present = f"`{column.name}` IS NOT NULL"
            where = f"{present} AND ({where})" if where else present
        elif column.type is ColumnType.DECIMAL:
            value, scale = f"CAST(`{column.name}` * {MICROS} AS BIGINT)", MICROS
        elif column.type is ColumnType.INT64:
            value = f"`{column.name}`"
        else:
            raise DeclarationError(
                f"The feature {feature.name} cannot aggregate {feature.of!r}, a {column.type.name.lower()} column.",
                "Use a decimal or integer column, or distinct().",
            )
    return Input(f"CASE WHEN {where} THEN {value} END" if where else value, scale)
