"""Counts by value: TopK."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from features.aggregations.monoid import Aggregation, Ints, Series, unscaled, values_in_ranges


@dataclass(frozen=True)
class TopK(Aggregation):
    """The `k` most frequent values, the most frequent first; of equally frequent values the smaller first.

    Partial: every value with its count, ascending by value. Every value is needed, because a value that is rare in each part of the events
    may be frequent in all of them. To keep partials small, events with more than `bound` different values have no result: their partial is
    the empty list, and so is the union of any partial with an empty list. So the result does not depend on how the events are split.
    """

    kind = "top_k"
    sql_type = "ARRAY<STRUCT<v: {input}, n: BIGINT>>"
    value_sql_type = "ARRAY<{value}>"
    takes_text = True

    k: int
    bound: int = 1_024

    def lift(self, ts_ms: int, v: Any) -> list[tuple[Any, int]]:
        return [(v, 1)]

    def join(self, a: list[tuple[Any, int]], b: list[tuple[Any, int]]) -> list[tuple[Any, int]]:
        if not a or not b:
            return []
        counts = {pair[0]: pair[1] for pair in a}
        for pair in b:
            counts[pair[0]] = counts.get(pair[0], 0) + pair[1]
        return self._bounded(counts)

    def _bounded(self, counts: dict[Any, int]) -> list[tuple[Any, int]]:
        return sorted(counts.items()) if len(counts) <= self.bound else []

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[list[tuple[Any, int]] | None]:
        value_lists = values_in_ranges(series, series.v.tolist(), lo, hi)
        return [self._bounded(Counter(values)) if values else None for values in value_lists]

    def value(self, partial: list[tuple[Any, int]], q_ms: int, scale: int) -> list[Any] | None:
        ranked = sorted(partial, key=lambda pair: (-pair[1], pair[0]))
        return [unscaled(pair[0], scale) for pair in ranked[: self.k]] or None
