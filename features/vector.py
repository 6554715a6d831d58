"""The input of a model: the features of one or several groups, the request columns, and the features that are derived from both.

Training computes the input by `FeatureVector.matrix` for the rows of a training set, serving by `FeatureVector.of` for a request. Both are equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.aggregations import Value
from features.declaration import FeatureGroup, ModelInput
from features.declaration.versions import Change, group_of_text, group_text
from features.errors import DeclarationError
from features.expressions import Compiled, Expression, ValueKind, compiled
from features.names import NAME, twin_of
from features.sources import ColumnType, EventSource

if TYPE_CHECKING:
    import pandas as pd

#: The name by which a derived feature reads the time q of the request.
REQUEST_TIME = "request_time"
#: Fields of the requests and responses of `/predict`. Neither a key nor a request column can have these names.
RESERVED_FIELDS = {
    "context", "at", "use_case", "candidates", "prediction", "predictions", "features_used", "model", "provenance", "inputs",
}  # fmt: skip
#: Columns of a training set that braid adds.
_RESERVED_COLUMNS = {"entity", "q_ms", "label", "split", "batch_ms", "after_ms", "horizon_ms", "label_id", "time", REQUEST_TIME}
_KINDS = {
    ColumnType.STRING: ValueKind.TEXT, ColumnType.INT64: ValueKind.NUMBER, ColumnType.DECIMAL: ValueKind.NUMBER, ColumnType.TIMESTAMP: ValueKind.TIME,
}  # fmt: skip

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RequestColumn:
    """A value that the caller of a model knows: a field of the request's `context`. In a training set it is the column with its name.

    Args:
        name: The name of the value.
        type: STRING, INT64, DECIMAL or TIMESTAMP. A number or a time is an input of the model. A text can only be used in `derived`.
        required: Whether a request without the value is refused.
        default: The value if the request has none. If the default is None, the value is null: 0 as an input, null in a derived feature.

    Raises:
        DeclarationError: The name or the type cannot be used, or the default does not fit.
    """

    name: str
    type: ColumnType = ColumnType.STRING
    required: bool = False
    default: float | int | str | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name in RESERVED_FIELDS | _RESERVED_COLUMNS:
            raise DeclarationError(
                f"The name {self.name!r} of a request column cannot be used.",
                "Use lower-case letters, digits and underscores, and no field of the API.",
            )
        if self.type is ColumnType.MAP:
            raise DeclarationError(
                f"The request column {self.name} is a map.", "Declare a column for each value that the model needs."
            )
        if self.required and self.default is not None:
            raise DeclarationError(f"The request column {self.name} is required and has a default.", "Choose one of the two.")
        if self.default is not None and isinstance(self.default, str) is not (self.type is ColumnType.STRING):
            raise DeclarationError(
                f"The default {self.default!r} of the request column {self.name} is no {self.type.name.lower()}.", "Correct it."
            )


@dataclass(frozen=True)
class FeatureVector:
    """The input of a model.

    Args:
        inputs: The groups with their keys.
        request: The columns of the request's `context`.
        derived: Features computed from the features and the request columns.

    Attributes:
        names: The names of the inputs, in their order: the features that are numbers, the request columns that are not texts, and the derived
            features.
        fingerprint: The version of the declaration, 16 hexadecimal digits. If `is_plain`, it is the fingerprint of the group.

    Raises:
        DeclarationError: There is no input, a name is invalid or used twice, or an expression is invalid.
    """

    inputs: tuple[ModelInput, ...]
    request: tuple[RequestColumn, ...] = ()
    derived: tuple[Expression, ...] = ()
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    fingerprint: str = field(init=False, repr=False, compare=False)
    _compiled: tuple[Compiled, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.inputs:
            raise DeclarationError("The model has no inputs.", "Give it at least one feature group.")
        self._check_names()
        kinds = {f"{entry.prefix}{name}": ValueKind.NUMBER for entry in self.inputs for name in entry.group.model_names}
        kinds |= {column.name: _KINDS[column.type] for column in self.request}
        kinds[REQUEST_TIME] = ValueKind.TIME
        object.__setattr__(self, "_compiled", tuple(compiled(expression, kinds) for expression in self.derived))
        names = (
            *(f"{entry.prefix}{name}" for entry in self.inputs for name in entry.group.model_names),
            *(column.name for column in self.request if column.type is not ColumnType.STRING),
            *(expression.name for expression in self.derived),
        )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "fingerprint", self._fingerprint())

    @property
    def is_plain(self) -> bool:
        """Whether the input consists only of the features of one group: no prefix, no request columns, no derived features."""
        return len(self.inputs) == 1 and not self.request and not self.derived and not self.inputs[0].prefix

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the inputs that are columns of a training set: `names` without the derived features."""
        return self.names[: len(self.names) - len(self.derived)]

    @property
    def keys(self) -> dict[str, ColumnType]:
        """Field of a request that identifies an entity → the type of its values, in the order of the inputs."""
        return {key: kind for entry in self.inputs for key, kind in entry.key_types.items()}

    def of(self, values: Sequence[Mapping[str, Value]], request: Mapping[str, Any], q_ms: int) -> list[float]:
        """Returns the model's input for one request, in the order of `names`.

        Args:
            values: For each input of the vector, feature → value. A missing feature counts as null.
            request: Request column → value; times in ms since 1970. A text in place of a number, or a number in place of a text, counts as null.
            q_ms: The time q of the request, in ms since 1970.
        """
        if self.is_plain:
            return self.inputs[0].group.model_input(values[0])
        vector = [number for entry, its in zip(self.inputs, values, strict=True) for number in entry.group.model_input(its)]
        known: dict[str, Any] = {REQUEST_TIME: q_ms}
        for entry, its in zip(self.inputs, values, strict=True):
            known.update((f"{entry.prefix}{feature.name}", its.get(feature.name)) for feature in entry.group.model_features)
        for column in self.request:
            value = request.get(column.name)
            if isinstance(value, str) is not (column.type is ColumnType.STRING):
                value = None
            known[column.name] = value = column.default if value is None else value
            if column.type is not ColumnType.STRING:
                vector.append(0.0 if value is None else float(value))
        for expression, kernel in zip(self.derived, self._compiled, strict=True):
            value = kernel.of_row(known)
            vector.append(expression.default if value is None else value)
        return vector

    def derived_from(self, names: Collection[str]) -> list[str]:
        """Returns the names of the derived features whose expressions read one of these names."""
        return [e.name for e, kernel in zip(self.derived, self._compiled, strict=True) if not set(names).isdisjoint(kernel.names)]

    def empty(self) -> list[float]:
        """Returns the model's input for entities without events, a request without a context, and the time 0 ms."""
        return self.of([{}] * len(self.inputs), {}, 0)

    def matrix(self, rows: pd.DataFrame, prefix: str = "") -> Matrix:
        """Returns the model's input for all rows of a training set, shape (rows, inputs). Each row is equal to the result of `of`.

        Args:
            rows: A table with the columns `q_ms`, the features and the request columns.
            prefix: The prefix of the names of the feature columns; "batch_" selects the features that batch alone would have served.
        """
        columns: list[Any] = []
        known: dict[str, Any] = {}
        for entry in self.inputs:
            for feature in entry.group.model_features:
                values = rows[f"{prefix}{entry.prefix}{feature.name}"].astype("float64")
                known[f"{entry.prefix}{feature.name}"] = values.to_numpy()
                columns.append(values.fillna(feature.default).to_numpy())
        if not self.is_plain:
            known[REQUEST_TIME] = rows["q_ms"].to_numpy()
            for column in self.request:
                values = rows[column.name]
                values = values if column.default is None else values.fillna(column.default)
                if column.type is ColumnType.STRING:
                    known[column.name] = values.astype(object).where(values.notna(), None).to_numpy()
                else:
                    known[column.name] = values.astype("float64").to_numpy()
                    columns.append(values.astype("float64").fillna(0.0).to_numpy())
            for expression, kernel in zip(self.derived, self._compiled, strict=True):
                columns.append(np.nan_to_num(kernel.of_columns(known, len(rows)), nan=expression.default))
        return np.column_stack(columns)

    def change_since(self, older: FeatureVector) -> Change:
        """Returns the difference from an older declaration: the names that are added, removed, and declared in another way."""
        was, now = older._parts(), self._parts()
        return Change(
            tuple(name for name in now if name not in was),
            tuple(name for name in was if name not in now),
            tuple((name, f"{was[name]} → {how}") for name, how in now.items() if name in was and was[name] != how),
        )

    def _parts(self) -> dict[str, str]:
        """Returns a mapping: name → how its value is computed, as a phrase."""
        features = {
            f"{entry.prefix}{feature.name}": f"{feature.aggregation.kind} of {entry.group.name} by {', '.join(entry.keys)} ({_digest(entry.group.meaning(index))[:6]})"
            for entry in self.inputs
            for index, feature in enumerate(entry.group.features)
        }
        request = {column.name: f"{column.type.name} of the request, default {column.default}" for column in self.request}
        derived = {
            e.name: f"{kernel.canonical}, default {e.default:g}" for e, kernel in zip(self.derived, self._compiled, strict=True)
        }
        return features | request | derived

    def _check_names(self) -> None:
        keys: dict[str, tuple[ModelInput, ColumnType]] = {}
        reserved = RESERVED_FIELDS if self.is_plain else RESERVED_FIELDS | _RESERVED_COLUMNS
        for entry in self.inputs:
            if entry.prefix and not NAME.fullmatch(entry.prefix):
                raise DeclarationError(
                    f"The prefix {entry.prefix!r} of {entry.group.name} cannot be used.",
                    "Use lower-case letters, digits and underscores.",
                )
            if (twin_key := twin_of(entry.keys)) is not None:
                raise DeclarationError(
                    f"The input {entry.name} has the key {twin_key!r} twice.", "Give each column a key of its own."
                )
            for key, kind in entry.key_types.items():
                if not NAME.fullmatch(key) or key in reserved:
                    raise DeclarationError(
                        f"The key {key!r} of {entry.group.name} is a field of the API or of the training set already, or is no name.",
                        "Rename the column of the entity, or name another field by `group.on(...)`.",
                    )
                twin, its_kind = keys.setdefault(key, (entry, kind))
                if its_kind is not kind:
                    raise DeclarationError(
                        f"The key {key!r} has two types: that of {twin.group.name} and that of {entry.group.name}.",
                        "Give one of them another key by `group.on(...)`.",
                    )
        columns = [
            *(f"{batch}{name}" for batch in ("", "batch_") for entry in self.inputs for name in entry.feature_names),
            *(column.name for column in self.request),
            *(expression.name for expression in self.derived),
        ]
        for what, names in (
            ("inputs", [entry.name for entry in self.inputs]),
            ("features or columns", [*dict.fromkeys(keys), *columns]),
        ):
            if twin_name := twin_of(names):
                raise DeclarationError(
                    f"The model has two {what} named {twin_name!r}.",
                    "Rename one of them, or give an input a prefix by `group.on(key, prefix=...)`.",
                )

    def _fingerprint(self) -> str:
        if self.is_plain:
            return self.inputs[0].group.fingerprint
        inputs = [[entry.key, entry.prefix, entry.group.fingerprint] for entry in self.inputs]
        request = [[column.name, column.type.value, column.default] for column in self.request]
        derived = [[e.name, kernel.canonical, e.default] for e, kernel in zip(self.derived, self._compiled, strict=True)]
        return _digest([inputs, request, derived])[:16]


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def vector_text(vector: FeatureVector) -> str:
    """Returns the declaration as JSON, with the declarations of its groups.

    If the vector is plain and its key is the entity's own, the text is that of the group (`group_text`).
    """
    if vector.is_plain and vector.inputs[0].key == vector.inputs[0].group.entity:
        return group_text(vector.inputs[0].group)
    return json.dumps(
        {
            "fingerprint": vector.fingerprint,
            "inputs": [{"key": entry.key, "prefix": entry.prefix, "group": group_text(entry.group)} for entry in vector.inputs],
            "request": [asdict(column) for column in vector.request],
            "derived": [asdict(expression) for expression in vector.derived],
        },
        sort_keys=True,
    )


