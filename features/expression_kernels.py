"""The operations of derived features. Each has a form for values (one request) and a form for columns (training), which are equal to the bit.

The first form reads and returns `Value`, the second `Column`. Neither form raises an error: a result that does not exist, or that is not a finite
number, is null. The two forms agree for one of three reasons:

    arithmetic     + - * / % floor ceil round sqrt and comparisons: IEEE 754 determines the result, in Python as in NumPy
    elementwise    exp, ln, log1p, power, rounding to digits, texts and hashes: both forms call the same Python function for each value, because
                   the functions of NumPy may differ in the last bit
    selection      CASE, coalesce, least and greatest choose one of their arguments by the same comparison
"""

from __future__ import annotations

import hashlib
import math
import operator
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import reduce
from sys import float_info
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.windows import DAY_MS, HOUR_MS

#: A number or a time is a float, a text is a str, a condition is a bool; None is null.
Value = float | str | bool | None
Array = npt.NDArray[Any]
#: Kind of a column's dtype → the value in place of nulls.
_FILLERS: dict[str, Any] = {"f": 0.0, "b": False, "O": ""}
#: Enough digits for every double with 15 decimal places, so that only the last step of a rounding rounds.
_EXACT = Context(prec=400, rounding=ROUND_HALF_UP)


class Column(NamedTuple):
    """The values of many rows. If `valid` is false, the value of the row is null and `values` has a filler (`_FILLERS`).

    The dtype is float64 for numbers and times, bool for conditions, and object for texts. A constant has one row, which NumPy broadcasts.
    """

    values: Array
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Operation:
    """An operation in its two forms: for values and for columns."""

    of_values: Callable[..., Value]
    of_columns: Callable[..., Column]


def column_of(values: Sequence[Value], dtype: type) -> Column:
    """Makes a column of values; a None becomes a null."""
    array: Array = np.empty(len(values), dtype)
    filler = _FILLERS[array.dtype.kind]
    array[:] = [filler if value is None else value for value in values]
    return Column(array, np.fromiter((value is not None for value in values), np.bool_, len(values)))


def _all_valid(columns: Sequence[Column]) -> npt.NDArray[np.bool_]:
    return reduce(operator.and_, (column.valid for column in columns))


def _arithmetic(of_numbers: Callable[..., float], of_arrays: Callable[..., Array] | None = None) -> Operation:
    """Makes an operation on numbers. Its result is null if an argument is null or the result is not a finite number.

    Without `of_arrays` the operation is elementwise.
    """

    def of_values(*numbers: float | None) -> float | None:
        if None in numbers:
            return None
        try:
            number = of_numbers(*numbers)
        except (ArithmeticError, ValueError):  # NumPy returns an infinity or NaN instead
            return None
        return number if -float_info.max <= number <= float_info.max else None

    def of_columns(*columns: Column) -> Column:
        assert of_arrays is not None
        with np.errstate(all="ignore"):
            numbers = of_arrays(*(column.values for column in columns))
        valid = _all_valid(columns) & np.isfinite(numbers)
        return Column(np.where(valid, numbers, 0.0), valid)

    return Operation(of_values, of_columns if of_arrays else _elementwise(of_values, float))


def _elementwise(of_values: Callable[..., Value], dtype: type) -> Callable[..., Column]:
    """Makes the form for columns that calls the form for values for each row without a null."""

    def of_columns(*columns: Column) -> Column:
        arrays = np.broadcast_arrays(_all_valid(columns), *(column.values for column in columns))
        rows = zip(*(array.tolist() for array in arrays), strict=True)
        return column_of([of_values(*arguments) if valid else None for valid, *arguments in rows], dtype)

    return of_columns


def _total_function(function: Callable[..., Value], dtype: type) -> Operation:
    """Makes an elementwise operation from a function that has a result for all arguments. The result is null if an argument is null."""

    def of_values(*arguments: Value) -> Value:
        return None if None in arguments else function(*arguments)

    return Operation(of_values, _elementwise(of_values, dtype))


