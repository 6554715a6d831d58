"""A feature, and the functions that declare a feature. The docstring of each function states the type of the feature and its value without events.

All functions take `Options`, and raise a DeclarationError for an invalid argument. An event without a value in the column `of` does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

from features.aggregations import (
    TIME_UNITS_MS,
    Aggregation,
    ApproxDistinct,
    Count,
    Distinct,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    SinceLast,
    StdDev,
    Sum,
    TopK,
    Variance,
)  # fmt: skip
from features.errors import DeclarationError
from features.windows import EXACT_HOP_MS, MINUTE_MS, SECOND_MS, Window, default_hop_ms, parse_duration

#: The largest k: the length of the longest list that is a feature.
MAX_K = 100


@dataclass(frozen=True)
class Feature:
    """One feature: an aggregation of a value, under a condition, over a window.

    Use the functions of this module (`count`, `total`, `mean`, …) to make one.

    Attributes:
        name: The name of the feature, unique in its group.
        aggregation: The aggregation, with its parameters.
        of: The aggregated column; None if the aggregation reads no column.
        where: A SQL condition on an event; None if every event counts.
        window: The sliding window; None for all time.
        default: The input of a model if the feature has no value.
        description: One sentence for people.
    """

    name: str
    aggregation: Aggregation
    of: str | None = None
    where: str | None = None
    window: Window | None = None
    default: float = 0.0
    description: str = ""


class Options(TypedDict, total=False):
    """The options of every feature.

    Attributes:
        where: A SQL condition on an event; by default every event counts.
        window: The length of the window, such as "1h"; by default all time.
        hop: The step of a sawtooth tail, at least a second. By default it is 5 minutes for a window below 12 hours, 1 hour below 12 days, and
            1 day from 12 days on.
        tail: "sawtooth" (default): the window begins at floor(q - window, hop). "exact": the window begins at q - window, to the
            millisecond; this costs some bytes per event of the tail and a longer merge, see docs/tails.md.
        default: The input of a model if the feature has no value. A list is never an input of a model.
        description: One sentence for people.
    """

    where: str | None
    window: str | None
    hop: str | None
    tail: Literal["sawtooth", "exact"]
    default: float
    description: str


def count(name: str, **options: Unpack[Options]) -> Feature:
    """Declares the number of events (BIGINT). 0 without events."""
    return _feature(Count(), name, **options)


def total(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """Declares the exact sum of a numeric column (DOUBLE; BIGINT for integers). 0 without values.

    A sum of integers that does not fit a BIGINT is null. A DOUBLE is the exact sum, rounded once.
    """
    return _feature(Sum(), name, of, **options)


def mean(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """Declares the mean of a numeric column (DOUBLE). Null without values."""
    return _feature(Mean(), name, of, **options)


def variance(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """Declares the population variance of a numeric column (DOUBLE), rounded once. 0 for a single value, null without values."""
    return _feature(Variance(), name, of, **options)


def stddev(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """Declares the population standard deviation of a numeric column (DOUBLE): the square root of `variance`. Null without values."""
    return _feature(StdDev(), name, of, **options)


def minimum(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """Declares the smallest value of a numeric column (DOUBLE; BIGINT for integers). Null without values."""
    return _feature(Min(), name, of, **options)


def maximum(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """Declares the largest value of a numeric column (DOUBLE; BIGINT for integers). Null without values."""
    return _feature(Max(), name, of, **options)


def last(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """Declares the latest value of a numeric column (DOUBLE; BIGINT for integers). Null without values.

    Of several values in one millisecond, it is the largest.
    """
    return _feature(Last(), name, of, **options)


def last_k(name: str, *, of: str, k: int, **options: Unpack[Options]) -> Feature:
    """Declares a list of the `k` latest values of a text or numeric column (ARRAY of STRING, DOUBLE or BIGINT). Null without values.

    The latest value comes first; within one millisecond, the largest. The list is shorter than `k` if there are fewer values. Texts are
    compared by their code points and never shortened. A list is never an input of a model.
    """
    return _feature(LastK(_length(name, k)), name, of, **options)


def top_k(name: str, *, of: str, k: int, bound: int = 1_024, **options: Unpack[Options]) -> Feature:
    """Declares a list of the `k` most frequent values of a text or numeric column (ARRAY of STRING, DOUBLE or BIGINT). Null without values.

    The most frequent value comes first; of equally frequent values, the smaller. The list is exact. It is null for more than `bound` different
    values, because the count of each value is stored. Texts are compared by their code points and never shortened. A list is never an input of
    a model.
    """
    if bound < k:
        raise DeclarationError(f"The bound of {name}, {bound}, is smaller than its k, {k}.", "Use a larger bound.")
    return _feature(TopK(_length(name, k), bound), name, of, **options)


def distinct(name: str, *, of: str, bound: int = 1_024, **options: Unpack[Options]) -> Feature:
    """Declares the number of different values of a column (BIGINT), exact below `bound`. 0 without values.

    From `bound` values on it is an estimate with a relative standard error of 1 / sqrt(bound - 2).
    """
    if bound < 16:
        raise DeclarationError(f"The bound of {name}, {bound}, is too small for an estimate.", "Use at least 16.")
    return _feature(Distinct(bound), name, of, **options)


def approx_distinct(name: str, *, of: str, precision: int = 10, **options: Unpack[Options]) -> Feature:
    """Declares the approximate number of different values of a column (BIGINT): a HyperLogLog of 2^precision registers. 0 without values.

    The relative standard error is 1.04 / sqrt(2^precision): 3.3 % at a precision of 10, which takes at most 1.2 KB (`distinct`: 9 KB);
    0.8 % at 14, which takes 19 KB. A small count is an estimate, too, because two values share a register with a probability of
    1 / 2^precision.
    """
    if not 4 <= precision <= 16:
        raise DeclarationError(f"The precision of {name}, {precision}, cannot be used.", "Use 4 to 16.")
    return _feature(ApproxDistinct(precision), name, of, **options)


def since_last(name: str, *, unit: str = "days", **options: Unpack[Options]) -> Feature:
    """Declares the time since the latest event, in `unit`: seconds, minutes, hours or days (DOUBLE). Null without events."""
    if unit not in TIME_UNITS_MS:
        raise DeclarationError(f"The unit of {name}, {unit!r}, is unknown.", f"Use one of {', '.join(TIME_UNITS_MS)}.")
    return _feature(SinceLast(unit), name, **options)


def _feature(aggregation: Aggregation, name: str, of: str | None = None, *, window: str | None = None, hop: str | None = None,
             tail: str = "sawtooth", **rest: Any) -> Feature:  # fmt: skip
    return Feature(name, aggregation, of, window=_window(name, window, hop, tail), **rest)


def _window(name: str, window: str | None, hop: str | None, tail: str) -> Window | None:
    if tail not in ("sawtooth", "exact"):
        raise DeclarationError(f"The tail of {name}, {tail!r}, is unknown.", "Use 'sawtooth' or 'exact'.")
    if window is None:
        if hop is not None or tail == "exact":
            option = "a hop" if hop is not None else "an exact tail"
            raise DeclarationError(f"The feature {name} has {option} but no window.", f"Add a window, or remove {option}.")
        return None
    size_ms = parse_duration(window)
    if tail == "exact":
        if hop is not None:
            raise DeclarationError(
                f"The feature {name} has a hop and an exact tail.", "Remove one of the two: an exact tail has no hop."
            )
        return Window(size_ms, EXACT_HOP_MS)
    hop_ms = parse_duration(hop) if hop else default_hop_ms(size_ms)
    if hop_ms < SECOND_MS:
        raise DeclarationError(
            f"The hop of {name}, {hop}, is shorter than a second.", "Use at least '1s', or tail='exact' without a hop."
        )
    if size_ms < hop_ms:
        raise DeclarationError(
            f"The window of {name}, {window}, is shorter than its hop, {hop or f'{hop_ms // MINUTE_MS} min'}.",
            "Make the window longer or the hop shorter.",
        )
    return Window(size_ms, hop_ms)


def _length(name: str, k: int) -> int:
    if not 1 <= k <= MAX_K:
        raise DeclarationError(f"The k of {name}, {k}, cannot be used.", f"Use 1 to {MAX_K}.")
    return k