def vector_of_text(text: str, sources: Sequence[EventSource]) -> FeatureVector:
    """Reads a declaration that `vector_text` has written.

    Args:
        text: The JSON.
        sources: The current declarations of the sources.

    Raises:
        DeclarationError: The text cannot be read, or its meaning has changed because a source or braid has changed.
    """
    known = {source.name: source for source in sources}
    try:
        stored = json.loads(text)
        if "inputs" not in stored:
            return FeatureVector((_group_of(text, known).on(),))
        inputs = tuple(
            _group_of(entry["group"], known).on(*([key] if isinstance(key := entry["key"], str) else key), prefix=entry["prefix"])
            for entry in stored["inputs"]
        )
        request = tuple(RequestColumn(**{**column, "type": ColumnType(column["type"])}) for column in stored["request"])
        vector = FeatureVector(inputs, request, tuple(Expression(**expression) for expression in stored["derived"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeclarationError(f"The stored input of the model cannot be read: {error}.", "Train the model again.") from None
    if vector.fingerprint != stored.get("fingerprint"):
        raise DeclarationError("The stored input of the model has another meaning today.", "Train the model again.")
    return vector


def _group_of(text: str, sources: Mapping[str, EventSource]) -> FeatureGroup:
    return group_of_text(text, sources[json.loads(text)["source"]])
