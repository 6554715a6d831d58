"""Waiting for the stream, with a real online store: what counts as read."""

from __future__ import annotations

import pytest

from infra.errors import ServiceError
from infra.settings import Settings
from speed import visible
from speed.visible import wait_archived, wait_visible
from store.server import open_store
from tests.declarations import user_events, user_features


def test_what_was_read_of_a_topic_that_had_the_name_before_counts_for_nothing(
    valkey: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visible, "topic_id", lambda *_: "the topic now")

    def progress(**topic: str) -> None:
        entry = {"offsets": {"0": 9}, **topic}
        open_store(valkey).set_progress({"online:user_features": entry, "archive:user_events": entry})

    progress(topic="the topic before")
    with pytest.raises(ServiceError, match="2 of the messages sent are not yet in the online store"):
        wait_visible(valkey, [user_features], {0: 2}, 0.1)
    with pytest.raises(ServiceError, match="2 of the messages sent are not yet in the archive"):
        wait_archived(valkey, user_events, {0: 2}, 0.1)
    progress(topic="the topic now")
    wait_visible(valkey, [user_features], {0: 2}, 0.1)
    wait_archived(valkey, user_events, {0: 2}, 0.1)
    wait_visible(valkey, [], {0: 2}, 0.1)  # a source without groups
    progress()  # as a speed layer wrote it that did not know the topic
    wait_visible(valkey, [user_features], {0: 2}, 0.1)
