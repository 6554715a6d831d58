"""When the next batch is due: at the end of the latest period whose events have all arrived. Pure.

A period is complete when the stream's watermark has passed the end of the period. The watermark follows event time, so a replay of
old events starts batches too, and a stream without new events starts none. The wall clock counts as well if the stream has read
every message and its newest event is less than a day old, because the period may have had no events at its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from features.windows import DAY_MS, floor_ms


@dataclass(frozen=True)
class Stream:
    """The progress of the speed layer.

    Attributes:
        watermark_ms: The watermark; None before the first event.
        oldest_event_ms: The time of the oldest event that was read; None before the first event.
        newest_event_ms: The time of the newest event that was read; None before the first event.
        lag: How many messages in Kafka have not been read yet.
    """

    watermark_ms: int | None
    oldest_event_ms: int | None
    newest_event_ms: int | None
    lag: int


def due_batch_end_ms(stream: Stream, batch_end_ms: int | None, now_ms: int, period_ms: int, watermark_ms: int) -> int | None:
    """Returns the batch_end of the batch that is due now, in ms since 1970; None if no batch is due.

    Args:
        stream: The progress of the speed layer.
        batch_end_ms: The batch_end of the last batch; None before the first batch.
        now_ms: The wall clock.
        period_ms: The length of a period: a day or an hour.
        watermark_ms: The lateness up to which the speed layer accepts events.
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
