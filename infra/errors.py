"""The errors of braid beside those of a declaration; `features.errors.BraidError` is the root of all.

BraidError              (features.errors)
├── SettingsError       a setting that cannot be used
├── SetupError          Java, JARs or packages that cannot be had
├── ServiceError        an embedded service that does not start, or a real one that does not answer
│   └── StoreError      the online store does not answer, or refuses (`store.errors`)
├── InputError          a file, an id, a name or a time from the user that does not fit
└── NotReadyError       something is asked of a layer before the layer below it has run
└── NoEventsError   a source has no events yet
"""

from __future__ import annotations

from features.errors import BraidError

__all__ = ["BraidError", "InputError", "NoEventsError", "NotReadyError", "ServiceError", "SettingsError", "SetupError"]


class SettingsError(BraidError):
    """A setting that cannot be used."""


class SetupError(BraidError):
    """Java, JARs or packages that cannot be had."""


class ServiceError(BraidError):
    """A service that does not start or does not answer."""


class InputError(BraidError):
    """Input from the user that does not fit."""


class NotReadyError(BraidError):
    """A layer was asked before the one below it has run."""


class NoEventsError(NotReadyError):
    """A source has no events yet."""
