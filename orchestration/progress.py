"""The progress of long work, on stderr: bars on a terminal; elsewhere lines such as `12:03:41 backfill: events 40 %`.

A step writes a line when it begins, a line when it ends, and in between a line every few seconds if its progress has changed, else every half minute.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

#: The shortest time between two lines of a step, and the time after which a line is written although the progress has not changed.
_EVERY_SECONDS, _AT_LEAST_SECONDS = 3.0, 30.0


class Advance(Protocol):
    """Reports the progress of a step: what the step does now, and the amount of work, either since the last report (`by`) or in all (`to`)."""

    def __call__(self, doing: str = "", *, by: float = 0, to: float | None = None) -> None: ...


class Progress:
    """The steps of a piece of work.

    ```python
    with Progress() as progress, progress.step("backfill", total=12) as advance:
        advance("events", by=1)
    ```

    Args:
        remain: Whether the bars of completed steps stay on the terminal.

    Attributes:
        console: The console of the stderr that the process had when the object was made, also while `orchestration.quiet` redirects stderr.
    """

    def __init__(self, remain: bool = False) -> None:
        self.console = Console(file=os.fdopen(os.dup(2), "w", buffering=1))
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bars = Bars(*columns, console=self.console, transient=not remain, redirect_stdout=False, redirect_stderr=False)
        self._plain = not self.console.file.isatty()
        self._over = threading.Event()
        self._lines = threading.Thread(target=self._write_lines, name="progress", daemon=True)
        self._written: dict[TaskID, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        self._lines.start() if self._plain else self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._lines.join() if self._plain else self._bars.stop()

    @contextmanager
    def step(self, name: str, total: float | None = None) -> Iterator[Advance]:
        """Shows a step from the beginning of the block to its end. Steps of several threads may overlap.

        Args:
            name: The name of the step.
            total: The amount of work; None if it is unknown.

        Yields:
            The function that reports the progress of the step.
        """
        started = time.monotonic()
        task = self._bars.add_task(name, total=total)

        def advance(doing: str = "", *, by: float = 0, to: float | None = None) -> None:
            moved = {"advance": by} if to is None else {"completed": to}
            self._bars.update(task, description=f"{name}: {doing}" if doing else name, **moved)  # type: ignore[arg-type]

        with self._lock:
            self._line(task)
        try:
            yield advance
        finally:
            self._bars.stop_task(task)
            with self._lock:
                del self._written[task]
        self._bars.update(task, description=name, total=total or 1, completed=total or 1)
        self._say(f"{name} 100 % ({time.monotonic() - started:.0f} s)")

    def _write_lines(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            with self._lock:
                for task in self._written:
                    self._line(task)

    def _line(self, task: TaskID) -> None:
        """Writes the progress of a step, if the progress has changed or the last line is old."""
        state, now = self._bars.tasks[task], time.monotonic()
        share = f"{min(state.completed / state.total, 1) * 100:.0f} %" if state.total else "…"
        line = f"{state.description} {share}"
        before, when = self._written.get(task, ("", now))
        if line != before or now - when > _AT_LEAST_SECONDS:
            self._written[task] = line, now
            self._say(line)

    def _say(self, line: str) -> None:
        if self._plain:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=self.console.file, flush=True)
