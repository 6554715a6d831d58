"""Which checkpoint the query of a source goes on with, on a real store."""

from __future__ import annotations

from infra.settings import Settings
from speed.checkpoints import checkpoint_of, checkpoints, recorded_tokens
from speed.completeness import open_stream
from store.clients import store
from store.protocol import Tiles
from store.server import open_store
from tests.declarations import user_events, user_features


def test_a_checkpoint_goes_on_without_a_version_and_another_begins_with_a_new_one(valkey: Settings) -> None:
    store(valkey).flushall()
    online = open_store(valkey)
    first = checkpoint_of(online, user_events, {"a@1": "x", "b@1": "y"}, 2)
    assert checkpoint_of(online, user_events, {"a@1": "x", "b@1": "y"}, 2) == first
    assert checkpoint_of(online, user_events, {"a@1": "x"}, 2) == first, "b is served no more"
    assert set(recorded_tokens(online, user_events).values()) == {"x", "y"}
    second = checkpoint_of(online, user_events, {"a@1": "x", "c@1": "z"}, 16)
    assert second.name != first.name
    assert second.tasks == 16
    third = checkpoint_of(online, user_events, {"a@1": "x", "d@1": "w"}, 2)
    assert third.tasks == 16, "a mark that no task writes any more would be taken for lost tiles"
    assert checkpoint_of(online, user_events, {"a@1": "x", "d@1": "other"}, 2).name != third.name, "its tiles were lost"
    assert len(checkpoints(online)) == 1
    store(valkey).flushall()


def test_another_engine_begins_a_checkpoint_with_the_tiles_that_are_there(valkey: Settings) -> None:
    store(valkey).flushall()
    online = open_store(valkey)
    of_spark = checkpoint_of(online, user_events, {"a@1": "x"}, 2)
    of_flink = checkpoint_of(online, user_events, {"a@1": "x"}, 1, "flink")
    assert (of_spark.engine, of_flink.engine) == ("spark", "flink")
    assert of_flink.name != of_spark.name
    assert (of_flink.tokens, of_flink.tasks) == (of_spark.tokens, 2)
    assert checkpoint_of(online, user_events, {"a@1": "x"}, 1, "flink") == of_flink
    assert checkpoint_of(online, user_events, {"a@1": "x"}, 2) not in (of_spark, of_flink)
    store(valkey).flushall()


def test_tiles_of_a_former_layout_are_made_again_and_say_so_until_they_are_whole(valkey: Settings) -> None:
    store(valkey).flushall()
    online = open_store(valkey)
    online.set_tiles(user_features, Tiles("former", 17, topic_id="t"))

    def opened(*tokens: str) -> Tiles:
        stream = open_stream(online, user_features, "t", {}, {}, tokens, 0, 0)
        tiles = stream.tiles
        assert stream.follow(online, {}, None) is None, "the store knows the stream"
        return tiles

    assert opened("former") == Tiles("former", 17, topic_id="t")
    again = opened()
    assert (again.token != "former", again.whole, again.complete_since_ms) == (True, False, 17)
    store(valkey).flushall()
