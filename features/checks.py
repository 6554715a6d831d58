"""Thresholds for the days of a source and for the view of a group. The checks of the batch assets compare new data with them.

A crossed threshold is a warning. If `blocking` names the threshold, the day is kept out of the online store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from features.errors import DeclarationError

_SOURCE_CHECKS = frozenset({"volume", "nulls", "categories", "bounds", "late", "refused", "duplicates"})
_GROUP_CHECKS = frozenset({"entities", "distribution"})


class _Checks:
    """Thresholds, some of which block."""

    blocking: frozenset[str]

    def severity(self, name: str) -> str:
        """Returns the severity of a crossed threshold in Great Expectations: "critical" if the threshold blocks, else "warning"."""
        return "critical" if name in self.blocking else "warning"


@dataclass(frozen=True)
class SourceChecks(_Checks):
    """Thresholds for the events of a source.

    Attributes:
        volume: The smallest and the largest number of rows of a day, as multiples of the mean of the same weekday in the four weeks before.
        nulls: The largest increase of a column's share of rows without a value, compared with the four weeks before, 0 to 1.
        categories: Columns with a known set of values. The check reports a new value, and the absence of a value that 1 % of the rows had before.
        bounds: Column → the smallest and the largest value of 99 % of the rows; None for no bound.
        late: The largest share of a day's streamed events that arrived later than the watermark allows, 0 to 1.
        refused: The largest share of the messages of one run that do not fit the source, 0 to 1.
        duplicates: The largest share of the messages of one run whose event is known already, 0 to 1.
        blocking: The names of the thresholds that block.

    Raises:
        DeclarationError: `blocking` names a check that does not exist.
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
    """Thresholds for the view of a group, compared with the view that was published last.

    Attributes:
        entities: The smallest number of entities, as a multiple of the number in the published view.
        distribution: The central share of the values of the published view in which the median of a feature must lie, 0 to 1.
        blocking: The names of the thresholds that block.

    Raises:
        DeclarationError: `blocking` names a check that does not exist.
    """

    entities: float = 0.8
    distribution: float = 0.9
    blocking: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_blocking(self.blocking, _GROUP_CHECKS)


def _check_blocking(blocking: frozenset[str], known: frozenset[str]) -> None:
    if unknown := sorted(blocking - known):
        raise DeclarationError(f"There is no check {unknown[0]!r} to block by.", f"The checks are: {', '.join(sorted(known))}.")
