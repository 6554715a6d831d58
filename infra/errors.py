"""The errors that a user of braid sees: one sentence of cause, one of cure, never a traceback.

    BraidError
    ├── SettingsError       a setting that cannot be used
    ├── SetupError          Java, JARs or packages that cannot be had
    ├── ServiceError        an embedded service that does not start, or a real one that does not answer
    ├── InputError          a file, an id or a time from the user that does not fit
    └── NotReadyError       something is asked of a layer before the layer below it has run

`features.errors.DeclarationError` has the same shape; `features` imports no other room.
"""

from __future__ import annotations


class BraidError(Exception):
    """An error that is told, not traced.

    Args:
        cause: One sentence: what is wrong.
        cure: One sentence: what to do.
    """

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause} {cure}")
        self.cause = cause
        self.cure = cure


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
