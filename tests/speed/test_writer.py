"""The writer of contributions, with a real Valkey: what it is killed in the middle of is made again, and rows may come again and in any mixture."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pyarrow as pa
import pytest

from features.instants import now_ms
from features.merge import merge
from features.windows import DAY_MS, HOUR_MS
from infra.settings import Settings
from speed import writer as writers
from speed.batch_reads import BatchRead, record
from speed.engine import FITS, REFUSED, UNDECIDED
from speed.online import targets_of
from speed.writer import TileWriter, have_come, next_ends, split
from store.keys import version_of
from store.protocol import Tiles
from store.server import RedisStore, writing_store
from tests.declarations import user_features
from tests.speed.aloud import stored_tiles

ROW = pa.schema(
    [
        *((name, pa.int64()) for name in ("kafka_partition", "kafka_offset", "arrival_ms", "verdict", "ts_ms", "event")),
        ("entity_0", pa.string()),
        *((f"input_{index}", pa.int64()) for index in range(len(user_features.inputs))),
    ]
)
NOW_MS = now_ms()
TILE_MS = NOW_MS // HOUR_MS * HOUR_MS - HOUR_MS


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, ROW)


def row(partition: int, offset: int, event: int, ts_ms: int = TILE_MS, arrival_ms: int = NOW_MS, **other: Any) -> dict[str, Any]:
    inputs = {f"input_{index}": value for index, value in enumerate((1, None, 1, None))}
    places = {"kafka_partition": partition, "kafka_offset": offset, "arrival_ms": arrival_ms}
    return {**places, "verdict": FITS, "ts_ms": ts_ms, "event": event, "entity_0": "1", **inputs, **other}


class Stream:
    """A stream of tiles of its own, and writers of it, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.token = settings, uuid.uuid4().hex[:12]
        self.store: RedisStore = writing_store(settings)
        self.store.drop(user_features, [1])
        self.tiles = Tiles(self.token)
        self.store.set_tiles(user_features, self.tiles)

    def writer(self, checkpoint: str | None = None) -> TileWriter:
        targets = targets_of([(user_features, self.tiles)])
        return TileWriter(self.store, self.settings, user_features.source.name, targets, checkpoint or self.token, 1)

    def counted(self) -> int:
        values = merge(user_features, None, list(stored_tiles(self.settings, 1).values()), NOW_MS + 1).values
        return values[user_features.feature_names.index("events_last_hour")]


@pytest.fixture
def stream(valkey: Settings) -> Stream:
    return Stream(valkey)


def test_rows_that_come_again_are_passed_over_also_within_a_micro_batch(stream: Stream) -> None:
    writer, ts_ms = stream.writer(), NOW_MS - 60_000
    first = [row(0, offset, offset, ts_ms) for offset in range(5)]
    writer.write(table([*first, *first[2:], row(0, 5, 5, ts_ms), row(1, 0, 6, ts_ms)]), {})
    writer.write(table([*first, row(0, 6, 7, ts_ms)]), {})
    writer.write(table(first), {})
    assert (stream.counted(), writer.done, writer.number) == (8, {0: 7, 1: 1}, 1)
    assert stream.store.has_tiles_of(stream.token, 1, 1)


