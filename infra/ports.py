"""Ports: chosen once per home and kept in `<home>/ports.json`, so that two deployments run side by side."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import SettingsError

#: The well-known port of each service, taken where it is free.
PREFERRED = {"kafka": 9092, "kafka_controller": 9093, "valkey": 6379, "mlflow": 5000, "dagster": 3000, "serving": 3001}


class Ports(BaseModel):
    """One loopback port per embedded service."""

    model_config = ConfigDict(frozen=True)

    kafka: int = PREFERRED["kafka"]
    kafka_controller: int = PREFERRED["kafka_controller"]
    valkey: int = PREFERRED["valkey"]
    mlflow: int = PREFERRED["mlflow"]
    dagster: int = PREFERRED["dagster"]
    serving: int = PREFERRED["serving"]


def ports_of(home: Path) -> Ports:
    """The ports of a home, chosen now if it has none yet.

    Raises:
        SettingsError: The home cannot be written, or its ports.json cannot be read.
    """
    path = home / "ports.json"
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(_choose().model_dump_json(indent=2))
            try:
                os.link(draft, path)  # the first of two processes wins, and both read the same
            except FileExistsError:
                pass
            draft.unlink()
        return Ports.model_validate_json(path.read_text())
    except (ValidationError, json.JSONDecodeError):
        raise SettingsError(f"The file {path} does not hold braid's ports.", "Delete it while nothing runs; new ports are chosen.") from None
    except OSError as error:
        raise SettingsError(f"The home {home} cannot be used: {error.strerror}.", "Choose another by --home or BRAID_HOME.") from None


def _choose() -> Ports:
    chosen: dict[str, int] = {}
    held: list[socket.socket] = []
    try:
        for name, preferred in PREFERRED.items():
            for port in (preferred, 0):
                candidate = socket.socket()
                try:
                    candidate.bind(("127.0.0.1", port))
                except OSError:
                    candidate.close()
                    continue
                held.append(candidate)
                chosen[name] = candidate.getsockname()[1]
                break
    finally:
        for candidate in held:
            candidate.close()
    return Ports(**chosen)
