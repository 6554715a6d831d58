"""Alerts to people: in a log, and to a webhook, also in Slack's format. An alert is sent when it opens, when its severity changes and when it clears.

The open alerts are notes in the online store, so they survive the process. A message that the webhook did not accept is sent again at the
next check, so a message may arrive twice. An alert that opens and clears while the webhook fails is only logged.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Any, Protocol

import httpx

from features.instants import now_ms
from infra.settings import Settings
from store.server import reached_store

_NOTES = "alerts"
_TIMEOUT_SECONDS = 5
_log = logging.getLogger("braid.alerts")
# At the level INFO httpx logs the address of each request, and the address of a webhook contains its secret.
logging.getLogger("httpx").setLevel(logging.WARNING)


class Message(Protocol):
    """The parts of an alert that are sent."""

    @property
    def key(self) -> str:
        """The identity of the alert, which stays the same until the alert clears."""

    @property
    def severity(self) -> str:
        """WARNING, HIGH or CRITICAL."""

    @property
    def message(self) -> str:
        """One sentence."""


class Alerts:
    """The open alerts of a deployment.

    Args:
        settings: The settings that name the online store and the webhook.

    Raises:
        ServiceError: The online store does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._store = settings, reached_store(settings)

    def update(self, checked: Iterable[str], alerts: Iterable[Message], possible: Collection[str] | None = None) -> list[str]:
        """Sends a message for each alert that is new, has another severity, or has cleared, and each message that could not be sent before.

        An open alert that is not checked now stays open, because its state is not known. An alert that cannot be checked any more, such as one of a
        group that was removed from the project, is closed.

        After a failure of the webhook, the remaining messages wait for the next call. Otherwise each of them would wait for a time-out.

        Args:
            checked: The keys of all checks.
            alerts: The alerts of these checks.
            possible: The keys of all checks that the deployment has, also of those that could not be made now; None to close no alert that is not
                checked.

        Returns:
            The messages that were sent.
        """
        by_key = {alert.key: alert for alert in alerts}
        sent: list[str] = []
        reached = True

        def send(key: str, severity: str, message: str) -> bool:
            nonlocal reached
            reached = reached and self._send(key, severity, message)
            if reached:
                sent.append(message)
            return reached

        noted = self._store.notes(_NOTES)
        gone = set() if possible is None else noted.keys() - possible - by_key.keys()
        for key in sorted({*checked, *by_key, *gone}):
            alert, before = by_key.get(key), noted.get(key)
            # The severity of the last message that was sent; None before the first message.
            last_severity = before["told"] if before else None
            if alert is not None:
                severity, message = str(alert.severity), alert.message
                if last_severity != severity and send(key, severity, message):
                    last_severity = severity
                since_ms = before["since_ms"] if before else now_ms()
                entry = {"severity": severity, "message": message, "told": last_severity, "since_ms": since_ms}
                self._store.note(_NOTES, key, entry)
            elif before is not None:
                how = "Not checked any more" if key in gone else "Cleared"
                if last_severity is None or send(key, "CLEARED", f"{how}: {before['message']}"):
                    self._store.note(_NOTES, key, None)
        return sent

    def open(self) -> dict[str, dict[str, Any]]:
        """Returns the open alerts: key → severity, message, told (the severity of the last message that was sent, or None), since_ms."""
        return self._store.notes(_NOTES)

    def _send(self, key: str, severity: str, message: str) -> bool:
        """Logs the message and sends it to the webhook. Returns False if the webhook has failed."""
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
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # the log omits the address, because the address contains a secret
            _log.error("The webhook for alerts has failed (%s).", type(error).__name__)
            return False
        return True
