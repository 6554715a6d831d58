"""The home of a benchmark: a new deployment in a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from infra.embedded import services
from infra.settings import Settings


@contextmanager
def temporary_home() -> Iterator[Settings]:
    """Yields the settings of a new deployment. At the end of the block its services are ended and its folder is deleted."""
    with tempfile.TemporaryDirectory(prefix="braid-bench-", ignore_cleanup_errors=True) as home:
        settings = Settings.load(home)
        try:
            yield settings
        finally:
            services.down(settings)
