"""The errors of braid besides those of a declaration. `features.errors.BraidError` is the root of all errors.

BraidError              (features.errors)
├── SettingsError       a setting is invalid
├── SetupError          Java, JARs or packages cannot be installed
├── ServiceError        a service does not start or does not answer
│   └── StoreError      the online store does not answer, or refuses a command (`store.errors`)
├── InputError          a file, an id, a name or a time from the user is invalid
└── NotReadyError       a layer is used before the layer below it has run
    └── NoEventsError   a source has no events yet
"""

from __future__ import annotations

from features.errors import BraidError

__all__ = ["BraidError", "InputError", "NoEventsError", "NotReadyError", "ServiceError", "SettingsError", "SetupError"]


class SettingsError(BraidError):
    """A setting is invalid."""


class SetupError(BraidError):
    """Java, JARs or packages cannot be installed."""


class ServiceError(BraidError):
    """A service does not start or does not answer."""


class InputError(BraidError):
    """A file, an id, a name or a time from the user is invalid."""


class NotReadyError(BraidError):
    """A layer is used before the layer below it has run."""


class NoEventsError(NotReadyError):
    """A source has no events yet."""
