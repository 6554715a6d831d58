"""The environment of the peers: made once per lock by uv, in the cache that all deployments of a user share."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

from infra.errors import ServiceError
from infra.settings import Settings
from infra.setup import uv_environment

LOCK = Path(__file__).with_name("requirements.lock")


def peers_python(settings: Settings) -> Path:
    """The Python of the environment, which is made where it is missing.

    Raises:
        ServiceError: The packages cannot be installed.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(LOCK.read_bytes() + version.encode()).hexdigest()[:12]
    folder = settings.cache_dir / f"peers-{key}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"the environment of the peers, once: {folder}", file=sys.stderr, flush=True)
        uv, variables = find_uv_bin(), {**os.environ, **uv_environment(), "UV_PYTHON_DOWNLOADS": "never"}
        try:
            for command in (
                ["venv", "--clear", "--python", sys.executable, str(folder)],
                ["pip", "install", "--python", str(python), "--require-hashes", "-r", str(LOCK)],
            ):
                subprocess.run([uv, *command, "--quiet"], check=True, env=variables)
        except subprocess.CalledProcessError as error:
            raise ServiceError(
                f"The packages of the peers could not be installed (status {error.returncode}).",
                "Check the network, and run `python -m benchmarks.peers` again.",
            ) from None
        complete.touch()
    return python
