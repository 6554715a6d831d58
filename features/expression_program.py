"""The program of a derived feature: a list of steps without branches, evaluated for one row or for columns.

Reads the values of a request, or the columns of a training set, and returns the value of the last step. `features.expression_compiler` makes
the steps. For one row, the steps become the source of one Python function, so a row costs one call per operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from sys import float_info
from typing import Any

import numpy as np

from features.expression_kernels import Array, Column, Operation, Value, column_of


class ValueKind(StrEnum):
    """The kind of the values of a name."""

    NUMBER = "number"
    TEXT = "text"
    TIME = "time"  # an integer: milliseconds since 1970 in UTC


NUMBER, TEXT, TIME = ValueKind
#: Two more kinds within an expression: the kind of a comparison, and the kind of the literal NULL, which fits every kind.
CONDITION, NULL = "condition", "null"
#: Kind → the dtype of its arrays.
_DTYPES: dict[str, type] = {NUMBER: float, TIME: float, TEXT: object, CONDITION: bool, NULL: float}
#: Kind → the largest magnitude. Every integer up to 2^53 is a double, so every time up to 2^53 ms is exact.
_LIMITS: dict[str, float] = {NUMBER: float_info.max, TIME: 2.0**53}


@dataclass(frozen=True)
class Reading:
    """A step that reads a name.

    Args:
        name: The name of a feature, of a request column, or of the time of the request.
        kind: The kind of its values.
    """

    name: str
    kind: ValueKind

    def of_value(self, value: Any) -> Value:
        """Converts a value to a float or str. Returns None for None, NaN, a number that is not a finite double, and a time beyond 2^53 ms.

        Raises:
            TypeError: The value is not of the kind.
        """
        return self._text(value) if self.kind == TEXT else self._number(value)

    def of_column(self, column: Any, length: int) -> Column:
        """Converts a column; its values are equal to `of_value` of each row.

        Raises:
            ValueError: The column does not have the given length.
            TypeError: A value is not of the kind.
        """
        array = _array(column)
        if array.shape != (length,):
            raise ValueError(f"The column {self.name} has the shape {array.shape}, not {(length,)}.")
        if array.dtype.kind in "mM":
            raise TypeError(f"The column {self.name} has the type {array.dtype}. Pass integers: milliseconds since 1970 in UTC.")
        if self.kind == TEXT or array.dtype.kind not in "fiub":
            return column_of([self.of_value(value) for value in array.tolist()], _DTYPES[self.kind])
        numbers = np.ma.getdata(array).astype(np.float64)
        valid = (np.abs(numbers) <= _LIMITS[self.kind]) & ~np.ma.getmaskarray(array)
        return Column(np.where(valid, numbers, 0.0), valid)

    def _number(self, value: Any) -> float | None:
        if value is None:
            return None
        if type(value) is not float:
            if not isinstance(value, Real):
                raise self._wrong_type(value)
            try:
                value = float(value)
            except OverflowError:
                return None
        limit = _LIMITS[self.kind]
        return value if -limit <= value <= limit else None

    def _text(self, value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float) and math.isnan(value):  # pandas has NaN for a missing text
            return None
        raise self._wrong_type(value)

    def _wrong_type(self, value: object) -> TypeError:
        return TypeError(f"The value of {self.name} is a {type(value).__name__}, where a {self.kind} is needed.")


@dataclass(frozen=True)
class Constant:
    """A step whose value is a literal."""

    value: Value
    kind: str


@dataclass(frozen=True)
class Call:
    """A step that applies an operation to the values of earlier steps, whose indices are `places`."""

    operation: Operation
    places: tuple[int, ...]


Step = Reading | Constant | Call


def row_function(steps: Sequence[Step]) -> Callable[[Mapping[str, Any]], float | None]:
    """Compiles the steps to a function from the values of one row to the value of the last step, a number or None."""
    namespace: dict[str, Any] = {}
    lines = []
    for place, step in enumerate(steps):
        match step:
            case Reading():
                namespace |= {f"name_{place}": step.name, f"read_{place}": step.of_value}
                lines.append(f"    value_{place} = read_{place}(values[name_{place}])")
            case Constant():
                namespace[f"value_{place}"] = step.value
            case Call():
                namespace[f"operation_{place}"] = step.operation.of_values
                arguments = ", ".join(f"value_{argument}" for argument in step.places)
                lines.append(f"    value_{place} = operation_{place}({arguments})")
    source = "\n".join(["def of_row(values):", *lines, f"    return value_{len(steps) - 1}"])
    # The source contains no text of a user: the names and constants of the expression are objects in `namespace`.
    exec(source, namespace)  # noqa: S102  # nosec B102
    return namespace["of_row"]


def evaluate_columns(steps: Sequence[Step], columns: Mapping[str, Any], length: int) -> Array:
    """Returns the value of the last step for each row: float64, shape (length,), NaN for null."""
    results: list[Column] = []
    for step in steps:
        match step:
            case Reading():
                results.append(step.of_column(columns[step.name], length))
            case Constant():
                results.append(column_of([step.value], _DTYPES[step.kind]))
            case Call():
                results.append(step.operation.of_columns(*(results[place] for place in step.places)))
    values, valid = results[-1]
    return np.broadcast_to(np.where(valid, values, np.nan), (length,)).copy()


def _array(column: Any) -> Array:
    if isinstance(column, np.ndarray):
        return column
    if hasattr(column, "to_numpy"):  # a column of pandas
        is_of_numpy = isinstance(column.dtype, np.dtype) and column.dtype.kind != "O"
        return column.to_numpy() if is_of_numpy else column.to_numpy(dtype=object, na_value=None)
    array = np.empty(len(column), object)
    array[:] = list(column)
    return array
