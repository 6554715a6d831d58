"""Instants become text, days and milliseconds by one rule each."""

from __future__ import annotations

import time
from datetime import date

import pytest

from features.instants import now_ms, parse_rfc3339, rfc3339, utc_day

NOON_MS = 1_793_534_400_000


def test_the_text_of_an_instant_is_read_back_as_the_same_instant() -> None:
    assert rfc3339(NOON_MS + 7) == "2026-11-01T12:00:00.007Z"
    for instant_ms in (-1, 0, 1, NOON_MS + 7, 253_402_300_799_999):
        assert parse_rfc3339(rfc3339(instant_ms)) == instant_ms


@pytest.mark.parametrize(
    ("text", "instant_ms"),
    [
        ("2026-11-01T12:00:00Z", NOON_MS),
        ("2026-11-01T14:00:00+02:00", NOON_MS),
        ("2026-11-01T12:00:00.001999Z", NOON_MS + 1),
        ("1969-12-31T23:59:59.999999Z", -1),
    ],
)
def test_an_instant_is_read_with_its_offset_and_rounded_down(text: str, instant_ms: int) -> None:
    assert parse_rfc3339(text) == instant_ms


@pytest.mark.parametrize("text", ["2026-11-01T12:00:00", "2026-11-01", "yesterday", ""])
def test_a_text_without_an_offset_or_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the sentence of a text that is not a time is Python's
        parse_rfc3339(text)


def test_the_day_of_an_instant_is_the_day_in_utc() -> None:
    assert utc_day(NOON_MS) == date(2026, 11, 1)
    assert utc_day(-1) == date(1969, 12, 31)
    assert utc_day(0) == utc_day(86_399_999) == date(1970, 1, 1)


def test_now_is_in_milliseconds() -> None:
    assert abs(now_ms() - time.time() * 1_000) < 1_000
