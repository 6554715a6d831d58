"""The set-up of `make setup`: `.venv`, hash-locked packages, braid, Java, the JARs. It uses only the standard library.

Any `python3` can run it; it finds a suitable Python itself. The file `.venv/braid.json` records a completed set-up, so the next run ends at
once and needs no network. An interrupted set-up starts from the beginning.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "braid.json"
#: This file exists while packages are installed. An environment with this file was interrupted and is made again.
UNFINISHED = VENV / "braid.unfinished"
FITTING = ((3, 11), (3, 12), (3, 13))


class SetupFailedError(Exception):
    """The set-up has failed; the message contains the cause and the cure. `infra.errors` cannot be imported before the set-up."""


def main() -> int:
    """Installs what is missing. Returns the exit status."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # a second, concurrent `make` waits for the first
        set_up()
    except SetupFailedError as error:
        print("make setup: {}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make setup: interrupted; run it again to continue.", file=sys.stderr)
        return 130
    finally:
        os.close(folder)
    return 0


def set_up() -> None:
    """Does the steps that the stamp does not record."""
    started = time.monotonic()
    stamp = _read_stamp()
    key = _key()
    fresh = stamp.get("key") != key or not PYTHON.exists()  # False for a link to a Python that was removed
    compiling = _install_packages(key) if fresh else None
    if fresh or not all(Path(path).exists() for path in stamp.get("runtime", ["missing"])) or stamp.get("cache") != _cache():
        _say("Java and the JARs")
        done = subprocess.run([str(PYTHON), "-m", "infra.runtime"], stdout=subprocess.PIPE, check=False, cwd=str(ROOT))
        if done.returncode:
            raise SetupFailedError("Java or the JARs could not be installed; the line above has the cause.")
        if compiling:
            compiling.wait()
        STAMP.write_text(json.dumps({"key": key, "cache": _cache(), "runtime": json.loads(done.stdout)}, indent=2))
        print("braid is set up ({:.0f} s): {}".format(time.monotonic() - started, VENV / "bin" / "braid"), flush=True)


def _install_packages(key: str) -> subprocess.Popen[bytes]:
    """Installs the packages. Returns the process that compiles their modules, which goes on meanwhile."""
    if STAMP.exists():
        STAMP.unlink()
    if VENV.exists() and (UNFINISHED.exists() or _version(str(PYTHON)) not in FITTING or not _has_pip()):
        shutil.rmtree(VENV)
    if not VENV.exists():
        python = _fitting_python()
        _say("environment {} with {}".format(VENV, python))
        try:
            _run([python, "-m", "venv", str(VENV)])
        except subprocess.CalledProcessError:
            shutil.rmtree(VENV, ignore_errors=True)
            raise SetupFailedError(
                "{} cannot make a virtual environment. Debian: apt-get install python3-venv.".format(python)
            ) from None
    UNFINISHED.touch()
    _say("packages of requirements.lock, checked by their hashes")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check"]
    try:
        try:
            only_uv = VENV / "uv.lock.txt"
            only_uv.write_text(_block("uv"))
            _run([*pip, "install", "--quiet", "--require-hashes", "-r", str(only_uv)])
            uv = [str(VENV / "bin" / "uv"), "pip"]
            environment = {**os.environ, **uv_environment(), "VIRTUAL_ENV": str(VENV), "UV_PYTHON_DOWNLOADS": "never"}
            quiet = [] if sys.stderr.isatty() else ["--quiet"]
            _run([*uv, "install", *quiet, "--python", str(PYTHON), "--require-hashes", "-r", str(LOCK)], environment)
        except (subprocess.CalledProcessError, OSError):
            _say("uv has failed: again with pip")
            _run([*pip, "install", "--require-hashes", "-r", str(LOCK)])
        _run([*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    except subprocess.CalledProcessError as error:
        raise SetupFailedError(
            "The packages could not be installed (status {}). Check the network and run `make setup` again.".format(
                error.returncode
            )
        ) from None
    if _key() != key:
        raise SetupFailedError("The requirements changed meanwhile. Run `make setup` again.")
    UNFINISHED.unlink()
    # uv does not compile the modules. Without this step the first process that imports a module would compile it, or every process
    # if PYTHONDONTWRITEBYTECODE is set or the folder is read-only.
    compiling = [str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(VENV / "lib")]
    return subprocess.Popen(compiling, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fails for some templates


def _fitting_python() -> str:
    """Returns a Python that braid can use: the Python of this process, or another on PATH."""
    this = getattr(sys, "_base_executable", None) or sys.executable
    unfit = []
    for candidate in (this, "python3.13", "python3.12", "python3.11", "python3", "/usr/bin/python3"):
        path = shutil.which(candidate)
        version = _version(path) if path else None
        if path and version in FITTING:
            if _can_make_venv(path):
                return path
            unfit.append("{} lacks venv or ensurepip".format(path))
        elif version:
            unfit.append("{} is {}.{}".format(path, *version))
    raise SetupFailedError(
        "No Python 3.11, 3.12 or 3.13 that can make an environment was found ({}). "
        "Install one (Debian: apt-get install python3 python3-venv; macOS: brew install python@3.13).".format(
            "; ".join(unfit) or "there is no Python"
        )
    )


def _version(python: str) -> tuple[int, int] | None:
    output = _ask(python, "import sys; print(*sys.version_info[:2])")
    try:
        major, minor = output.split()
        return int(major), int(minor)
    except ValueError:
        return None


def _can_make_venv(python: str) -> bool:
    return _ask(python, "import venv, ensurepip; print('yes')") == "yes"


def _has_pip() -> bool:
    return _ask(str(PYTHON), "import pip; print('yes')") == "yes"


def _ask(python: str, code: str) -> str:
    """Returns the output of `python -c code`; empty if the Python does not run."""
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, cwd="/")
    except OSError:
        return ""
    return done.stdout.decode().strip() if done.returncode == 0 else ""


def uv_environment() -> dict[str, str]:
    """Returns the index and the certificate of pip's configuration as environment variables of uv, without those that are set already."""
    done = subprocess.run(
        [str(PYTHON), "-m", "pip", "config", "list"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    options = dict(re.findall(r"^\S+\.([a-z-]+)='(.*)'$", done.stdout.decode(), re.MULTILINE))
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE"}
    variables = {variable: options[option].replace("\\n", " ").strip() for option, variable in names.items() if options.get(option)}
    return {name: value for name, value in variables.items() if not os.environ.get(name)}


def _block(package: str) -> str:
    """Returns the lines of one package in the lock."""
    match = re.search(r"^{}==.*\n(?:    .*\n)+".format(re.escape(package)), LOCK.read_text(), re.MULTILINE)
    if not match:
        raise SetupFailedError("{} has no {}. Run `make lock`.".format(LOCK.name, package))
    return match.group()


def _key() -> str:
    """Returns a hash of everything that the environment depends on: the lock, `pyproject.toml`, this file, and the root folder."""
    files = (LOCK, ROOT / "pyproject.toml", ROOT / "infra" / "setup.py")
    return hashlib.sha256(b"".join(path.read_bytes() for path in files) + str(ROOT).encode()).hexdigest()


def _cache() -> str:
    """Returns the folder of the JARs, as in `infra.settings`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return os.environ.get("BRAID_CACHE") or str((Path(cache) if cache else Path.home() / ".cache") / "braid")


def _read_stamp() -> dict[str, Any]:
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError):
        return {}


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=environment, cwd=str(ROOT))


def _say(text: str) -> None:
    print("==> {}".format(text), flush=True)


if __name__ == "__main__":
    sys.exit(main())
