"""The environment of the peers."""

from __future__ import annotations

from pathlib import Path

from infra.environments import environment
from infra.settings import Settings

_LOCK = Path(__file__).with_name("requirements.lock")


def peers_python(settings: Settings) -> Path:
    """Returns the Python of the environment. If the environment is missing, it is made first.

    Raises:
        SetupError: The packages cannot be installed.
    """
    return environment(settings, "peers", _LOCK) / "bin" / "python"
