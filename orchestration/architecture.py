"""The architecture of a deployment: chosen by `braid up`, remembered in its home, so that every command and service has the same."""

from __future__ import annotations

from infra.errors import InputError
from infra.settings import ARCHITECTURE_FILE, Settings
from orchestration.running import runs


def with_architecture(settings: Settings, chosen: str | None) -> Settings:
    """The settings with an architecture, which the home remembers; None for that of the settings.

    Raises:
        InputError: The services run with another one.
    """
    path = settings.home / ARCHITECTURE_FILE
    remembered = path.read_text().strip() if path.exists() else "lambda"
    architecture = chosen or settings.architecture
    if architecture != remembered:
        if any(runs(settings, name) for name in ("speed", "serving")):
            raise InputError(
                f"The services of {settings.home} run as {remembered}, not as {architecture}.",
                "End them by `braid down`, and start again.",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(architecture)
    return settings.model_copy(update={"architecture": architecture})
