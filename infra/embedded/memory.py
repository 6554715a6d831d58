"""Measures the memory of a deployment: this process, the services of the home, and the children of both."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

from infra.embedded.services import process_ids
from infra.settings import Settings


def tree_rss_mb(settings: Settings) -> float:
    """Returns the resident memory of a deployment in MiB. Memory that processes share is counted once per process."""
    own = psutil.Process()
    pids = {own.pid, *(child.pid for child in own.children(recursive=True)), *process_ids(settings)}
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue  # the process has ended
    return total / 2**20


class PeakMemory:
    """Measures the largest `tree_rss_mb` while a block runs, every `every_seconds`.

    ```python
    with PeakMemory(settings) as memory:
        work()
    memory.peak_rss_mb
    ```
    """

    def __init__(self, settings: Settings, every_seconds: float = 1.0) -> None:
        self.peak_rss_mb = 0.0
        self._settings, self._every_seconds = settings, every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self.sample()

    def sample(self) -> None:
        """Measures now."""
        self.peak_rss_mb = max(self.peak_rss_mb, tree_rss_mb(self._settings))

    def _watch(self) -> None:
        while not self._over.wait(self._every_seconds):
            self.sample()
