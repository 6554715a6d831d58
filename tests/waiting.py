"""How a test waits: until a condition holds, for so long and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], seconds: float = 240, every: float = 0.1) -> T:
    """The first true value that the condition gives; fails when the seconds are over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"It did not happen within {seconds:g} s."
        time.sleep(every)
    return value
