"""The errors of braid: one tree with one root. Each has one sentence of cause and one of cure; the command line shows no traceback.

BraidError
├── DeclarationError      an invalid source, feature, group, model or project; raised while its module loads
├── PackedValueError      bytes in the online store that this code must not read
└── in infra.errors       errors of settings, set-up, services, input, and the order of the layers
"""

from __future__ import annotations


class BraidError(Exception):
    """An error that a user can act on.

    Args:
        cause: One sentence: what is wrong.
        cure: One sentence: what to do.
    """

    def __init__(self, cause: str, cure: str = "") -> None:
        super().__init__(f"{cause} {cure}".strip())
        self.cause = cause
        self.cure = cure


class DeclarationError(BraidError, ValueError):
    """An invalid declaration, detected when its module loads. The cause names the source, feature, group, model or project."""


class PackedValueError(BraidError, ValueError):
    """A packed value of an unknown format or of another version of the declaration."""