def test_a_stream_that_is_read_again_under_another_token_counts_each_event_once(stream: Stream) -> None:
    # Of three tiles: the first micro-batch of the second reading comes to one of them, which leaves the others for the next.
    tile_ms = user_features.tile_ms
    rows = [row(0, offset, offset, NOW_MS - (3 - offset // 2) * tile_ms) for offset in range(6)]
    stream.writer().write(table(rows), {})
    assert stream.counted() == 6
    stream.tiles = Tiles(f"{stream.token}-again")
    stream.store.set_tiles(user_features, stream.tiles)
    writer = stream.writer("another checkpoint")
    for begun in range(0, 6, 2):
        writer.write(table(rows[begun : begun + 2]), {})
    assert stream.counted() == 6


def test_copies_and_late_events_do_not_count_and_their_numbers_are_known(stream: Stream) -> None:
    writer, ts_ms = stream.writer(), NOW_MS - 60_000
    late_ms = ts_ms - stream.settings.watermark_seconds * 1_000
    writer.write(table([row(0, 0, 10, ts_ms), row(1, 0, 10, ts_ms, NOW_MS - 1), row(0, 1, 11, ts_ms)]), {})
    writer.write(table([row(0, 2, 11, ts_ms), row(0, 3, 12, late_ms), row(0, 4, 13, late_ms + 1)]), {})
    counters = writer.counters
    assert (stream.counted(), counters.copies, counters.late, counters.undecided) == (3, 2, 1, 0)
    assert (counters.oldest_ms, counters.newest_ms, counters.watermark_ms) == (late_ms, ts_ms, late_ms)


def test_a_copy_of_a_late_event_does_not_count_whatever_its_time(stream: Stream) -> None:
    writer, ts_ms = stream.writer(), NOW_MS - 60_000
    late_ms = ts_ms - stream.settings.watermark_seconds * 1_000
    # Of these the batch layer counts both.
    far_ms = ts_ms - (stream.settings.deduplication_days + 1) * DAY_MS
    writer.write(table([row(0, 0, 10, ts_ms)]), {})
    writer.write(table([row(0, 1, 11, late_ms), row(0, 2, 12, far_ms)]), {})
    writer.write(table([row(0, 3, 11, ts_ms), row(0, 4, 12, ts_ms)]), {})
    assert (stream.counted(), writer.counters.copies, writer.counters.late) == (2, 1, 2)
    # In one micro-batch the late one counts as the first as well.
    writer.write(table([row(0, 5, 13, ts_ms, NOW_MS), row(0, 6, 13, late_ms, NOW_MS - 1)]), {})
    assert (stream.counted(), writer.counters.copies, writer.counters.late) == (2, 2, 3)


def test_an_event_that_the_latest_batch_has_missed_is_a_late_row_and_stays_in_its_tile(stream: Stream) -> None:
    source, store, ts_ms = user_features.source.name, stream.store, NOW_MS - 60_000
    record(store, source, BatchRead(ts_ms, {0: 2}))
    record(store, source, BatchRead(ts_ms - 1, {0: 0, 1: 0}))  # its view would not replace that of the later batch_end
    try:
        writer = stream.writer()
        # The batch has the first two; the third is after batch_end, the others are what it has missed.
        writer.write(
            table([row(0, 0, 10, ts_ms - 1), row(0, 1, 11, ts_ms - 1), row(0, 2, 12, ts_ms), row(0, 3, 13, ts_ms - 1)]), {}
        )
        writer.write(table([row(1, 0, 14, ts_ms - 1), row(1, 1, 13, ts_ms - 1)]), {})
        assert (stream.counted(), writer.counters.late, writer.counters.copies) == (5, 2, 1)
    finally:
        store.note("batch-reads", source, None)


@pytest.mark.parametrize("torn_at", ["put_all_tiles", "raise_high_water", "first_copies"])
def test_a_micro_batch_that_was_torn_is_made_again_under_its_number(
    stream: Stream, torn_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ts_ms = NOW_MS - 60_000
    rows = [row(0, offset, 100 + offset // 2, ts_ms) for offset in range(6)]
    with monkeypatch.context() as patched:
        writer = stream.writer()
        done = getattr(stream.store, torn_at)

        def killed(*arguments: Any, **named: Any) -> None:
            done(*arguments, **named)
            raise KeyboardInterrupt

        patched.setattr(stream.store, torn_at, killed, raising=False)
        with pytest.raises(KeyboardInterrupt):
            writer.write(table(rows), {"position": 7})
    again = stream.writer()
    assert again.again is not None
    assert (again.again.engine, again.number) == ({"position": 7}, -1)
    assert not have_come(table(rows[:3]), again.again.end, {})
    more = [*rows[:4], *rows, row(0, 6, 200, ts_ms)]
    assert have_come(table(more), again.again.end, {})
    left = again.write_again(table(more))
    assert left.column("kafka_offset").to_pylist() == [6]
    again.write(left, {})
    assert (stream.counted(), again.number, again.done) == (4, 1, {0: 7})


def test_a_writer_that_begins_again_after_a_whole_micro_batch_changes_nothing(stream: Stream) -> None:
    rows = [row(0, offset, 300 + offset, NOW_MS - 60_000) for offset in range(4)]
    stream.writer().write(table(rows), {})
    again = stream.writer()
    assert not again.write_again(table(rows)).num_rows
    assert (stream.counted(), again.number, again.counters.copies) == (4, 0, 0)


def test_a_writer_of_another_checkpoint_begins_anew_and_knows_what_was_noted_before(stream: Stream) -> None:
    stream.writer().write(table([row(0, 0, 350)]), {"topic": "former"})
    other = stream.writer("another checkpoint")
    assert (other.again, other.done, other.number, other.noted) == (None, {}, -1, {"topic": "former"})


def test_what_is_refused_moves_the_offsets_and_what_is_undecided_is_named(stream: Stream) -> None:
    writer, slack_ms = stream.writer(), stream.settings.future_seconds * 1_000
    nothing = dict.fromkeys(("ts_ms", "event", "entity_0"))
    ahead = row(0, 2, 402, NOW_MS + slack_ms + 1)
    writer.write(table([row(0, 0, 400, NOW_MS - 1_000), {**row(0, 1, 0), **nothing, "verdict": REFUSED}, ahead]), {})
    tiles = lambda: stream.store.tiles(user_features.name)[version_of(user_features.fingerprint)]  # noqa: E731
    assert (stream.counted(), writer.done, tiles().complete_since_ms) == (1, {0: 3}, None)
    undecided = {**row(0, 3, 0, arrival_ms=NOW_MS - 5), **nothing, "verdict": UNDECIDED}
    writer.write(table([undecided]), {})
    assert (writer.done, writer.counters.undecided) == ({0: 4}, 1)
    assert tiles().complete_since_ms == NOW_MS - 5 + slack_ms + 1
    # Another process may write what it knew before.
    stream.store.set_tiles(user_features, stream.tiles)
    writer.hold_degraded()
    assert tiles().complete_since_ms == NOW_MS - 5 + slack_ms + 1


def test_what_no_message_is_left_of_is_passed_over(stream: Stream) -> None:
    stream.writer().write(table([row(0, 0, 500), row(0, 1, 501)]), {})
    again = stream.writer()
    assert not have_come(None, {0: 2}, {0: 1})
    assert have_come(None, {0: 2}, {0: 9})
    again.abandon()
    again.passed({0: 9})
    assert (again.done, again.number, again.again) == ({0: 9}, 0, None)


def test_a_micro_batch_of_a_backlog_takes_of_each_partition_its_share() -> None:
    assert next_ends({0: 1_000, 1: 3_000, 2: 5}, {0: 0, 1: 1_000, 2: 5}, 300) == {0: 100, 1: 1_200, 2: 5}
    assert next_ends({0: 7, 1: 9}, {0: 4}, 300) == {0: 7, 1: 9}
    rows = table([row(0, offset, offset) for offset in range(10)])
    assert not have_come(rows, {0: 5, 1: 2}, {}), "the watermark waits for the other partition"
    assert have_come(rows, {0: 5, 1: 2}, {1: 2})
    rows = pa.concat_tables([rows, table([row(1, 1, 21)])])
    assert have_come(rows, {0: 5, 1: 2}, {})
    inside, waiting = split(rows, {0: 5, 1: 2})
    assert (inside.column("kafka_offset").to_pylist(), waiting.column("kafka_offset").to_pylist()) == (
        [0, 1, 2, 3, 4, 1],
        [5, 6, 7, 8, 9],
    )


@pytest.mark.parametrize("seed", range(3))
def test_however_rows_come_again_each_event_counts_once(stream: Stream, seed: int) -> None:
    rng = random.Random(seed)
    rows = [row(offset % 2, offset // 2, 1_000 + offset, NOW_MS - 60_000 + offset) for offset in range(60)]
    at, writer = 0, stream.writer()
    while at < len(rows):
        size = rng.randrange(1, 12)
        begin = max(0, at - rng.randrange(20))
        came = rows[begin : at + size]
        if writer.again and not have_come(table(came), writer.again.end, {}):
            came = rows[: at + size]
        if writer.again:
            came = writer.write_again(table(came)).to_pylist()
        writer.write(table(came), {})
        at += size
        if rng.random() < 0.3:
            writer = stream.writer()
            rows_again = writer.write_again(table(rows[:at]))
            assert not rows_again.num_rows
    assert stream.counted() == 60
    assert writers.ends_of(table(rows)) == writer.done
