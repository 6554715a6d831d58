"""The architecture and the engine of a deployment. `braid up` writes its choice to the home, from which every command and service reads it."""

from __future__ import annotations

from infra.errors import InputError
from infra.settings import ARCHITECTURE_FILE, ENGINE_FILE, Settings
from orchestration.running import runs


def with_architecture(settings: Settings, chosen: str | None) -> Settings:
    """Returns the settings with an architecture, and writes the architecture to the home.

    Args:
        settings: The settings.
        chosen: The architecture; None for that of the settings.

    Raises:
        InputError: Services run with another architecture.
    """
    architecture = _remembered(settings, ARCHITECTURE_FILE, chosen or settings.architecture, "lambda", ("speed", "serving"))
    return settings.model_copy(update={"architecture": architecture})


def with_engine(settings: Settings, chosen: str | None) -> Settings:
    """Returns the settings with an engine, and writes the engine to the home.

    Args:
        settings: The settings.
        chosen: The engine; None for that of the settings.

    Raises:
        InputError: The speed layer runs with another engine.
    """
    engine = _remembered(settings, ENGINE_FILE, chosen or settings.engine, "spark", ("speed",))
    return settings.model_copy(update={"engine": engine})


def _remembered(settings: Settings, file: str, wanted: str, default: str, services: tuple[str, ...]) -> str:
    path = settings.home / file
    remembered = path.read_text().strip() if path.exists() else default
    if wanted != remembered:
        if any(runs(settings, name) for name in services):
            raise InputError(
                f"The services of {settings.home} run as {remembered}, not as {wanted}.",
                "End them by `braid down`, and start again.",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted)
    return wanted
