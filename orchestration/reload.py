"""What runs and has loaded the declarations loads them again when they have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from features.project import Project
from infra.embedded import services
from infra.settings import Settings
from orchestration.execution import reload_definitions
from orchestration.running import runs

#: The services that load the declarations.
_READERS = ("speed", "serving", "dagster-code")


def readers(settings: Settings) -> list[str]:
    """Those of them that run."""
    return [name for name in _READERS if runs(settings, name)]


def load_declarations(settings: Settings, project: Project, ran: Collection[str], on_progress: services.Progress) -> None:
    """Restarts services that have loaded other declarations than this code has, and notes which are loaded.

    Args:
        settings: The deployment, which is up.
        project: As it is declared now.
        ran: The readers that ran before; what was started since has loaded the present ones.
        on_progress: Told of each step.

    Raises:
        ServiceError: One of them does not get healthy.
    """
    path = settings.home / "run" / "declarations.sha256"
    present = hashlib.sha256(repr(project).encode()).hexdigest()
    if path.exists() and path.read_text() != present and ran:
        for name in ran:
            on_progress(name, "loading the changed declarations")
            services.restart(settings, name)
            on_progress(name, "healthy")
        reload_definitions(settings)
    path.write_text(present)
