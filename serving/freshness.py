"""How old the features of an answer are, for use cases that mind: the newest event of each group, looked up aside from requests."""

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
    """Follows the newest event of each group in a thread of its own, and holds it against what use cases allow.

    Args:
        settings: Where the online store is, and the use cases.
        groups: The declared groups.
        on_look: Told of a group and its newest event after each look.

    Attributes:
        looked: Whether the store has been asked, with whatever success.
    """

    def __init__(self, settings: Settings, groups: Iterable[FeatureGroup], on_look: Callable[[str, int], None]) -> None:
        self.looked = False
        self._settings, self._groups, self._on_look = settings, tuple(groups), on_look
        self._newest_ms: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="freshness", daemon=True)

    def start(self) -> None:
        """Looks now and from then on, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def stale(self, use_case: str | None, group: str, q_ms: int) -> Stale | None:
        """What is served of the group in place of what is too old for the use case; None where it is fresh enough.

        An age runs from the newest event that is known to the time that is asked about.

        Raises:
            RefusalError: The use case is not known, or rather wants no answer than an old one.
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
            raise RefusalError(
                503,
                f"The features of {group} are older than the {case.max_age_seconds:g} s that {use_case} allows.",
                "Ask again later, or for another use case.",
            )
        reason = f"stale: the newest event is older than the {case.max_age_seconds:g} s that {use_case} allows"
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
                pass  # what was known stays, and grows old by itself
            except Exception:  # noqa: BLE001  # whatever the store holds, the thread goes on
                _log.exception("the newest events could not be looked up")
            self.looked = True
            if self._stop.wait(_POLL_SECONDS):
                return
