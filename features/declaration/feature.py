"""One feature, and the functions that declare one. What each gives for no events stands with it.

All of them take `Options` beside what they name. Where events have no value of the column `of`, they count as no events.
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
from features.windows import EXACT_HOP_MS, MINUTE_MS, Window, default_hop_ms, parse_duration

#: The longest list that is a feature.
MAX_K = 100


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


class Options(TypedDict, total=False):
    """What every feature may say.

    Attributes:
        where: A SQL condition on the event; by default every event counts.
        window: How far the window reaches back, such as "1h"; by default for all time.
        hop: What a sawtooth tail snaps to: by default 5 minutes below 12 hours, 1 hour below 12 days, 1 day from there.
        tail: "sawtooth" (default): the window begins at floor(q - window, hop). "exact": at q - window, to the millisecond, for some
            bytes per event of the tail and a part more of each merge; see docs/tails.md.
        default: What a model is given where the feature has no value; lists are given to no model.
        description: One sentence for people.
    """

    where: str | None
    window: str | None
    hop: str | None
    tail: Literal["sawtooth", "exact"]
    default: float
    description: str


def count(name: str, **options: Unpack[Options]) -> Feature:
    """How many events (BIGINT). 0 where there are none."""
    return _feature(Count(), name, **options)


def total(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """The exact sum of a numeric column (DOUBLE, BIGINT of integers). 0 where there are no values.

    Never wrapped: null where a sum of integers is no 64-bit integer. A DOUBLE is the exact sum, rounded once.
    """
    return _feature(Sum(), name, of, **options)


def mean(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """The mean of a numeric column (DOUBLE). Null where there are no values."""
    return _feature(Mean(), name, of, **options)


def variance(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """The population variance of a numeric column (DOUBLE), rounded once. 0 of one value, null where there are none."""
    return _feature(Variance(), name, of, **options)


def stddev(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """The population standard deviation of a numeric column (DOUBLE): the root of `variance`. Null where there are no values."""
    return _feature(StdDev(), name, of, **options)


def minimum(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """The smallest value of a numeric column (DOUBLE, BIGINT of integers). Null where there are no values."""
    return _feature(Min(), name, of, **options)


def maximum(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """The largest value of a numeric column (DOUBLE, BIGINT of integers). Null where there are no values."""
    return _feature(Max(), name, of, **options)


def last(name: str, *, of: str, **options: Unpack[Options]) -> Feature:
    """The latest value of a numeric column (DOUBLE, BIGINT of integers); of several in one millisecond, the largest.

    Null where there are no values.
    """
    return _feature(Last(), name, of, **options)


def last_k(name: str, *, of: str, k: int, **options: Unpack[Options]) -> Feature:
    """The `k` latest values of a text or numeric column, the latest first; within one millisecond the largest first.

    A list (ARRAY of STRING, DOUBLE or BIGINT) of fewer than `k` where there are fewer events, null where there are none. Texts are
    compared by their code points, and kept whole. Given to no model.
    """
    return _feature(LastK(_length(name, k)), name, of, **options)


def top_k(name: str, *, of: str, k: int, bound: int = 1_024, **options: Unpack[Options]) -> Feature:
    """The `k` most frequent values of a text or numeric column, the most frequent first; of equally frequent ones the smaller first.

    A list (ARRAY of STRING, DOUBLE or BIGINT), exact, and null where there are no values or more than `bound` different ones: every
    value's count has to be kept. Texts are compared by their code points, and kept whole. Given to no model.
    """
    if bound < k:
        raise DeclarationError(f"The bound of {name}, {bound}, is smaller than its k, {k}.", "Use a larger bound.")
    return _feature(TopK(_length(name, k), bound), name, of, **options)


def distinct(name: str, *, of: str, bound: int = 1_024, **options: Unpack[Options]) -> Feature:
    """How many different values of a column (BIGINT): exact below `bound`, from there on within 1 / sqrt(bound - 2) (one standard error).

    0 where there are no values.
    """
    if bound < 16:
        raise DeclarationError(f"The bound of {name}, {bound}, is too small for an estimate.", "Use at least 16.")
    return _feature(Distinct(bound), name, of, **options)


def approx_distinct(name: str, *, of: str, precision: int = 10, **options: Unpack[Options]) -> Feature:
    """About how many different values of a column (BIGINT), by a HyperLogLog of 2^precision registers. 0 where there are no values.

    Relative standard error 1.04 / sqrt(2^precision): 3.3 % at 10, for 1.2 KB at most where `distinct` takes 9 KB; 0.8 % at 14, for
    19 KB. Also a small count is an estimate: two values fall into one register once in 2^precision.
    """
    if not 4 <= precision <= 16:
        raise DeclarationError(f"The precision of {name}, {precision}, cannot be used.", "Use 4 to 16.")
    return _feature(ApproxDistinct(precision), name, of, **options)


def since_last(name: str, *, unit: str = "days", **options: Unpack[Options]) -> Feature:
    """The time since the latest event, in `unit`: seconds, minutes, hours, days (DOUBLE). Null where there was none."""
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
            given = "a hop" if hop is not None else "an exact tail"
            raise DeclarationError(f"The feature {name} has {given} but no window.", "Give a window, or leave that out.")
        return None
    size_ms = parse_duration(window)
    if tail == "exact":
        if hop is not None:
            raise DeclarationError(
                f"The feature {name} has a hop and an exact tail.", "Leave one out: an exact tail snaps to no hop."
            )
        return Window(size_ms, EXACT_HOP_MS)
    hop_ms = parse_duration(hop) if hop else default_hop_ms(size_ms)
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
