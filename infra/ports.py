"""The ports of a deployment: chosen once per home and stored in `<home>/ports.json`, so that two deployments run side by side.

Nothing listens on the ports of a home whose services do not run. So a home also claims its ports by files in a folder that all homes
of the user share.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import SettingsError

#: The preferred port of each service. If the port is taken, the next free port in steps of ten is chosen.
PREFERRED = {
    "kafka": 9092,
    "kafka_controller": 9093,
    "valkey": 6379,
    "mlflow": 5000,
    "dagster": 3000,
    "dagster_code": 4000,
    "serving": 3001,
    "data_docs": 3002,
    "flink_rest": 8081,
    "flink_rpc": 6123,
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
    flink_rest: int = PREFERRED["flink_rest"]
    flink_rpc: int = PREFERRED["flink_rpc"]


def ports_of(home: Path) -> Ports:
    """Returns the ports of a home. If the home has no ports yet, they are chosen now.

    Raises:
        SettingsError: The home is not writable, or its `ports.json` has other content.
    """
    path = home / "ports.json"
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(_choose(home, PREFERRED), indent=2))
            try:
                os.link(draft, path)  # atomic: of two processes the first one wins, and both then read the same file
            except FileExistsError:
                pass
            draft.unlink()
        stored = Ports.model_validate_json(path.read_text()).model_dump(exclude_unset=True)
        if missing := {name: port for name, port in PREFERRED.items() if name not in stored}:  # of a home of an older version
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps({**stored, **_choose(home, missing)}, indent=2))
            draft.replace(path)
        return Ports.model_validate_json(path.read_text())
    except (ValidationError, json.JSONDecodeError):
        raise SettingsError(
            f"The file {path} does not contain braid's ports.",
            "Delete the file while no service of this home runs; new ports are then chosen.",
        ) from None
    except OSError as error:
        raise SettingsError(
            f"The home {home} cannot be used: {error.strerror}.", "Choose another by --home or BRAID_HOME."
        ) from None


def _choose(home: Path, preferences: Mapping[str, int]) -> dict[str, int]:
    chosen: dict[str, int] = {}
    with ExitStack() as sockets:  # each candidate stays bound until all ports are chosen, so that no port is chosen twice
        for name, preferred in preferences.items():
            for port in (*range(preferred, preferred + _STEP * _TRIES, _STEP), 0):
                candidate = sockets.enter_context(socket.socket())
                try:
                    candidate.bind(("127.0.0.1", port))
                except OSError:
                    continue
                port = candidate.getsockname()[1]
                if _claim(port, home):
                    chosen[name] = port
                    break
    return chosen


def _claim(port: int, home: Path) -> bool:
    """Claims a port for a home. Returns False if another home of this user has claimed the port."""
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
            claim.write_text(str(home))  # the other home was deleted, or has other ports now
    except OSError:
        return True  # the port can be used without a claim; `braid up` refuses a port on which a program listens
    return True


def _has(home: Path, port: int) -> bool:
    try:
        return port in json.loads((home / "ports.json").read_text()).values()
    except (OSError, ValueError, AttributeError):
        return False