def _comparison(compare: Callable[[Any, Any], Any]) -> Operation:
    def of_values(x: Value, y: Value) -> bool | None:
        return None if x is None or y is None else compare(x, y)

    def of_columns(x: Column, y: Column) -> Column:
        valid = x.valid & y.valid
        return Column(compare(x.values, y.values) & valid, valid)

    return Operation(of_values, of_columns)


def _extreme(is_better: Callable[[Any, Any], Any]) -> Operation:
    """Makes an operation whose result is the best argument; of equal arguments, such as 0.0 and -0.0, the first. Nulls are ignored."""

    def of_values(*arguments: Any) -> Value:
        best = None
        for value in arguments:
            if value is not None and (best is None or is_better(value, best)):
                best = value
        return best

    def better_of(best: Column, column: Column) -> Column:
        chosen = column.valid & (~best.valid | is_better(column.values, best.values))
        return Column(np.where(chosen, column.values, best.values), best.valid | column.valid)

    return Operation(of_values, lambda *columns: reduce(better_of, columns))


def _half_away(x: float) -> float:
    whole = float(math.floor(abs(x)))
    return math.copysign(whole + (abs(x) - whole >= 0.5), x) + 0.0  # + 0.0 converts -0.0 to 0.0


def _half_away_of_array(x: Array) -> Array:
    whole = np.floor(np.abs(x))
    return np.copysign(whole + (np.abs(x) - whole >= 0.5), x) + 0.0


def round_to(digits: int) -> Operation:
    """Makes the operation that rounds to `digits` decimal places, from -15 to 15; a half is rounded away from zero.

    It rounds the shortest decimal number that the float prints as, so 2.675 becomes 2.68, as in Spark.
    """
    if digits == 0:
        return _arithmetic(_half_away, _half_away_of_array)
    step = Decimal(1).scaleb(-digits)
    return _arithmetic(lambda x: float(Decimal(repr(x)).quantize(step, context=_EXACT)) + 0.0)


def bucket(boundaries: Sequence[float]) -> Operation:
    """Makes the operation that counts the boundaries less than or equal to its argument. The boundaries ascend."""
    edges = np.array(boundaries, np.float64)

    def counts_of(numbers: Array) -> Array:
        return edges.searchsorted(numbers, side="right").astype(np.float64)

    return _arithmetic(lambda x: float(bisect_right(boundaries, x)), counts_of)


