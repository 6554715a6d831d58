"""Keeps the libraries' own talk (Dagster's events, MLflow's links, Spark's warnings) out of the terminal and in a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Sends file descriptors 1 and 2 to `log`; `sys.stdout` and `sys.stderr` go on to where they went."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    own = sys.stdout, sys.stderr
    with log.open("ab") as target, os.fdopen(os.dup(1), "w") as out, os.fdopen(os.dup(2), "w") as err:
        try:
            os.dup2(target.fileno(), 1)
            os.dup2(target.fileno(), 2)
            sys.stdout, sys.stderr = out, err
            yield
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = own
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            for descriptor in saved:
                os.close(descriptor)
