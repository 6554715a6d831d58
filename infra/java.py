"""Finds Java 17 or 21, which Spark and Kafka need, or installs it if the machine allows that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from infra.errors import SetupError

SUPPORTED = (17, 21)
_CURE = (
    "Install OpenJDK 17 or 21 (Debian: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17) or set JAVA_HOME."
)


def find_java() -> Path:
    """Returns the home of a Java 17 or 21. Candidates are JAVA_HOME, then PATH, then the usual folders.

    Raises:
        SetupError: No candidate is a Java 17 or 21.
    """
    for home in _candidates():
        if _major(home) in SUPPORTED:
            return home
    raise SetupError("No Java 17 or 21 was found.", _CURE)


def ensure_java() -> Path:
    """Returns the home of a Java 17 or 21. If there is none, apt-get installs it, which needs root.

    Raises:
        SetupError: There is no Java 17 or 21, and it cannot be installed here.
    """
    try:
        return find_java()
    except SetupError:
        if not shutil.which("apt-get") or os.geteuid() != 0:
            raise
    for package in ("openjdk-17-jre-headless", "openjdk-21-jre-headless"):
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]):
            done = subprocess.run(
                command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, check=False
            )
        if done.returncode == 0:
            break
    return find_java()


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home)
    if java := shutil.which("java"):
        yield Path(java).resolve().parent.parent
    for pattern in (
        "/usr/lib/jvm/*",
        "/opt/java/*",
        "/Library/Java/JavaVirtualMachines/*/Contents/Home",
        "/opt/homebrew/opt/openjdk@*",
    ):
        yield from sorted(Path("/").glob(pattern.lstrip("/")))


def _major(home: Path) -> int | None:
    """Returns the major version of the Java in a folder; None if the folder has no Java, or if its Java does not run."""
    java = home / "bin" / "java"
    if not java.is_file():
        return None
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(match[1]) if match else None
