"""A cluster's primary is killed while tiles and views are written and requests read."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

import redis

from store.clients import patient_store, store
from store.errors import StoreError
from store.protocol import Mark, Tiles, View
from store.reading import OnlineStore
from store.server import RedisStore, writing_store
from tests.declarations import user_features
from tests.waiting import eventually

from .conftest import Servers, wait_for_cluster
from .test_conformance import TILE_MS, TTL, B, collapsed, packed_tile, parts, publish, tiles_of, value

USERS = 300


def test_writes_and_reads_go_on_when_a_primary_is_killed_and_nothing_is_lost_in_silence(cluster_servers: Servers) -> None:
    settings = cluster_servers.settings
    store(settings).flushall()
    online = RedisStore(settings)
    publish(online, B, dict.fromkeys(range(USERS), 1))
    online.set_tiles(user_features, Tiles("failover"))
    written, stop, refusals = [-1], threading.Event(), []

    def stream() -> None:
        """As the speed layer: a micro-batch after the other, each until it is written."""
        while not stop.is_set():
            batch_id = written[0] + 1
            starts = [(user, B + batch_id * TILE_MS, packed_tile(B + batch_id * TILE_MS)) for user in range(USERS)]
            try:
                writing_store(settings).put_tiles(user_features, starts, TTL, Mark("failover", 0, batch_id))
                written[0] = batch_id
            except StoreError as error:
                refusals.append(error)

    async def ask() -> list[set[str]]:
        """The faults of each answer."""
        found, answers = OnlineStore(settings), []
        while not stop.is_set():
            reading = await found.read(user_features, list(range(USERS)))
            answers.append({fault for one in reading.parts for fault in one.faults})
            for user, one in enumerate(reading.parts):
                assert one.faults or collapsed(one) == (B, 1), user
            await asyncio.sleep(0.02)
        await found.close()
        return answers

    answers: list[set[str]] = []
    threads = [threading.Thread(target=stream), threading.Thread(target=lambda: answers.extend(asyncio.run(ask())))]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: written[0] >= 5, every=0.05)
        # The primary that the writer's client asks when it has a question of no key: its loss is the hardest.
        victim = patient_store(settings).get_default_node().port
        assert redis.Redis(port=victim).info("replication")["role"] == "master"
        cluster_servers.kill(victim)
        before = written[0]
        # A publication meanwhile ends well, or says why it does not and is run again.
        numbers = dict.fromkeys(range(USERS), 1)

        def published() -> bool:
            with suppress(StoreError):
                view = writing_store(settings).begin_publication(user_features, View(B, 2))
                writing_store(settings).put_views(user_features, view, list(numbers), [value(B, 1)] * USERS)
                writing_store(settings).end_publication(user_features, view, USERS, None)
                return True
            return False

        eventually(published, every=0)
        eventually(lambda: written[0] >= before + 5, every=0.05)
        time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert answers[0] == set()
    assert answers[-1] == set(), "it has healed by itself"
    assert set().union(*answers) <= {
        "the online store cannot be reached",
        "a part of the online store's cluster is down",
        "the online store did not answer in time",
    }
    whole = all(
        tiles_of(found) == [B + n * TILE_MS for n in range(written[0] + 1)]
        for found in online.read(user_features, list(range(USERS))).parts
    )
    assert whole or not online.has_tiles_of("failover", 1, written[0])
    assert collapsed(parts(online, 1)) == (B, 1)
    cluster_servers.restart(victim)
    wait_for_cluster(list(cluster_servers.processes))


def test_a_writer_needs_no_server_but_those_of_the_keys(cluster_servers: Servers) -> None:
    """A client that asks another server first, where a script's key stands, fails with it, for as long as it is dead."""
    settings = cluster_servers.settings
    store(settings).flushall()
    for port in cluster_servers.processes:
        redis.Redis(port=port).config_resetstat()
    online = RedisStore(settings)
    publish(online, B, dict.fromkeys(range(USERS), 1))
    online.put_tiles(user_features, [(user, B, packed_tile(B)) for user in range(USERS)], TTL)
    for port in cluster_servers.processes:
        assert "cmdstat_command|getkeys" not in redis.Redis(port=port).info("commandstats"), port
