"""The number of different values: Distinct keeps the smallest hashes, ApproxDistinct keeps registers. `v` is a 64-bit hash of the value.

Both partials depend only on the set of hashes. So every order of the events, and every split of the events between layers, has the same partial,
bit for bit.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.aggregations.monoid import Aggregation, Ints, Partial, Series, values_in_ranges

_RANK_BITS = 6
_RANK = 2**_RANK_BITS - 1
#: The number of registers in an int64 of a dense partial.
_PER_WORD = 8


@dataclass(frozen=True)
class Distinct(Aggregation):
    """The number of different values. Partial: the `bound` smallest 64-bit hashes, sorted.

    With fewer than `bound` hashes the set is complete and the count is exact. With `bound` hashes the partial is a k-minimum-values sketch
    (Bar-Yossef et al. 2002; the unbiased estimator of Beyer et al. 2007) with a relative standard error of 1 / sqrt(bound - 2): 3.1 % at
    1,024.
    """

    kind = "distinct"
    sql_type = "ARRAY<BIGINT>"
    value_sql_type = "BIGINT"
    empty = 0

    bound: int = 1_024

    def lift(self, ts_ms: int, v: int) -> list[int]:
        return [v]

    def join(self, a: list[int], b: list[int]) -> list[int]:
        union = set(a)
        union.update(b)
        return self._smallest(union)

    def compact(self, partial: Partial) -> Partial:
        return partial[0] if len(partial) == 1 else partial

    def expanded(self, stored: Partial) -> Partial:
        return [stored] if isinstance(stored, int) else stored

    def combine_all(self, partials: Iterable[Partial]) -> list[int] | None:
        single, lists = set(), []
        for partial in partials:
            if type(partial) is int:
                single.add(partial)
            elif partial is not None:
                lists.append(partial)
        if single:
            return self._smallest(single.union(*lists))
        if len(lists) < 2:
            return lists[0] if lists else None
        return self._smallest(set().union(*lists))

    def _smallest(self, hashes: set[int]) -> list[int]:
        return sorted(hashes) if len(hashes) <= self.bound else heapq.nsmallest(self.bound, hashes)

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[list[int] | None]:
        hash_lists = values_in_ranges(series, series.v.tolist(), lo, hi)
        return [(self._smallest(set(hashes)) if len(hashes) > 1 else hashes) if hashes else None for hashes in hash_lists]

    def value(self, partial: list[int], q_ms: int, scale: int) -> int:
        if len(partial) < self.bound:
            return len(partial)
        # Hashes are signed; this is the largest hash of the partial as a share of the whole 64-bit range.
        share = (partial[-1] + 2**63) / 2**64
        return round((self.bound - 1) / share)


@dataclass(frozen=True)
class ApproxDistinct(Aggregation):
    """The approximate number of different values: a HyperLogLog of 2^precision registers (Flajolet et al. 2007).

    The first `precision` bits of a hash choose a register. The rank of a hash is the place, counted from 1, of the lowest set bit among its
    other bits. A register contains the largest rank of its hashes.

    Partial: if fewer than an eighth of the registers are filled, register · 64 + rank of each filled register, ascending; else all registers,
    one byte each, eight in an int64. The estimate is Ertl's (2017, "New cardinality estimation algorithms for HyperLogLog sketches",
    algorithm 6). It is computed from the number of registers of each rank and needs no table of corrections. The relative standard error is
    1.04 / sqrt(2^precision), and smaller for a small count.
    """

    kind = "approx_distinct"
    sql_type = "ARRAY<BIGINT>"
    value_sql_type = "BIGINT"
    empty = 0

    precision: int = 10

    @property
    def _words(self) -> int:
        return 2**self.precision // _PER_WORD

    def lift(self, ts_ms: int, v: int) -> list[int]:
        rest_bits = 64 - self.precision
        register = (v & (2**64 - 1)) >> rest_bits
        guarded = v | 1 << rest_bits
        return [register << _RANK_BITS | (guarded & -guarded).bit_length()]

    def join(self, a: list[int], b: list[int]) -> list[int]:
        if len(a) + len(b) < self._words:
            return _largest_ranks({*a, *b})
        return self._partial(np.maximum(self._registers(a), self._registers(b)))

    def fold(self, series: Series, lo: Ints, hi: Ints) -> list[list[int] | None]:
        rest_bits, hashes = np.uint64(64 - self.precision), series.v.view(np.uint64)
        guarded = hashes | np.uint64(1) << rest_bits
        # The lowest set bit alone is a power of two, which a float holds exactly.
        _, ranks = np.frexp((guarded & (~guarded + np.uint64(1))).astype(np.float64))
        coded = ((hashes >> rest_bits).astype(np.int64) << _RANK_BITS | ranks).tolist()
        return [self._of(set(entries)) if entries else None for entries in values_in_ranges(series, coded, lo, hi)]

    def _of(self, entries: set[int]) -> list[int]:
        if len(entries) < self._words:
            return _largest_ranks(entries)
        return self._partial(self._spread(_largest_ranks(entries)))

    def _registers(self, partial: list[int]) -> npt.NDArray[np.uint8]:
        return np.array(partial, dtype="<i8").view(np.uint8) if len(partial) == self._words else self._spread(partial)

    def _spread(self, entries: list[int]) -> npt.NDArray[np.uint8]:
        registers, coded = np.zeros(2**self.precision, dtype=np.uint8), np.array(entries, dtype=np.int64)
        registers[coded >> _RANK_BITS] = coded & _RANK
        return registers

    def _partial(self, registers: npt.NDArray[np.uint8]) -> list[int]:
        filled = np.flatnonzero(registers)
        if len(filled) < self._words:
            return (filled << _RANK_BITS | registers[filled]).tolist()
        return registers.view("<i8").tolist()

    def value(self, partial: list[int], q_ms: int, scale: int) -> int:
        m, ranks = 2**self.precision, 64 - self.precision
        counts = np.bincount(self._registers(partial), minlength=ranks + 2).tolist()
        z = m * _tau(1 - counts[ranks + 1] / m)
        for rank in range(ranks, 0, -1):
            z = 0.5 * (z + counts[rank])
        z += m * _sigma(counts[0] / m)
        return round(m * m / (2 * math.log(2) * z))


def _largest_ranks(entries: set[int]) -> list[int]:
    """Returns the entry with the largest rank of each register, ascending."""
    return list({entry >> _RANK_BITS: entry for entry in sorted(entries)}.values())


def _sigma(x: float) -> float:
    """Returns x + Σ x^(2^k) · 2^(k-1) over k ≥ 1, for x in [0, 1)."""
    total, before, weight = x, -1.0, 1.0
    while total != before:
        x *= x
        before, total, weight = total, total + x * weight, weight * 2
    return total


def _tau(x: float) -> float:
    """Returns (1 - x - Σ (1 - x^(2^-k))² · 2^-k over k ≥ 1) / 3, for x in [0, 1]."""
    if x in (0.0, 1.0):
        return 0.0
    total, before, weight = 1 - x, -1.0, 1.0
    while total != before:
        x, weight = math.sqrt(x), weight * 0.5
        before, total = total, total - (1 - x) ** 2 * weight
    return total / 3