def hash_bucket(buckets: int) -> Operation:
    """Makes the operation that assigns a text or a number to a bucket, from 0 to buckets - 1, the same in every process and version.

    The bucket is the BLAKE2b hash of 8 bytes, read as a little-endian unsigned integer, modulo `buckets`. The bytes are the UTF-8 of a text, or the
    little-endian float64 of a number, where -0.0 counts as 0.0.
    """

    def bucket_of(value: str | float) -> float:
        content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else struct.pack("<d", value + 0.0)
        return float(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") % buckets)

    return _total_function(bucket_of, float)


def _and(x: bool | None, y: bool | None) -> bool | None:
    if x is False or y is False:
        return False
    return None if x is None or y is None else True


def _and_of_columns(x: Column, y: Column) -> Column:
    is_false = (x.valid & ~x.values) | (y.valid & ~y.values)
    return Column(x.values & y.values, is_false | (x.valid & y.valid))


def _or(x: bool | None, y: bool | None) -> bool | None:
    if x is True or y is True:
        return True
    return None if x is None or y is None else False


def _or_of_columns(x: Column, y: Column) -> Column:
    is_true = x.values | y.values  # the filler of a null is False
    return Column(is_true, is_true | (x.valid & y.valid))


def _not(x: bool | None) -> bool | None:
    return None if x is None else not x


def _in(value: Value, *candidates: Value) -> bool | None:
    if value is None:
        return None
    return True if value in candidates else None if None in candidates else False


def _in_columns(value: Column, *candidates: Column) -> Column:
    return reduce(_or_of_columns, (EQUAL.of_columns(value, candidate) for candidate in candidates))


def _case(*arguments: Any) -> Value:
    *branches, default = arguments
    for condition, value in zip(branches[::2], branches[1::2], strict=True):
        if condition is True:
            return value
    return default


def _case_of_columns(*arguments: Column) -> Column:
    *branches, chosen = arguments
    for condition, value in zip(branches[-2::-2], branches[::-2], strict=True):
        chosen = Column(*(np.where(condition.values, new, old) for new, old in zip(value, chosen, strict=True)))
    return chosen


def _coalesce(*arguments: Value) -> Value:
    return next((value for value in arguments if value is not None), None)


def _coalesce_columns(*columns: Column) -> Column:
    *preferred, chosen = columns
    for column in reversed(preferred):
        chosen = Column(np.where(column.valid, column.values, chosen.values), column.valid | chosen.valid)
    return chosen


NEGATE = _arithmetic(operator.neg, np.negative)
ADD = _arithmetic(operator.add, np.add)
SUBTRACT = _arithmetic(operator.sub, np.subtract)
MULTIPLY = _arithmetic(operator.mul, np.multiply)
DIVIDE = _arithmetic(operator.truediv, np.divide)
REMAINDER = _arithmetic(math.fmod, np.fmod)
ABS = _arithmetic(abs, np.abs)
FLOOR = _arithmetic(lambda x: float(math.floor(x)), lambda x: np.floor(x) + 0.0)  # + 0.0 converts -0.0 to 0.0
CEIL = _arithmetic(lambda x: float(math.ceil(x)), lambda x: np.ceil(x) + 0.0)
SIGN = _arithmetic(lambda x: float((x > 0) - (x < 0)), lambda x: (x > 0).astype(np.float64) - (x < 0))
SQRT = _arithmetic(math.sqrt, np.sqrt)
LN, LOG1P, EXP, POWER = _arithmetic(math.log), _arithmetic(math.log1p), _arithmetic(math.exp), _arithmetic(math.pow)
EQUAL, NOT_EQUAL = _comparison(operator.eq), _comparison(operator.ne)
LESS, LESS_OR_EQUAL = _comparison(operator.lt), _comparison(operator.le)
GREATER, GREATER_OR_EQUAL = _comparison(operator.gt), _comparison(operator.ge)
AND, OR = Operation(_and, _and_of_columns), Operation(_or, _or_of_columns)
NOT = Operation(_not, lambda x: Column(~x.values & x.valid, x.valid))
IS_NULL = Operation(lambda x: x is None, lambda x: Column(~x.valid, np.ones_like(x.valid)))
IN, CASE, COALESCE = Operation(_in, _in_columns), Operation(_case, _case_of_columns), Operation(_coalesce, _coalesce_columns)
LEAST, GREATEST = _extreme(operator.lt), _extreme(operator.gt)
#: 1.0 for true, 0.0 for false.
NUMBER_OF_CONDITION = Operation(lambda x: None if x is None else float(x), lambda x: Column(x.values.astype(np.float64), x.valid))
LOWER, UPPER = _total_function(str.lower, object), _total_function(str.upper, object)
LENGTH = _total_function(lambda text: float(len(text)), float)
CONCAT = _total_function(lambda *texts: "".join(texts), object)
#: The hour of a time in UTC, 0 to 23.
HOUR_OF_DAY = _arithmetic(
    lambda ms: float(int(ms) // HOUR_MS % 24), lambda ms: (ms.astype(np.int64) // HOUR_MS % 24).astype(np.float64)
)
#: The day of the week of a time in UTC, 1 (Monday) to 7. 1970-01-01 was a Thursday.
DAY_OF_WEEK = _arithmetic(
    lambda ms: float((int(ms) // DAY_MS + 3) % 7 + 1),
    lambda ms: ((ms.astype(np.int64) // DAY_MS + 3) % 7 + 1).astype(np.float64),
)
SECONDS_BETWEEN = _arithmetic(lambda start, end: (end - start) / 1000.0, lambda start, end: (end - start) / 1000.0)
