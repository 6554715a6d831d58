"""From the lake and the stream into a real store, without Spark: each event counts once, on whichever side of the seam it is, and however often it comes."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest

from features.merge import EVER_MS, merge
from features.merge_many import ManyMerge
from infra.settings import Settings
from speed.histories import write_histories
from speed.online import Target, fold_rows
from store.clients import store
from store.protocol import Tiles
from store.server import RedisStore, writing_store
from tests.declarations import user_features
from tests.speed.test_fold import INPUTS, SCHEMA, TILE_MS, Stream, event, generated

WATERMARK_MS = 300_000
WITH_SLOT = SCHEMA.append(pa.field("slot", pa.int32()))


def table(events: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**each, "slot": 0} for each in events], WITH_SLOT)


@pytest.mark.parametrize("seed", range(3))
def test_what_the_lake_has_and_the_stream_brings_merge_to_all_events_once(valkey: Settings, seed: int) -> None:
    settings, rng = valkey.model_copy(update={"architecture": "kappa"}), random.Random(seed)
    store(settings).flushall()
    online = RedisStore(settings)
    streamed = generated(seed, 600)
    first_ms = min(each["ts_ms"] for each in streamed)
    # The events of files have no place in the topic.
    filed = [
        {**event(-1, first_ms - rng.randrange(40 * 86_400_000), 7, rng.randrange(4)), "kafka_partition": -1} for _ in range(200)
    ]
    begins = {0: 250, 1: 300}
    archived = [each for each in streamed if each["kafka_offset"] < begins[each["kafka_partition"]]]
    until_ms = (max(each["ts_ms"] for each in archived) - WATERMARK_MS + 1) // TILE_MS * TILE_MS
    target = Target(user_features, "k", 0, tuple(INPUTS), begins)
    # What a former stream has left counts no more.
    former = Target(user_features, "former", 0, tuple(INPUTS), {})
    list(
        write_histories(
            settings, [former], {user_features.fingerprint: until_ms - TILE_MS}, iter(table(archived[:50]).to_batches())
        )
    )
    batches = table([*filed, *archived]).to_batches(max_chunksize=100)
    [written] = list(write_histories(settings, [target], {user_features.fingerprint: until_ms}, iter(batches)))
    assert written.to_pylist() == [{"token": "k", "entities": 4}]

    high_ms, left, stream = None, list(streamed), writing_store(settings)
    while left:
        size = rng.randrange(1, 80)
        micro_batch, left = left[:size], left[size:]
        for part in (micro_batch[: size // 2], micro_batch):  # a task that was killed in between is made again
            watermark_ms = None if high_ms is None else high_ms - WATERMARK_MS
            stream.put_all_tiles(fold_rows(stream, settings, [target], {0: table(part)}, watermark_ms))
        high_ms = max(each["ts_ms"] for each in (*micro_batch, {"ts_ms": high_ms or 0}))
    online.set_tiles(user_features, Tiles("k", history=1, begins=begins))
    reading, whole = online.read(user_features, list(range(4))), Stream()
    whole.take(*({**each, "kafka_offset": place} for place, each in enumerate((*filed, *streamed))))
    for q_ms in (high_ms + 1, high_ms + 5_000_000, high_ms + 20 * 86_400_000):
        merge_at_q = ManyMerge(user_features, q_ms, reading.batch_end_ms, reading.complete_since_ms)
        for entity, parts in enumerate(reading.parts):
            tiles = [whole.tile(entity, start_ms) for start_ms in whole.tiles[entity]]
            expected = merge(user_features, None, tiles, q_ms, EVER_MS)
            merged = merge_at_q(parts.batch, parts.tiles)
            assert (merged.values, merged.newest_event_ms, merged.degraded) == (expected.values, expected.newest_event_ms, ())
    store(settings).flushall()
