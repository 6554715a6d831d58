"""The distribution of Flink: made once per lock by uv, in the cache that all deployments of a user share."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from infra.errors import SetupError
from infra.jars import FLINK, jars
from infra.settings import Settings
from infra.setup import uv_environment

LOCK = Path(__file__).with_name("requirements.lock")


def distribution(settings: Settings) -> Path:
    """The folder of the distribution, with `lib` and `opt`; it is made where it is missing.

    Raises:
        SetupError: The packages or the connector cannot be installed.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(LOCK.read_bytes() + version.encode() + "".join(FLINK.coordinates).encode()).hexdigest()[:12]
    folder = settings.cache_dir / f"flink-{key}"
    packages, complete = folder / "lib" / f"python{version}" / "site-packages" / "pyflink", folder / "complete"
    if not complete.exists():
        _make(settings, folder)
        for jar in jars(FLINK, settings.cache_dir):
            # The cluster needs no SQL client.
            shutil.copyfile(jar, packages / ("opt" if "gateway" in jar.name else "lib") / jar.name)
        complete.touch()
    return packages


def _make(settings: Settings, folder: Path) -> None:
    print(f"the environment of Flink, once: {folder}", file=sys.stderr, flush=True)
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    python = str(folder / "bin" / "python")
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))
    variables = {**os.environ, **uv_environment(), "UV_PYTHON_DOWNLOADS": "never"}
    if uv:
        install = [uv, "pip", "install", "--quiet", "--python", python]
        commands = [[uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]]
    else:
        install = [python, "-m", "pip", "install", "--quiet"]
        commands = [[sys.executable, "-m", "venv", "--clear", str(folder)]]
    # What builds the package from its source archive is in the lock, too.
    commands += [[*install, "--no-build-isolation", "--require-hashes", "-r", str(LOCK)]]
    try:
        for command in commands:
            subprocess.run(command, check=True, env=variables)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SetupError(f"Flink could not be installed ({error}).", "Check the network, and start again.") from None
