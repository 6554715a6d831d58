"""Redirects the output of libraries (Dagster's events, MLflow's links, Spark's warnings) from the terminal to a log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO


@contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Redirects all output of this process and its children to `log` during the block.

    Args:
        log: The file to which the output is appended.

    Yields:
        The terminal's standard error, for output that the user should see.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("a", buffering=1) as target, os.fdopen(os.dup(2), "w", buffering=1) as terminal:
        try:
            os.dup2(target.fileno(), 1)
            os.dup2(target.fileno(), 2)
            with redirect_stdout(target), redirect_stderr(target):
                yield terminal
        finally:
            for descriptor, copy in enumerate(saved, start=1):
                os.dup2(copy, descriptor)
                os.close(copy)
