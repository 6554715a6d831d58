"""When a batch is due: the end of the latest period whose events are all there. Pure.

A period is over when the stream's watermark has passed its end: by event time, so that a replayed past gets its batches, too, and a stream that
stands still gets none. Only where the stream is caught up and its newest event is of this day does the wall clock count: nobody may have
done anything since midnight.
"""

from __future__ import annotations

from dataclasses import dataclass

from features.windows import DAY_MS, floor_ms


@dataclass(frozen=True)
class Stream:
    """Where the speed layer is: its watermark, its oldest and newest event (None before the first one), and the messages that it has not read."""

    watermark_ms: int | None
    oldest_event_ms: int | None
    newest_event_ms: int | None
    lag: int


def due_batch_end_ms(stream: Stream, batch_end_ms: int | None, now_ms: int, period_ms: int, watermark_ms: int) -> int | None:
    """Where the next batch ends, or None where none is due.

    Args:
        stream: Where the speed layer is.
        batch_end_ms: Where the last batch ended, if there was one.
        now_ms: The wall clock.
        period_ms: A day or an hour.
        watermark_ms: How late the speed layer accepts.
    """
    if stream.newest_event_ms is None or stream.oldest_event_ms is None:
        return None
    passed_ms = stream.watermark_ms or 0
    if stream.lag == 0 and now_ms - stream.newest_event_ms < DAY_MS:
        passed_ms = max(passed_ms, now_ms - watermark_ms)
    end_ms = floor_ms(passed_ms, period_ms)
    if batch_end_ms is None:
        return end_ms if end_ms > stream.oldest_event_ms else None
    return end_ms if end_ms > batch_end_ms and stream.newest_event_ms >= batch_end_ms else None
