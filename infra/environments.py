"""Python environments beside braid's own, for packages that braid does not import.

Each lock is installed once, in the cache that all deployments of a user share.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.errors import SetupError
from infra.settings import Settings
from infra.setup import uv_environment

#: The version of Python as in the folder names of an environment, such as "3.12".
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def environment(
    settings: Settings, name: str, lock: Path, parts: Sequence[str] = (), finish: Callable[[Path], None] = lambda folder: None
) -> Path:
    """Returns the folder of an environment. If the environment is missing or incomplete, uv installs it first, or pip if there is no uv.

    Args:
        settings: The settings that name the cache.
        name: The beginning of the folder's name.
        lock: The locked requirements, with hashes.
        parts: Names and versions of further parts of the environment. A change of the lock, the Python or a part leads to a new environment.
        finish: Adds the further parts to the folder.

    Raises:
        SetupError: The packages cannot be installed.
    """
    key = hashlib.sha256(lock.read_bytes() + PYTHON.encode() + "".join(parts).encode()).hexdigest()[:12]
    folder = settings.cache_dir / f"{name}-{key}"
    complete = folder / "complete"
    if complete.exists():
        return folder
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another process may be installing it
        if not complete.exists():
            print(f"the environment of {name}, once: {folder}", file=sys.stderr, flush=True)
            _install(name, folder, lock)
            finish(folder)
            complete.touch()
    return folder


def _install(name: str, folder: Path, lock: Path) -> None:
    python = str(folder / "bin" / "python")
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))
    variables = {**os.environ, **uv_environment(), "UV_PYTHON_DOWNLOADS": "never"}
    if uv:
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "--quiet", "--python", python]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install = [python, "-m", "pip", "install", "--quiet"]
    # The lock also contains the build tools of the packages that are built from their source archives.
    install += ["--no-build-isolation", "--require-hashes", "-r", str(lock)]
    try:
        for command in (make, install):
            subprocess.run(command, check=True, env=variables)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SetupError(f"The environment of {name} could not be made ({error}).", "Check the network, and start again.") from None
