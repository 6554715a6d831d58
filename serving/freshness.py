"""Checks whether the features of an answer are too old for a use case.

Reads the newest event of each group from the online store, once a second in a thread, so no request waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from features.declaration import FeatureGroup
from infra.policies import WhenStale
from infra.settings import Settings
from monitoring.freshness import newest_event_ms
from serving.answer import Stale
from serving.errors import RefusalError
from store.errors import StoreError
from store.server import store_to_read

_POLL_SECONDS = 1.0
_log = logging.getLogger("serving")


class Freshness:
    """Reads the newest event of each group in a thread of its own, and compares its age with the bounds of the use cases.

    Args:
        settings: The settings that name the online store and the use cases.
        groups: The declared groups.
        on_look: Called after each read with the name of a group and the time of its newest event, in ms since 1970.

    Attributes:
        looked: Whether the store has been read at least once; also true after a failed read.
    """

    def __init__(self, settings: Settings, groups: Iterable[FeatureGroup], on_look: Callable[[str, int], None]) -> None:
        self.looked = False
        self._settings, self._groups, self._on_look = settings, tuple(groups), on_look
        self._newest_ms: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="freshness", daemon=True)

    def start(self) -> None:
        """Starts the thread, which reads the store now and then once a second."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def stale(self, use_case: str | None, group: str, q_ms: int) -> Stale | None:
        """Returns the consequence if a group is too old for a use case; None if it is fresh enough, or without a use case.

        The age is the time from the newest known event of the group to `q_ms`. A group without a known event is too old.

        Args:
            use_case: The name of the use case in the request; None if the request has none.
            group: The name of the group.
            q_ms: The time of the request, in ms since 1970.

        Raises:
            RefusalError: The use case is unknown, or the group is too old and the use case refuses stale features.
        """
        if use_case is None:
            return None
        cases = self._settings.use_cases
        case = cases.get(use_case)
        if case is None:
            known = ", ".join(cases) or "none; set BRAID_USE_CASES"
            raise RefusalError(422, f"The use case {use_case!r} is not known.", f"Known are: {known}.")
        newest_ms = self._newest_ms.get(group)
        if newest_ms is not None and q_ms - newest_ms <= case.max_age_seconds * 1_000:
            return None
        if case.when_stale is WhenStale.REFUSE:
            if newest_ms is None:
                raise RefusalError(
                    503,
                    f"No event of {group} is known, and {use_case} allows an age of {case.max_age_seconds:g} s.",
                    "Ask again later, or for another use case.",
                )
            raise RefusalError(
                503,
                f"The features of {group} are older than the {case.max_age_seconds:g} s that {use_case} allows.",
                "Ask again later, or for another use case.",
            )
        reason = (
            f"stale: no event of the group is known, and {use_case} allows an age of {case.max_age_seconds:g} s"
            if newest_ms is None
            else f"stale: the newest event is older than the {case.max_age_seconds:g} s that {use_case} allows"
        )
        return Stale(case.when_stale, reason)

    def _follow(self) -> None:
        store = store_to_read(self._settings)
        while True:
            try:
                for group in self._groups:
                    name, newest_ms = group.name, newest_event_ms(store, group)
                    if newest_ms is None:
                        self._newest_ms.pop(name, None)
                    else:
                        self._newest_ms[name] = newest_ms
                        self._on_look(name, newest_ms)
            except StoreError:
                pass  # the last known events stay, and their age grows
            except Exception:  # noqa: BLE001  # the thread must continue, whatever the store contains
                _log.exception("the newest events could not be looked up")
            self.looked = True
            if self._stop.wait(_POLL_SECONDS):
                return
