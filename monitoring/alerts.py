"""Alerts to people: a log, a webhook, or a webhook in Slack's form. Each is told once, and once more when it clears.

What is open stands among the notes of the online store, so that it outlives the process that found it. What a webhook
could not be told is told at the next check: at least once, and never lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any, Protocol

import httpx

from infra.settings import Settings
from store.server import reached_store

_NOTES = "alerts"
_TIMEOUT_SECONDS = 5
_log = logging.getLogger("braid.alerts")
# It would log each address, in which webhooks have their secret.
logging.getLogger("httpx").setLevel(logging.WARNING)


class Telling(Protocol):
    """What an alert must say of itself."""

    @property
    def key(self) -> str:
        """What it is about: the same as long as it lasts."""

    @property
    def severity(self) -> str:
        """WARNING, HIGH or CRITICAL."""

    @property
    def message(self) -> str:
        """One sentence."""


class Alerts:
    """The open alerts of a deployment.

    Args:
        settings: Where the online store is, and where alerts go.

    Raises:
        ServiceError: The online store does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._store = settings, reached_store(settings)

    def update(self, checked: Iterable[str], found: Iterable[Telling]) -> list[str]:
        """Tells of what is new or of another severity than it was, of what has cleared, and of what could not be told before.

        A webhook that fails is left alone until the next call: many alerts must not wait for it one by one.

        Args:
            checked: The keys of all that was checked.
            found: The alerts that the checks gave.

        Returns:
            The messages that were told.
        """
        wrong = {alert.key: alert for alert in found}
        told: list[str] = []
        reached = True

        def tell(key: str, severity: str, message: str) -> bool:
            nonlocal reached
            reached = reached and self._tell(key, severity, message)
            if reached:
                told.append(message)
            return reached

        noted = self._store.notes(_NOTES)
        for key in sorted({*checked, *wrong}):
            alert, before = wrong.get(key), noted.get(key)
            # The severity that people have heard of last; None for nothing yet.
            heard = before["told"] if before else None
            if alert is not None:
                severity, message = str(alert.severity), alert.message
                if heard != severity and tell(key, severity, message):
                    heard = severity
                since_ms = before["since_ms"] if before else time.time_ns() // 1_000_000
                entry = {"severity": severity, "message": message, "told": heard, "since_ms": since_ms}
                self._store.note(_NOTES, key, entry)
            elif before is not None and (heard is None or tell(key, "CLEARED", f"Cleared: {before['message']}")):
                self._store.note(_NOTES, key, None)
        return told

    def open(self) -> dict[str, dict[str, Any]]:
        """The open alerts: key → severity, message, told (the severity that was told last, or None), since_ms."""
        return self._store.notes(_NOTES)

    def _tell(self, key: str, severity: str, message: str) -> bool:
        """Whether the webhook, if there is one, has taken the message."""
        level = logging.INFO if severity == "CLEARED" else logging.WARNING if severity == "WARNING" else logging.ERROR
        _log.log(level, "%s %s: %s", severity, key, message)
        url = self._settings.alert_url
        if url is None:
            return True
        slack = {"text": f"*{severity}* `{key}` {message}"}
        plain = {"key": key, "severity": severity, "message": message, "home": self._settings.home.name}
        try:
            body = slack if self._settings.alert_format == "slack" else plain
            httpx.post(url.get_secret_value(), json=body, timeout=_TIMEOUT_SECONDS).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # without the address
            _log.error("The webhook for alerts could not be told (%s).", type(error).__name__)
            return False
        return True
