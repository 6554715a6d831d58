"""Derived features: SQL expressions over the features of a model and the columns of its requests, compiled once to two forms.

Reads an expression and the kinds of the names that it may use. Returns its value for one row of a request (`Compiled.of_row`) and for the
columns of a training set (`Compiled.of_columns`). Both values are equal to the bit. sqlglot parses the expression when it is compiled, never
for a request.

    null           an operation with a null argument is null, except: AND and OR are three-valued, CASE and IF treat a null condition as
                   false, COALESCE, LEAST and GREATEST ignore nulls, IS NULL is never null
    numbers        float64; an integer is converted first. Division or remainder by zero, an overflow, NaN and an infinity are null
    conditions     as the result of an expression, 1.0 or 0.0; inside an expression a condition is not a number, and a number is not a condition
    times          milliseconds since 1970 in UTC; null beyond 2^53
    texts          compared by their code points

docs/expressions.md lists the operators and functions. Everything else is refused, such as the clock, random numbers and aggregations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlglot
from sqlglot.errors import SqlglotError

from features import expression_kernels as kernels
from features.errors import DeclarationError
from features.expression_compiler import Compiler, phrase
from features.expression_program import CONDITION, NUMBER, Call, Reading, Step, ValueKind, evaluate_columns, row_function
from features.names import FEATURE_NAME

__all__ = ["Compiled", "Expression", "ValueKind", "compiled", "expression"]


@dataclass(frozen=True)
class Expression:
    """A derived feature: a SQL expression whose value is a number or a condition.

    Attributes:
        name: The name of the derived feature.
        sql: The expression, as written.
        default: The input of a model if the expression is null.

    Raises:
        DeclarationError: The name or the default cannot be used.
    """

    name: str
    sql: str
    default: float = 0.0

    def __post_init__(self) -> None:
        if not FEATURE_NAME.fullmatch(self.name):
            raise DeclarationError(
                f"The name {self.name!r} cannot be used.", "Use lower-case letters, digits and underscores, a letter first."
            )
        if not math.isfinite(self.default):
            raise DeclarationError(f"The default of {self.name}, {self.default}, is no finite number.", "Use a finite number.")


def expression(name: str, sql: str, default: float = 0.0) -> Expression:
    """Declares a derived feature (DOUBLE): the value of a SQL expression, or `default` if the expression is null."""
    return Expression(name, sql, default)


@dataclass(frozen=True)
class Compiled:
    """A derived feature in its two forms, which are equal to the bit.

    Attributes:
        names: The names that the expression reads, in the order of first use.
        canonical: The expression in a spelling that white space, comments and redundant parentheses do not change.
    """

    names: tuple[str, ...]
    canonical: str
    _steps: tuple[Step, ...] = field(repr=False)
    _of_row: Callable[[Mapping[str, Any]], float | None] = field(repr=False)

    def of_row(self, values: Mapping[str, float | int | str | None]) -> float | None:
        """Returns the value for one row; None for null.

        Raises:
            KeyError: `values` lacks a name of the expression. Pass None for a missing value.
            TypeError: A value has another type than the kind of its name.
        """
        return self._of_row(values)

    def of_columns(self, columns: Mapping[str, Sequence[Any] | npt.NDArray[Any] | Any], length: int) -> npt.NDArray[np.float64]:
        """Returns the values for `length` rows: float64, NaN for null. In a column, None, NaN, pandas' NA and a masked value are null.

        Raises:
            KeyError: `columns` lacks a name of the expression.
            TypeError: A value has another type than the kind of its name.
            ValueError: The length of a column is not `length`.
        """
        return evaluate_columns(self._steps, columns, length)


def compiled(expression: Expression, kinds: Mapping[str, ValueKind]) -> Compiled:
    """Compiles an expression to its two forms.

    Args:
        expression: The expression.
        kinds: Name that the expression may use → the kind of its values.

    Raises:
        DeclarationError: The expression does not parse, names an unknown name, uses something that is not allowed, uses a value of the
            wrong kind, or its result is neither a number nor a condition.
    """
    try:
        compiler = Compiler(expression.name, kinds)
        result = compiler.node(sqlglot.parse_one(expression.sql, dialect="spark"))
    except SqlglotError as error:
        reason = str(error).splitlines()[0]
        raise DeclarationError(
            f"The expression of {expression.name} does not parse: {expression.sql!r} ({reason}).", "Write one SQL expression."
        ) from None
    except RecursionError:
        raise DeclarationError(
            f"The expression of {expression.name} is nested too deeply.", "Use fewer levels of parentheses or operators."
        ) from None
    if result.kind not in (NUMBER, CONDITION):
        raise DeclarationError(
            f"The result of {expression.name} is {phrase(result.kind)}: {expression.sql!r}.",
            "A derived feature is a number or a condition, such as length(name) or country = 'DE'.",
        )
    assert result.place == len(compiler.steps) - 1
    steps = tuple(compiler.steps)
    if result.kind == CONDITION:
        steps = (*steps, Call(kernels.NUMBER_OF_CONDITION, (result.place,)))
    names = tuple(step.name for step in steps if isinstance(step, Reading))
    return Compiled(names, result.spelling, steps, row_function(steps))
