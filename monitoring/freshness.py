"""The freshness of a group, by event time, and the share of entities that have features. Reads the online store; returns alerts.

The age of a group is the age of its newest event in the batch or speed layer. So a nightly batch without new events does not make a group fresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from features import instants
from features.declaration import FeatureGroup
from infra.errors import InputError, NotReadyError
from infra.settings import Settings
from store.protocol import Store
from store.server import reached_store

#: The number of entities per request to the online store.
CHUNK = 1_000


class Severity(StrEnum):
    """The urgency of an alert."""

    WARNING = "WARNING"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


@dataclass(frozen=True)
class Alert:
    """A failed check of a group."""

    kind: str
    feature_group: str
    severity: Severity
    message: str
    details: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The identity of the alert, which stays the same until the alert clears."""
        return f"{self.kind}:{self.feature_group}"


def group_alerts(settings: Settings, groups: Iterable[FeatureGroup]) -> Iterator[str]:
    """Yields the keys of all alerts that groups can have. Coverage is not checked in Kappa."""
    for group in groups:
        for kind in ("freshness",) if settings.kappa else ("freshness", "coverage"):
            yield f"{kind}:{group.name}"


class FeatureFreshnessMonitor:
    """Checks groups against their bounds, and keeps an alert for each check that failed.

    Args:
        settings: The settings that name the online store and the bounds.
        groups: The declared groups.
        now_ms: The time at which ages are measured, in ms since 1970; by default the time of the check.

    Attributes:
        checked: The keys of all checks so far.
        alerts: The alerts of the failed checks. `Alerts.update(monitor.checked, monitor.alerts)` sends them.

    Raises:
        ServiceError: The online store does not answer.
    """

    def __init__(self, settings: Settings, groups: Iterable[FeatureGroup], now_ms: int | None = None) -> None:
        self.checked: list[str] = []
        self.alerts: list[Alert] = []
        self._settings, self._groups, self._now_ms = settings, {group.name: group for group in groups}, now_ms
        self._store = reached_store(settings)

    def published(self, feature_group: str) -> bool:
        """Returns whether the online store serves the group: a batch view, or in Kappa histories that the stream has caught up with."""
        return self._store.published(feature_group) is not None

    def age(self, feature_group: str) -> timedelta:
        """Returns how long ago the newest event of the group happened.

        Raises:
            InputError: The group is not declared.
            NotReadyError: The group has no event yet.
        """
        group = self._group(feature_group)
        newest_ms = newest_event_ms(self._store, group)
        if newest_ms is None:
            raise NotReadyError(
                f"The group {feature_group} has no events in the online store.", "Run `braid backfill` or stream events."
            )
        now_ms = self._now_ms if self._now_ms is not None else instants.now_ms()
        return timedelta(milliseconds=max(0, now_ms - newest_ms))

    def check_freshness(self, feature_group: str, max_age: timedelta | None = None) -> bool:
        """Returns whether the newest event of the group is at most `max_age` old; by default the group's own bound.

        An older event raises a WARNING, or a CRITICAL alert if it is older than an hour.

        Raises:
            InputError: The group is not declared.
            NotReadyError: The group has no event yet.
        """
        age = self.age(feature_group)
        bound = max_age if max_age is not None else timedelta(seconds=self._settings.bounds(feature_group).max_age_seconds)
        alert = Alert(
            "freshness", feature_group, Severity.CRITICAL if age > timedelta(hours=1) else Severity.WARNING,
            f"The newest event of {feature_group} is {age.total_seconds():.0f} s old; {bound.total_seconds():.0f} s are allowed.",
            {"age_seconds": age.total_seconds(), "max_age_seconds": bound.total_seconds()},
        )  # fmt: skip
        return self._hold(age <= bound, alert)

    def check_feature_coverage(self, feature_group: str, entity_ids: Sequence[int | str]) -> float:
        """Returns the share of the entities, in [0, 1], that have features in the online store.

        Only values of the served version count. A share below the group's bound raises a HIGH alert.

        Raises:
            InputError: The group is not declared, or the list is empty.
        """
        group = self._group(feature_group)
        if not entity_ids:
            raise InputError(f"The coverage of {feature_group} needs entities.", "Give at least one id.")
        present = 0
        for start in range(0, len(entity_ids), CHUNK):
            present += sum(parts.known for parts in self._store.read(group, entity_ids[start : start + CHUNK]).parts)
        coverage = present / len(entity_ids)
        bound = self._settings.bounds(feature_group).coverage
        alert = Alert(
            "coverage", feature_group, Severity.HIGH,
            f"Of {len(entity_ids)} entities of {feature_group}, {len(entity_ids) - present} have no features.",
            {"coverage": coverage, "missing_count": len(entity_ids) - present, "min_coverage": bound},
        )  # fmt: skip
        self._hold(coverage >= bound, alert)
        return coverage

    def _hold(self, holds: bool, alert: Alert) -> bool:
        self.checked.append(alert.key)
        if not holds:
            self.alerts.append(alert)
        return holds

    def _group(self, name: str) -> FeatureGroup:
        if name not in self._groups:
            raise InputError(f"The group {name!r} is not declared.", f"Declared are: {', '.join(self._groups)}.")
        return self._groups[name]


def newest_event_ms(store: Store, group: FeatureGroup) -> int | None:
    """Returns the time of the newest event of the group in the online store, from batch or speed; None without events."""
    published = store.published(group.name)
    streamed = store.progress().get(f"online:{group.name}", {}).get("newest_event_ms")
    return max([ms for ms in (published and published.newest_event_ms, streamed) if ms], default=None)
