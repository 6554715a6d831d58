"""Time: durations, hops and windows. All instants are int64 milliseconds since 1970 in UTC. All intervals are half open.

Every layer applies one rule: at time q a window of size w and hop h is [floor(q - w, h), q). The head of the window is exact to the
millisecond, and its tail snaps down to a hop (the sawtooth of Chronon, https://chronon.ai). A window with an exact tail has a hop of one
millisecond, so the rule holds for it, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from features.errors import DeclarationError

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

#: How long after batch_end every feature is exact by default: the batch view keeps the tail hops of this span.
BUFFER_MS = 2 * DAY_MS

#: The hop of a window with an exact tail.
EXACT_HOP_MS = 1
#: An instant, or an array of instants.
InstantMs = TypeVar("InstantMs", int, npt.NDArray[np.int64])

_UNITS_MS = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "min": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}
_LONGEST_MS = 36_525 * DAY_MS  # a sum with a time stays far within 64 bits
_DURATION = re.compile(r"\s*(\d+)\s*(ms|s|min|m|h|d|w)\s*")


def parse_duration(text: str) -> int:
    """Returns the milliseconds of a duration such as "5min", "1h", "7d".

    Raises:
        DeclarationError: The text is not a positive whole number followed by ms, s, min (or m), h, d or w, or is longer than a century.
    """
    match = _DURATION.fullmatch(text)
    if not match or int(match[1]) == 0:
        raise DeclarationError(
            f"The duration {text!r} cannot be read.", "Write a positive number and a unit, such as '5min', '1h', '7d'."
        )
    duration_ms = int(match[1]) * _UNITS_MS[match[2]]
    if duration_ms > _LONGEST_MS:
        raise DeclarationError(
            f"The duration {text!r} is longer than a century.", "Write a shorter duration. A feature of all events has no window."
        )
    return duration_ms


def duration_text(duration_ms: int) -> str:
    """Returns a duration as a text that `parse_duration` reads, in the largest unit up to days that makes it a whole number."""
    return next(f"{duration_ms // unit_ms}{unit}" for unit, unit_ms in (("d", DAY_MS), ("h", HOUR_MS), ("min", MINUTE_MS), ("s", SECOND_MS), ("ms", 1))
                if duration_ms % unit_ms == 0)  # fmt: skip


def floor_ms(instant_ms: InstantMs, step_ms: int) -> InstantMs:
    """Returns the latest multiple of `step_ms` at or before `instant_ms`, also for instants before 1970."""
    return instant_ms - instant_ms % step_ms


def default_hop_ms(size_ms: int) -> int:
    """Returns the default hop of a window: 5 minutes below 12 hours, 1 hour below 12 days, 1 day from 12 days on."""
    if size_ms < 12 * HOUR_MS:
        return 5 * MINUTE_MS
    return HOUR_MS if size_ms < 12 * DAY_MS else DAY_MS


@dataclass(frozen=True)
class Window:
    """A sliding window of `size_ms` whose start snaps down to a multiple of `hop_ms`."""

    size_ms: int
    hop_ms: int

    @property
    def exact(self) -> bool:
        """Whether the tail is exact to the millisecond."""
        return self.hop_ms == EXACT_HOP_MS

    def start_ms(self, q_ms: InstantMs) -> InstantMs:
        """Returns the first instant of the window that ends at `q_ms`."""
        return floor_ms(q_ms - self.size_ms, self.hop_ms)

    def collapse_ms(self, batch_end_ms: int, buffer_ms: int) -> int:
        """Returns the instant from which on the batch view of a window of this size and hop has a single partial.

        Every window with q in [batch_end, batch_end + buffer] contains the whole of [collapse_ms, batch_end), which may be empty. A window
        with a later q may begin inside that interval. Such a window needs a part of the single partial, which the view does not have.
        """
        return min(self.start_ms(batch_end_ms + buffer_ms), batch_end_ms)
