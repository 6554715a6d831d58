"""Ports: chosen once per home and kept in `<home>/ports.json`, so that two deployments run side by side.

A home that does not run yet leaves its ports free; so each choice is also claimed in a folder that the user's homes share.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import SettingsError

#: The well-known port of each service, taken where it is free; else the next free one in steps of ten.
PREFERRED = {
    "kafka": 9092,
    "kafka_controller": 9093,
    "valkey": 6379,
    "mlflow": 5000,
    "dagster": 3000,
    "dagster_code": 4000,
    "serving": 3001,
    "data_docs": 3002,
}
_STEP, _TRIES = 10, 150


class Ports(BaseModel):
    """One loopback port per embedded service."""

    model_config = ConfigDict(frozen=True)

    kafka: int = PREFERRED["kafka"]
    kafka_controller: int = PREFERRED["kafka_controller"]
    valkey: int = PREFERRED["valkey"]
    mlflow: int = PREFERRED["mlflow"]
    dagster: int = PREFERRED["dagster"]
    dagster_code: int = PREFERRED["dagster_code"]
    serving: int = PREFERRED["serving"]
    data_docs: int = PREFERRED["data_docs"]


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
            draft.write_text(_choose(home).model_dump_json(indent=2))
            try:
                os.link(draft, path)  # the first of two processes wins, and both read the same
            except FileExistsError:
                pass
            draft.unlink()
        return Ports.model_validate_json(path.read_text())
    except (ValidationError, json.JSONDecodeError):
        raise SettingsError(
            f"The file {path} does not hold braid's ports.", "Delete it while nothing runs; new ports are chosen."
        ) from None
    except OSError as error:
        raise SettingsError(
            f"The home {home} cannot be used: {error.strerror}.", "Choose another by --home or BRAID_HOME."
        ) from None


def _choose(home: Path) -> Ports:
    chosen: dict[str, int] = {}
    with ExitStack() as held:
        for name, preferred in PREFERRED.items():
            for port in (*range(preferred, preferred + _STEP * _TRIES, _STEP), 0):
                candidate = held.enter_context(socket.socket())
                try:
                    candidate.bind(("127.0.0.1", port))
                except OSError:
                    continue
                port = candidate.getsockname()[1]
                if _claim(port, home):
                    chosen[name] = port
                    break
    return Ports(**chosen)


def _claim(port: int, home: Path) -> bool:
    """Whether no other home of this user has the port; from now on this one has it."""
    folder = Path(os.environ.get("BRAID_PORT_CLAIMS") or Path(tempfile.gettempdir()) / f"braid-{os.getuid()}" / "ports")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        claim = folder / str(port)
        try:
            with claim.open("x") as file:
                file.write(str(home))
        except FileExistsError:
            owner = Path(claim.read_text())
            if owner != home and _has(owner, port):
                return False
            claim.write_text(str(home))  # the other home is gone, or has other ports
    except OSError:
        return True  # a claim is a courtesy; `up` refuses a port that is really taken
    return True


def _has(home: Path, port: int) -> bool:
    try:
        return port in json.loads((home / "ports.json").read_text()).values()
    except (OSError, ValueError, AttributeError):
        return False
