"""Which speed tiles may have expired, with a real Valkey: answers from an older batch view are marked, also those about a past time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from features.windows import DAY_MS, HOUR_MS
from infra.settings import Settings
from serving.answer import features_at
from speed.completeness import TileStream
from speed.expiry import ExpiredTiles
from store.clients import store
from store.protocol import Tiles, View
from store.server import RedisStore, writing_store
from tests.declarations import user_features

HOUR = 500_000
NOW_MS = HOUR * HOUR_MS + 60_000


@pytest.fixture
def online(valkey: Settings) -> Iterator[RedisStore]:
    store(valkey).flushall()
    yield writing_store(valkey)
    store(valkey).flushall()


def test_tiles_may_have_expired_up_to_the_newest_event_of_the_hour_whose_writes_expire(
    valkey: Settings, online: RedisStore
) -> None:
    kept_ms = valkey.tiles_kept_seconds(user_features.buffer_ms) * 1_000
    expired = ExpiredTiles(online, valkey, "a_source", [user_features])
    assert expired.before_ms(user_features, None, NOW_MS) is None
    assert expired.before_ms(user_features, 1_000, NOW_MS) is None
    assert expired.before_ms(user_features, 2_000, NOW_MS + 59_000) is None  # not yet in the store
    assert expired.before_ms(user_features, 2_000, NOW_MS + 60_000) is None
    assert expired.before_ms(user_features, 3_000, NOW_MS + HOUR_MS) is None
    again = ExpiredTiles(online, valkey, "a_source", [user_features])
    assert again.before_ms(user_features, 3_000, NOW_MS + kept_ms - HOUR_MS) is None
    assert again.before_ms(user_features, 3_000, NOW_MS + kept_ms) == 2_001
    assert again.before_ms(user_features, 4_000, NOW_MS + kept_ms + HOUR_MS) == 3_001
    # Hours without an event, and those that were forgotten.
    assert again.before_ms(user_features, 5_000, NOW_MS + 3 * kept_ms) == 4_001
    assert len(online.notes("newest-events")["a_source"]) == 2
    kappa = ExpiredTiles(online, valkey.model_copy(update={"architecture": "kappa"}), "a_source", [user_features])
    assert kappa.before_ms(user_features, 5_000, NOW_MS + 3 * kept_ms) is None


def test_an_answer_about_a_past_time_is_marked_if_tiles_after_its_batch_end_may_have_expired(
    valkey: Settings, online: RedisStore
) -> None:
    batch_end_ms, expired_ms = NOW_MS - 5 * DAY_MS, NOW_MS - 4 * DAY_MS
    kept_ms = valkey.tiles_kept_seconds(user_features.buffer_ms) * 1_000
    stream = TileStream(user_features, Tiles("a"))
    online.set_tiles(user_features, stream.tiles)
    view = online.begin_publication(user_features, View(batch_end_ms, batch_end_ms))
    online.end_publication(user_features, view, 0, None)

    def degraded_at(q_ms: int) -> set[str]:
        reading = online.read(user_features, [1])
        served = features_at(reading, q_ms, kept_ms)(reading.parts[0])
        return {user_features.feature_names[index] for index in served.merged.degraded_features}

    assert stream.follow(online, {}, None, None) is None
    assert degraded_at(expired_ms + HOUR_MS // 2) == set()
    assert stream.follow(online, {}, None, expired_ms) is None
    assert stream.follow(online, {}, None, expired_ms - HOUR_MS) is None
    assert degraded_at(expired_ms + HOUR_MS // 2) == set(user_features.feature_names)
    # Windows of an hour need no tile that may have expired.
    assert degraded_at(expired_ms + 2 * HOUR_MS) == set(user_features.feature_names) - {
        "events_last_hour", "spend_last_hour", "sessions_last_hour"
    }  # fmt: skip
