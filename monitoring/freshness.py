"""How fresh a group is, by event time, and how many entities have features: read from the online store, told as alerts.

An age runs from the newest event that either layer has taken to now: a batch that runs every night over an empty topic is not fresh.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from features.declaration import FeatureGroup
from infra.errors import InputError, NotReadyError
from infra.settings import Settings
from store.protocol import Store
from store.server import reached_store

#: Entities asked for in one round trip.
CHUNK = 1_000


class Severity(StrEnum):
    """How soon somebody should look."""

    WARNING = "WARNING"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong with a group: `key` names it as long as it lasts."""

    kind: str
    feature_group: str
    severity: Severity
    message: str
    details: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What the alert is about."""
        return f"{self.kind}:{self.feature_group}"


class FeatureFreshnessMonitor:
    """Checks groups against their bounds, and keeps an alert for each check that failed.

    Args:
        settings: Where the online store is, and the bounds.
        groups: The declared groups.
        now_ms: The time that ages are counted to; default now.

    Attributes:
        checked: The keys of all alerts that the checks so far could have given.
        alerts: Those that they gave: `Alerts.update(monitor.checked, monitor.alerts)` tells of them.

    Raises:
        ServiceError: The online store does not answer.
    """

    def __init__(self, settings: Settings, groups: Iterable[FeatureGroup], now_ms: int | None = None) -> None:
        self.checked: list[str] = []
        self.alerts: list[Alert] = []
        self._settings, self._groups, self._now_ms = settings, {group.name: group for group in groups}, now_ms
        self._store = reached_store(settings)

    def age(self, feature_group: str) -> timedelta:
        """How long ago the newest event of the group happened.

        Raises:
            InputError: The group is not declared.
            NotReadyError: The group has no event yet.
        """
        group = self._group(feature_group)
        newest_ms = newest_event_ms(self._store, group)
        if newest_ms is None:
            raise NotReadyError(
                f"The group {feature_group} has no events in the online store.", "Run `braid backfill` or stream some."
            )
        now_ms = self._now_ms if self._now_ms is not None else time.time_ns() // 1_000_000
        return timedelta(milliseconds=max(0, now_ms - newest_ms))

    def check_freshness(self, feature_group: str, max_age: timedelta | None = None) -> bool:
        """Whether the newest event of the group is at most `max_age` old; by default the group's own bound.

        An older one is a WARNING, and beyond an hour CRITICAL. Raises as `age`.
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
        """The share of the entities, in [0, 1], that either layer has features of. Below the group's bound the alert is HIGH.

        Values of another version than is served are none: no request would get them.

        Raises:
            InputError: The group is not declared, or the list is empty.
        """
        group = self._group(feature_group)
        if not entity_ids:
            raise InputError(f"The coverage of {feature_group} was asked for without any entity.", "Give at least one id.")
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
    """The time of the newest event of the group that is in the online store, by batch or speed; None where there is none."""
    published = store.published(group.name)
    streamed = store.progress().get(f"online:{group.name}", {}).get("newest_event_ms")
    return max([ms for ms in (published and published.newest_event_ms, streamed) if ms], default=None)
