"""Brute force: the values of a group's features from the words of the declaration alone, one pass over all events per feature."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from statistics import pvariance
from typing import Any

from features.aggregations import TIME_UNITS_MS, Aggregation, Value
from features.declaration import FeatureGroup
from tests.pure import Event, evaluated

#: (time, value) of each event that counts, in the order of time; a decimal is a Fraction.
Pairs = list[tuple[int, Any]]


def top(values: list[Any], one: Any) -> list[Any] | None:
    counts = Counter(values)
    return sorted(counts, key=lambda value: (-counts[value], value))[: one.k] if len(counts) <= one.bound else None


#: What each kind says of at least one event, at q.
VALUES: dict[str, Callable[[Pairs, list[Any], Any, int], Any]] = {
    "count": lambda pairs, values, one, q_ms: len(values),
    "sum": lambda pairs, values, one, q_ms: sum(values),
    "mean": lambda pairs, values, one, q_ms: float(Fraction(sum(values)) / len(values)),
    "variance": lambda pairs, values, one, q_ms: float(pvariance(map(Fraction, values))),
    "stddev": lambda pairs, values, one, q_ms: math.sqrt(pvariance(map(Fraction, values))),
    "min": lambda pairs, values, one, q_ms: min(values),
    "max": lambda pairs, values, one, q_ms: max(values),
    "last": lambda pairs, values, one, q_ms: max(pairs)[1],
    "last_k": lambda pairs, values, one, q_ms: [value for _, value in sorted(pairs, reverse=True)[: one.k]],
    "top_k": lambda pairs, values, one, q_ms: top(values, one),
    "distinct": lambda pairs, values, one, q_ms: len(set(values)),
    "approx_distinct": lambda pairs, values, one, q_ms: len(set(values)),
    "since_last": lambda pairs, values, one, q_ms: (q_ms - max(pairs)[0]) / TIME_UNITS_MS[one.unit],
}  # fmt: skip


def value_of(pairs: Pairs, aggregation: Aggregation, q_ms: int) -> Value:
    if not pairs:
        return 0 if aggregation.kind in ("count", "sum", "distinct", "approx_distinct") else None
    found = VALUES[aggregation.kind](pairs, [value for _, value in pairs], aggregation, q_ms)
    if aggregation.kind == "sum" and isinstance(found, int) and not -(2**63) <= found < 2**63:
        return None
    plain = [float(one) if isinstance(one, Fraction) else one for one in (found if isinstance(found, list) else [found])]
    return plain if isinstance(found, list) else plain[0]


def oracle(group: FeatureGroup, events: Sequence[Event], entity: int | str, q_ms: int) -> dict[str, Value]:
    """The features of the entity at `q_ms`; copies of an event have fallen."""
    mine, result = [one for one in events if one[group.entity] == entity and one["ts_ms"] < q_ms], {}
    for feature in group.features:
        window = feature.window
        start_ms = -math.inf if window is None else (q_ms - window.size_ms) // window.hop_ms * window.hop_ms
        inside = [one for one in mine if one["ts_ms"] >= start_ms]
        holds = evaluated(group.source, inside, [feature.where])[0] if feature.where else [True] * len(inside)
        pairs = [(one["ts_ms"], one[feature.of] if feature.of else 1) for one, ok in zip(inside, holds, strict=True) if ok]
        result[feature.name] = value_of([pair for pair in pairs if pair[1] is not None], feature.aggregation, q_ms)
    return result
