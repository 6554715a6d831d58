"""When a batch is due: by event time, and by the wall clock only for a stream that stands still today."""

from __future__ import annotations

import pytest

from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from orchestration.due import Stream, due_batch_end_ms

MIDNIGHT = 20_000 * DAY_MS
WATERMARK = 10 * MINUTE_MS
OLDEST = MIDNIGHT - 5 * DAY_MS


@pytest.mark.parametrize(
    ("watermark", "oldest", "newest", "lag", "batch_end", "now", "expected"),
    [
        (None, None, None, 0, None, MIDNIGHT + HOUR_MS, None),  # nothing has happened yet
        (MIDNIGHT - 1, OLDEST, MIDNIGHT + 9 * MINUTE_MS, 0, MIDNIGHT - DAY_MS, MIDNIGHT + 9 * MINUTE_MS, None),  # events before midnight may still come
        (MIDNIGHT, OLDEST, MIDNIGHT + WATERMARK, 0, MIDNIGHT - DAY_MS, MIDNIGHT + WATERMARK, MIDNIGHT),  # now they may not
        (MIDNIGHT, OLDEST, MIDNIGHT + WATERMARK, 0, MIDNIGHT, MIDNIGHT + WATERMARK, None),  # it was done
        (MIDNIGHT + 5, OLDEST, MIDNIGHT + WATERMARK, 0, None, MIDNIGHT + WATERMARK, MIDNIGHT),  # the first batch of all
        (MIDNIGHT - HOUR_MS, OLDEST, MIDNIGHT - HOUR_MS + WATERMARK, 0, MIDNIGHT - DAY_MS, MIDNIGHT + WATERMARK - 1, None),
        (MIDNIGHT + 5, MIDNIGHT, MIDNIGHT + WATERMARK, 0, None, MIDNIGHT + WATERMARK, None),  # of nothing there is no batch
        (MIDNIGHT - HOUR_MS, OLDEST, MIDNIGHT - HOUR_MS + WATERMARK, 0, MIDNIGHT - DAY_MS, MIDNIGHT + WATERMARK, MIDNIGHT),  # a quiet night
        (MIDNIGHT - HOUR_MS, OLDEST, MIDNIGHT - HOUR_MS + WATERMARK, 7, MIDNIGHT - DAY_MS, MIDNIGHT + WATERMARK, None),  # unread messages may be of yesterday
        (MIDNIGHT - HOUR_MS, OLDEST, MIDNIGHT - HOUR_MS, 0, MIDNIGHT - DAY_MS, MIDNIGHT + 150 * DAY_MS, None),  # a replayed past, months later
        (MIDNIGHT + 3 * DAY_MS + 5, OLDEST, MIDNIGHT + 4 * DAY_MS, 0, MIDNIGHT, MIDNIGHT + 150 * DAY_MS, MIDNIGHT + 3 * DAY_MS),  # which went on
        (MIDNIGHT - HOUR_MS, OLDEST, MIDNIGHT - HOUR_MS, 0, MIDNIGHT - HOUR_MS + 1, MIDNIGHT + HOUR_MS, None),  # nothing new since the batch
    ],
)  # fmt: skip
def test_a_daily_batch_is_due_when_its_events_are_there(
    watermark: int | None, oldest: int | None, newest: int | None, lag: int, batch_end: int | None, now: int, expected: int | None
) -> None:
    assert due_batch_end_ms(Stream(watermark, oldest, newest, lag), batch_end, now, DAY_MS, WATERMARK) == expected


def test_an_hourly_batch_is_due_each_hour() -> None:
    stream = Stream(MIDNIGHT + 3 * HOUR_MS + 1, OLDEST, MIDNIGHT + 3 * HOUR_MS + WATERMARK, 0)
    assert due_batch_end_ms(stream, MIDNIGHT, MIDNIGHT + 3 * HOUR_MS + WATERMARK, HOUR_MS, WATERMARK) == MIDNIGHT + 3 * HOUR_MS
