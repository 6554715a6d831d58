"""The errors of a declaration.

    BraidError (infra.errors)          every error of braid; one sentence of cause, one of cure
    DeclarationError (here)            a feature, group or source that cannot mean anything; raised while its module loads
    PackedValueError (here)            bytes in the online store that this code must not read

`features` imports no other room, so the two stand on their own and `infra.errors.BraidError` has the same shape.
"""

from __future__ import annotations


class DeclarationError(ValueError):
    """A declaration that is wrong, found when its module loads.

    Args:
        cause: What is wrong, naming the feature or group.
        cure: What to write instead.
    """

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause} {cure}")
        self.cause = cause
        self.cure = cure


class PackedValueError(ValueError):
    """A packed value of an unknown format or of another version of the declaration."""
