"""A connection for reads gives each caller its own replies, whatever became of those before it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import redis

from infra.settings import Settings
from store.clients import store
from store.wire import HashReads, Pipelines, Wire, reading_client, single

from .conftest import Servers


def url(servers: Servers) -> str:
    return servers.settings.redis_url


@pytest.fixture
def valkey(valkey_servers: Servers) -> Servers:
    store(valkey_servers.settings).flushall()
    return valkey_servers


def test_the_replies_of_many_callers_are_in_the_order_of_their_commands(valkey: Servers) -> None:
    store(valkey.settings).mset({f"text:{n}": n for n in range(300)})

    async def ask() -> list[list[Any]]:
        wire = reading_client(valkey.settings)
        assert isinstance(wire, Wire)
        calls = [wire.replies([("GET", f"text:{n}"), ("HGET", f"text:{n}", "f"), ("GET", b"no")]) for n in range(300)]
        try:
            return await asyncio.gather(*calls)
        finally:
            await wire.close()

    for number, (value, refused, absent) in enumerate(asyncio.run(ask())):
        assert (value, absent) == (str(number).encode(), None)
        assert isinstance(refused, redis.ResponseError)


@pytest.mark.parametrize("keys", [["item:1", "item:22"], ["item:Käse", "item:1"], ["item:\N{GRINNING FACE}"], []])
def test_one_read_of_many_hashes_gives_what_a_command_for_each_gives(valkey: Servers, keys: list[str]) -> None:
    read = HashReads(keys, (b"batch:1", b"absent"))
    for key in keys:
        store(valkey.settings).hset(key, "batch:1", f"of {key}")

    async def ask() -> list[list[Any]]:
        wire = reading_client(valkey.settings)
        try:
            return [await wire.replies([*commands, ("PING",)]) for commands in ([read], list(single([read])))]
        finally:
            await wire.close()

    together, apart = asyncio.run(ask())
    assert together == apart == [*[[f"of {key}".encode(), None] for key in keys], b"PONG"]


def test_a_connection_that_the_server_has_closed_is_made_again(valkey: Servers) -> None:
    async def ask() -> list[Any]:
        wire = reading_client(valkey.settings)
        replies = await wire.replies([("PING",)])
        store(valkey.settings).client_kill_filter(_type="normal", skipme=True)  # before the loop has heard of it
        replies += await wire.replies([("PING",)])
        await wire.close()
        return replies + await wire.replies([("PING",)])

    assert asyncio.run(ask()) == [b"PONG"] * 3


def test_a_caller_that_gave_up_leaves_its_replies_to_nobody(valkey: Servers) -> None:
    store(valkey.settings).mset({"first": 1, "second": 2})
    [process] = valkey.processes.values()

    async def ask() -> list[Any]:
        wire = reading_client(valkey.settings)
        await wire.replies([("PING",)])
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await wire.replies([("GET", "first")])
        finally:
            os.kill(process.pid, signal.SIGCONT)
        replies = await wire.replies([("GET", "second")])
        await wire.close()
        return replies

    assert asyncio.run(ask()) == [b"2"]


def test_a_user_and_a_database_are_those_of_the_url(valkey: Servers) -> None:
    client = store(valkey.settings)
    client.execute_command("ACL", "SETUSER", "reads", "on", ">x y", "~*", "+get", "+select")
    where = url(valkey).removeprefix("redis://").removesuffix("/0")
    redis.Redis.from_url(f"redis://{where}/3").set("where", "three")

    async def ask(user: str) -> list[Any]:
        settings = valkey.settings.model_copy(
            update={"redis_url": "redis://wrong", "redis_reader_url": f"redis://{user}@{where}/3"}
        )
        wire = reading_client(settings)
        try:
            return await wire.replies([("GET", "where"), ("SET", "where", "x")])
        finally:
            await wire.close()

    value, refused = asyncio.run(ask("reads:x%20y"))
    assert value == b"three"
    assert isinstance(refused, redis.exceptions.NoPermissionError)
    with pytest.raises(redis.AuthenticationError):
        asyncio.run(ask("reads:z"))
    client.acl_deluser("reads")


@pytest.mark.parametrize("where", ["rediss://127.0.0.1:1/0", "unix:///tmp/valkey.sock", "redis://127.0.0.1:1/0?protocol=3"])
def test_what_needs_more_than_a_plain_connection_is_read_by_redis_py(tmp_path: Path, where: str) -> None:
    assert isinstance(reading_client(Settings(home=tmp_path, redis_url=where)), Pipelines)
