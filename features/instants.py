"""Instants: int64 milliseconds since 1970 in UTC, and their conversion to and from texts and days. Every room uses these functions."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def now_ms() -> int:
    """Returns the current instant, by the clock of this machine."""
    return time.time_ns() // 1_000_000


@lru_cache(16_384)  # an answer has hundreds of instants, most of which the previous answer had as well
def rfc3339(instant_ms: int) -> str:
    """Formats an instant in RFC 3339, in UTC and to the millisecond, such as 2026-11-01T12:00:00.000Z."""
    second, milliseconds = divmod(instant_ms, 1_000)
    return f"{_second(second)}.{milliseconds:03d}Z"


@lru_cache(16_384)
def _second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat(timespec="seconds")[:-6]


def parse_rfc3339(text: str) -> int:
    """Parses an RFC 3339 text to an instant, rounded down to the millisecond.

    Raises:
        ValueError: The text is not a time, or it has no offset such as Z or +02:00.
    """
    return instant_of(datetime.fromisoformat(text))


def instant_of(moment: datetime) -> int:
    """Returns the instant of a datetime, rounded down to the millisecond.

    Raises:
        ValueError: The datetime has no offset.
    """
    if moment.tzinfo is None:
        raise ValueError("a time needs its offset, such as Z or +02:00")
    return (moment - _EPOCH) // _MILLISECOND


def utc_day(instant_ms: int) -> date:
    """Returns the UTC day that contains an instant."""
    return (_EPOCH + instant_ms * _MILLISECOND).date()


def day_start_ms(day: date) -> int:
    """Returns the first instant of a UTC day."""
    return (day - _EPOCH.date()) // _MILLISECOND
