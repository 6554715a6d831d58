"""Restarts the running services that load the project's declarations, after the declarations have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass

from features.project import Project
from infra.embedded import services
from infra.settings import Settings
from orchestration.execution import reload_definitions
from orchestration.running import runs

#: The services that load the declarations.
_READERS = ("speed", "serving", "dagster-code")


def readers(settings: Settings) -> list[str]:
    """Returns the services in `_READERS` that run now."""
    return [name for name in _READERS if runs(settings, name)]


def load_declarations(settings: Settings, project: Project, ran: Collection[str], on_progress: services.Progress) -> None:
    """Restarts services whose declarations are out of date, and writes the digest of the current declarations to the home.

    Args:
        settings: The settings of the deployment, whose services run.
        project: The current declarations.
        ran: The services that ran before this command, from `readers`. Services that started later have the current declarations.
        on_progress: Called with a service's name and its step.

    Raises:
        ServiceError: A service does not become healthy.
    """
    path = settings.home / "run" / "declarations.sha256"
    digest = hashlib.sha256(_text(project).encode()).hexdigest()
    if path.exists() and path.read_text() != digest and ran:
        for name in ran:
            on_progress(name, "loading the changed declarations")
            services.restart(settings, name)
            on_progress(name, "healthy")
        reload_definitions(settings)
    path.write_text(digest)


def _text(declared: object) -> str:
    """The text of a declaration, which is the same in each process: `repr` has sets in another order, and functions at another address."""
    if is_dataclass(declared):
        values = ", ".join(f"{each.name}={_text(getattr(declared, each.name))}" for each in fields(declared) if each.repr)
        return f"{type(declared).__name__}({values})"
    if isinstance(declared, Mapping):
        return str([(_text(key), _text(value)) for key, value in declared.items()])
    if isinstance(declared, Set):
        return str(sorted(map(_text, declared)))
    if isinstance(declared, Sequence) and not isinstance(declared, str):
        return str([_text(member) for member in declared])
    if callable(declared):  # a training function; each run loads it anew
        return getattr(declared, "__qualname__", type(declared).__qualname__)
    return repr(declared)
