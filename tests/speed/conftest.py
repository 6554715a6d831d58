"""A deployment of Kafka and Valkey for the speed layer, and the process itself, to be started, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.definitions import user_events
from infra import services
from infra.redis import PROGRESS_KEY, store
from infra.settings import Settings


class Speed:
    """`python -m speed` as the supervisor runs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._process = settings, None
        self.log = settings.home / "speed.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "speed"], env={**os.environ, **self._settings.environment()},
                cwd=self._settings.home, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 90
        while not self._entry_is_mine():
            running = self._process.poll() is None
            assert running, self.log.read_text()[-2_000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2_000:]
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL, to Python, the JVM and its workers at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        if self._process is None or self._process.poll() is not None:
            return self._process.returncode if self._process else 0
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            return self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def _entry_is_mine(self) -> bool:
        raw = store(self._settings).hget(PROGRESS_KEY, "online")
        return raw is not None and f'"pid": {self._process.pid}'.encode() in raw


@pytest.fixture(scope="session")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Kafka and Valkey of these tests, with triggers that do not make them wait."""
    home: Path = tmp_path_factory.mktemp("speed")
    settings = Settings.load(home).model_copy(update={"archive_seconds": 1, "offline_seconds": 3, "speed_memory": "768m"})
    services.up(settings, {user_events.topic: 4, user_events.dlq_topic: 1}, only={"kafka", "valkey"})
    yield settings
    services.down(settings)


@pytest.fixture(scope="session")
def speed(streaming: Settings) -> Iterator[Speed]:
    """The speed layer, not yet started."""
    process = Speed(streaming)
    yield process
    process.stop()
