"""The age of a group and what a use case makes of it, on a real online store."""

from __future__ import annotations

import pytest

from infra.policies import UseCase, WhenStale
from infra.settings import Settings
from serving.answer import Stale
from serving.errors import RefusalError
from serving.freshness import Freshness
from store.clients import store
from store.keys import meta_key
from tests.declarations import user_features
from tests.waiting import eventually

NOW = 1_780_000_000_000
NAME = user_features.name


def test_a_group_without_a_known_event_is_too_old_for_that_reason_and_no_other(valkey: Settings) -> None:
    store(valkey).flushdb()
    cases = {when.value: UseCase(max_age_seconds=60, when_stale=when) for when in WhenStale}
    seen: list[tuple[str, int]] = []
    freshness = Freshness(valkey.model_copy(update={"use_cases": cases}), [user_features], lambda *newest: seen.append(newest))

    def unknown() -> bool:
        with pytest.raises(RefusalError, match=f"^No event of {NAME} is known, and refuse allows an age of 60 s."):
            freshness.stale("refuse", NAME, NOW)
        reason = "stale: no event of the group is known, and serve allows an age of 60 s"
        return freshness.stale("serve", NAME, NOW) == Stale(WhenStale.SERVE, reason)

    assert unknown(), "before the first read"
    freshness.start()
    try:
        eventually(lambda: freshness.looked)
        assert unknown(), "the store has no event"
        newest = {"fingerprint": user_features.fingerprint, "batch_end_ms": NOW, "newest_event_ms": NOW - 60_001}
        store(valkey).hset(meta_key(NAME), mapping=newest)
        eventually(lambda: seen)
        reason = "stale: the newest event is older than the 60 s that serve allows"
        assert freshness.stale("serve", NAME, NOW) == Stale(WhenStale.SERVE, reason)
        with pytest.raises(RefusalError, match=f"^The features of {NAME} are older than the 60 s that refuse allows."):
            freshness.stale("refuse", NAME, NOW)
    finally:
        freshness.stop()
        store(valkey).flushdb()
