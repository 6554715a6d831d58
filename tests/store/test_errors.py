"""Each way in which a store refuses has a reason of its own, in answers and in errors; on real servers that refuse."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from infra.embedded.valkey import valkey_command
from infra.ports import ports_of
from infra.settings import Settings
from store.clients import store
from store.errors import StoreError
from store.protocol import Opening
from store.reading import OnlineStore
from store.server import RedisStore
from tests.declarations import user_features

from .conftest import Servers
from .test_conformance import TTL, B, packed_tile, publish


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Callable[..., Servers]]:
    """Starts a Valkey of the test's own, with more options."""
    home = tmp_path_factory.mktemp("refusing")
    port = ports_of(home).valkey
    servers = Servers(home, Settings(home=home, redis_url=f"redis://127.0.0.1:{port}/0", store_timeout_seconds=1))

    def start(*options: str) -> Servers:
        servers.start([valkey_command(Settings.load(home))[0], "--bind", "127.0.0.1", "--save", "", *options], port)
        return servers

    yield start
    servers.stop()


def faults(settings: Settings) -> set[str]:
    """Of an answer about one entity."""

    async def ask() -> set[str]:
        found = OnlineStore(settings)
        reading = await found.read(user_features, [1])
        await found.close()
        return set(reading.parts[0].faults)

    return asyncio.run(ask())


def test_a_store_that_is_not_there(tmp_path) -> None:
    settings = Settings(home=tmp_path, redis_url="redis://:s3cret@127.0.0.1:1/0")
    assert faults(settings) == {"the online store cannot be reached"}
    with pytest.raises(StoreError, match="cannot be reached") as refused:
        RedisStore(settings).check()
    assert "s3cret" not in str(refused.value)


def test_a_store_that_stands_still(server: Callable[..., Servers]) -> None:
    servers = server()
    [process] = servers.processes.values()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert faults(servers.settings) == {"the online store did not answer in time"}
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_a_store_that_is_loading(server: Callable[..., Servers]) -> None:
    servers = server("--appendonly", "yes")
    client = store(servers.settings)
    pipeline = client.pipeline(transaction=False)
    for number in range(40_000):
        pipeline.set(f"k{number}", number)
    pipeline.execute()
    [port] = servers.processes
    servers.kill(port)
    servers.start([*servers.commands[port], "--key-load-delay", "50"], port)
    patient = servers.settings.model_copy(update={"store_timeout_seconds": 5})
    assert faults(patient) == {"the online store is still loading its data"}


def test_a_user_without_permission_or_with_a_wrong_password(server: Callable[..., Servers]) -> None:
    servers = server()
    client = store(servers.settings)
    client.execute_command("ACL", "SETUSER", "blind", "on", ">x", "~*", "-@all", "+hget", "+@connection")
    where = servers.settings.redis_url.removeprefix("redis://")
    blind = servers.settings.model_copy(update={"redis_url": f"redis://blind:x@{where}"})
    assert faults(blind) == {"the online store's user has no permission for this command or key"}
    wrong = servers.settings.model_copy(update={"redis_url": f"redis://blind:wrong@{where}"})
    assert faults(wrong) == {"the online store refuses the user or the password"}
    client.config_set("requirepass", "s3cret")
    assert len(faults(servers.settings)) == 1
    assert "password" in next(iter(faults(servers.settings)))


def test_a_key_of_another_type_gives_way_to_what_is_written(server: Callable[..., Servers]) -> None:
    servers = server()
    client, online = store(servers.settings), RedisStore(servers.settings)
    opening = Opening(user_features, "token", {1: B})
    writings = {
        "a view": lambda: publish(online, B, {1: 1}),
        "tiles": lambda: online.put_tiles(user_features, [(1, B, packed_tile(B))], TTL),
        "a look at open tiles": lambda: online.open_tiles([opening]),
        "a view without the entity": lambda: publish(online, B + 1, {}),
    }
    for name, write in writings.items():
        client.set(user_features.key(1), "a text")
        assert faults(servers.settings) == {"the online store holds something else under the entity's key"}, name
        write()
        assert client.type(user_features.key(1)) in (b"hash", b"none"), name


def test_a_full_memory(server: Callable[..., Servers]) -> None:
    servers = server("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    with pytest.raises(StoreError, match="memory is full"):
        RedisStore(servers.settings).put_tiles(user_features, [(1, B, packed_tile(B))], TTL)


def test_a_cluster_without_its_slots_or_that_is_not_declared(server: Callable[..., Servers], cluster_servers: Servers) -> None:
    servers = server("--cluster-enabled", "yes", "--cluster-port", str(ports_of(cluster_servers.home).valkey))
    assert faults(servers.settings) == {"a part of the online store's cluster is down"}
    undeclared = [
        cluster_servers.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0", "redis_cluster": False})
        for port in cluster_servers.processes
    ]
    assert {"the online store is a cluster, and REDIS_CLUSTER does not say so"} in [faults(one) for one in undeclared]


def test_a_replica_takes_no_writes(server: Callable[..., Servers], valkey_servers: Servers) -> None:
    servers = server("--replicaof", "127.0.0.1", str(next(iter(valkey_servers.processes))))
    with pytest.raises(StoreError, match="is a replica"):
        RedisStore(servers.settings).put_tiles(user_features, [(1, B, packed_tile(B))], TTL)
