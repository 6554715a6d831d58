"""Brute force: the values of a group's features from the words of the declaration alone, one pass over all events per feature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from statistics import pvariance
from typing import Any

from features.aggregations import TIME_UNITS_MS, Aggregation, Value
from features.declaration import FeatureGroup
from tests.pure import Event, evaluated

#: (time, value) of each event that counts; a decimal is a Fraction.
Pairs = list[tuple[int, Any]]
#: What each kind says of at least one event, at q.
VALUES: dict[str, Callable[[Pairs, list[Any], Any, int], Any]] = {
    "count": lambda pairs, values, how, q_ms: len(values),
    "sum": lambda pairs, values, how, q_ms: sum(values),
    "mean": lambda pairs, values, how, q_ms: float(Fraction(sum(values)) / len(values)),
    "variance": lambda pairs, values, how, q_ms: float(pvariance(map(Fraction, values))),
    "stddev": lambda pairs, values, how, q_ms: math.sqrt(pvariance(map(Fraction, values))),
    "min": lambda pairs, values, how, q_ms: min(values),
    "max": lambda pairs, values, how, q_ms: max(values),
    "last": lambda pairs, values, how, q_ms: max(pairs)[1],
    "last_k": lambda pairs, values, how, q_ms: [value for _, value in sorted(pairs, reverse=True)[: how.k]],
    "top_k": lambda pairs, values, how, q_ms: (
        sorted(set(values), key=lambda value: (-values.count(value), value))[: how.k] if len(set(values)) <= how.bound else None
    ),
    "distinct": lambda pairs, values, how, q_ms: len(set(values)),
    "approx_distinct": lambda pairs, values, how, q_ms: len(set(values)),
    "since_last": lambda pairs, values, how, q_ms: (q_ms - max(pairs)[0]) / TIME_UNITS_MS[how.unit],
}


def value_of(pairs: Pairs, aggregation: Aggregation, q_ms: int) -> Value:
    if not pairs:
        return 0 if aggregation.kind in ("count", "sum", "distinct", "approx_distinct") else None
    value = VALUES[aggregation.kind](pairs, [value for _, value in pairs], aggregation, q_ms)
    if aggregation.kind == "sum" and isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    if isinstance(value, list):
        return [float(each) if isinstance(each, Fraction) else each for each in value]
    return float(value) if isinstance(value, Fraction) else value


def oracle(group: FeatureGroup, events: Sequence[Event], entity: int | str | Sequence[int | str], q_ms: int) -> dict[str, Value]:
    """The features of the entity, a value or one for each of its columns, at `q_ms`; copies of an event have fallen."""
    names = [group.entity] if isinstance(group.entity, str) else group.entity
    values = [entity] if isinstance(entity, int | str) else list(entity)
    mine, result = [event for event in events if [event[name] for name in names] == values and event["ts_ms"] < q_ms], {}
    for feature in group.features:
        window = feature.window
        start_ms = -math.inf if window is None else (q_ms - window.size_ms) // window.hop_ms * window.hop_ms
        inside = [event for event in mine if event["ts_ms"] >= start_ms]
        holds = evaluated(group.source, inside, [feature.where])[0] if feature.where else [True] * len(inside)
        pairs = [(event["ts_ms"], event[feature.of] if feature.of else 1) for event, ok in zip(inside, holds, strict=True) if ok]
        result[feature.name] = value_of([pair for pair in pairs if pair[1] is not None], feature.aggregation, q_ms)
    return result
