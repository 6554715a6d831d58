"""What is normal of a source's days and of a group's view: declared thresholds that checks hold new data against.

A threshold that is crossed warns; one that is named in `blocking` keeps the day out of the online store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from features.errors import DeclarationError

_SOURCE_CHECKS = frozenset({"volume", "nulls", "categories", "bounds", "late", "refused", "duplicates"})
_GROUP_CHECKS = frozenset({"entities", "distribution"})


class _Checks:
    """Thresholds of which some block."""

    blocking: frozenset[str]

    def severity(self, name: str) -> str:
        """How grave it is that a threshold is crossed: "critical" or "warning", as Great Expectations calls it."""
        return "critical" if name in self.blocking else "warning"


@dataclass(frozen=True)
class SourceChecks(_Checks):
    """What is normal of the events of a source.

    Attributes:
        volume: Rows of a day, at least and at most, as multiples of the mean of the same weekdays in the four weeks before.
        nulls: By how much a column's share of rows without a value may exceed that of the four weeks before, 0 to 1.
        categories: Columns whose values are known: a new value is noticed, and one that is missing which a hundredth of the rows had.
        bounds: Column → the least and the largest value of 99 in 100 rows; None where there is no bound.
        late: The largest share of a day's streamed events that arrived later than the watermark allows.
        refused: The largest share of the messages read at once that do not fit the contract.
        duplicates: The largest share of the messages read at once whose event is known already.
        blocking: The names of those that keep the day out.

    Raises:
        DeclarationError: `blocking` names no check.
    """

    volume: tuple[float, float] = (0.2, 5.0)
    nulls: float = 0.2
    categories: tuple[str, ...] = ()
    bounds: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict, hash=False)
    late: float = 0.1
    refused: float = 0.05
    duplicates: float = 0.5
    blocking: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_blocking(self.blocking, _SOURCE_CHECKS)


@dataclass(frozen=True)
class GroupChecks(_Checks):
    """What is normal of a group's view, beside the view before it.

    Attributes:
        entities: The least number of entities, as a multiple of those of the view before.
        distribution: The median of a feature lies within this central share of the values of the view before, 0 to 1.
        blocking: The names of those that keep the view out.

    Raises:
        DeclarationError: `blocking` names no check.
    """

    entities: float = 0.8
    distribution: float = 0.9
    blocking: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_blocking(self.blocking, _GROUP_CHECKS)


def _check_blocking(blocking: frozenset[str], known: frozenset[str]) -> None:
    if unknown := sorted(blocking - known):
        raise DeclarationError(f"There is no check {unknown[0]!r} that could block.", f"There are: {', '.join(sorted(known))}.")
