"""The speed layer's process, to be started, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import redis

from infra.settings import Settings
from store.clients import store
from store.keys import PROGRESS_KEY
from tests.waiting import eventually


class Speed:
    """`python -m speed` as the supervisor runs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._process = settings, None
        self.log = settings.home / "speed.log"

    def start(self) -> None:
        self.launch()

        def entered() -> bool:
            assert self._process.poll() is None, self.log.read_text()[-2_000:]
            try:
                raw = store(self._settings).hget(PROGRESS_KEY, "online")
            except redis.TimeoutError:  # the machine is busy
                return False
            return raw is not None and f'"pid": {self._process.pid}'.encode() in raw

        eventually(entered)

    def launch(self) -> None:
        """Starts it, and does not wait."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "speed"], env={**os.environ, **self._settings.environment()},
                cwd=self._settings.home, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> int:
        """Until it ends by itself; gives the exit code."""
        return self._process.wait(120)

    def kill(self) -> None:
        """SIGKILL, to Python, the JVM and its workers at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        if self._process is None or self._process.poll() is not None:
            return self._process.returncode if self._process else 0
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
