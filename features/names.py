"""The valid names of sources, tables, groups, features, models and their columns."""

from __future__ import annotations

import re
from collections.abc import Iterable

from features.errors import DeclarationError

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
#: The name of a group, a feature or a derived feature.
FEATURE_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_name(what: str, name: str) -> None:
    """Raises a DeclarationError if `name` is not a valid name of a `what`, such as a source, a table or a model."""
    if not NAME.fullmatch(name):
        raise DeclarationError(
            f"The name {name!r} of a {what} cannot be used.",
            "Begin with a lower-case letter; use lower-case letters, digits and underscores, at most 64.",
        )


def twin_of(names: Iterable[str]) -> str | None:
    """Returns the first name that is repeated; None if all names are different."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
