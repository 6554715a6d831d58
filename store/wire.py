"""Commands and replies of one server, packed and parsed by hiredis: a connection for reads, in bytes.

A pipeline of redis-py takes a connection from a pool and awaits each reply by itself, which is most of the time of a read. Here all commands of
a read are one write, and their replies are parsed as they arrive. A cluster, TLS and a socket's path stay with redis-py (`Pipelines`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import hiredis
import redis
from redis.asyncio.connection import DefaultParser, parse_url

from infra.settings import Settings
from store.clients import async_store


class HashReads(NamedTuple):
    """HMGET of the same fields of several hashes, with a reply for each of them."""

    keys: Sequence[str]
    fields: tuple[bytes, ...]


_Single = tuple[str | bytes | int, ...]
Command = _Single | HashReads


def single(commands: Sequence[Command]) -> Iterator[_Single]:
    """The commands with a reply for each, as redis-py takes them."""
    for command in commands:
        if isinstance(command, HashReads):
            for key in command.keys:
                yield "HMGET", key, *command.fields
        else:
            yield command


_INCOMPLETE = object()
#: What a URL may say for a connection of this module.
_PLAIN = {"host", "port", "db", "username", "password"}


class Replies(Protocol):
    """A client that reads. What does not answer raises the client's errors (`store.errors.CLIENT_ERRORS`)."""

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """The replies in the order of the commands, with the replies of a `HashReads` in its place; an error reply is an exception among them."""

    async def close(self) -> None:
        """Ends the connections."""


def reading_client(settings: Settings) -> Replies:
    """The client of a request, as the user that only reads."""
    if not settings.redis_cluster:
        where: Any = parse_url(settings.redis_reader_url or settings.redis_url)
        if where.keys() <= _PLAIN:
            return Wire(**where)
    return Pipelines(settings)


class Pipelines:
    """`Replies` by redis-py."""

    def __init__(self, settings: Settings) -> None:
        self._client = async_store(settings)

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """As `Replies.replies`."""
        pipeline = self._client.pipeline(transaction=False)
        for command in single(commands):
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def close(self) -> None:
        """As `Replies.close`."""
        await self._client.aclose()


class Wire:
    """`Replies` of one server over one TCP connection, which is made at the first use and after a loss.

    Args:
        host: The server's name or address.
        port: Its port.
        db: Its database.
        username: The user; None for the default user.
        password: The password; None for none.
    """

    def __init__(
        self, host: str = "localhost", port: int = 6379, db: int = 0, username: str | None = None, password: str | None = None
    ) -> None:
        self._host, self._port = host, port
        self._greeting: list[Command] = []
        if password is not None:
            self._greeting.append(("AUTH", username, password) if username else ("AUTH", password))
        if db:
            self._greeting.append(("SELECT", db))
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """As `Replies.replies`. Reads change nothing, so they are sent a second time after the loss of a connection that was idle."""
        connection = self._connection
        if connection is not None and connection.alive:
            try:
                return await connection.replies(commands)
            except redis.ConnectionError:
                pass
        return await (await self._connected()).replies(commands)

    async def close(self) -> None:
        """As `Replies.close`."""
        if self._connection is not None:
            self._connection.end()

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or not self._connection.alive:
                _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
                for reply in await connection.replies(self._greeting) if self._greeting else ():
                    if isinstance(reply, Exception):
                        connection.end()
                        raise reply
                self._connection = connection
            return self._connection


def _packed(command: Command) -> bytes:
    if not isinstance(command, HashReads):
        return hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one word
    head, tail = _around_key(command.fields)
    # Formatted as text, which takes half of the time that bytes take; their lengths are the same in ASCII.
    if (text := "".join([f"{head}{len(key)}\r\n{key}{tail}" for key in command.keys])).isascii():
        return text.encode()
    return "".join([f"{head}{len(key.encode())}\r\n{key}{tail}" for key in command.keys]).encode()


@lru_cache(256)  # the fields of the versions that are served
def _around_key(fields: tuple[bytes, ...]) -> tuple[str, str]:
    """What stands before the length of the key in HMGET of these fields, and what after the key."""
    words = "".join([f"${len(field)}\r\n{field.decode()}\r\n" for field in fields])
    return f"*{2 + len(fields)}\r\n$5\r\nHMGET\r\n$", f"\r\n{words}"


class _Asked(NamedTuple):
    replies: list[Any]
    expected: int
    future: asyncio.Future[list[Any]]


class _Connection(asyncio.Protocol):
    """The server answers in the order of the commands, so the first that asked gets the first replies."""

    def __init__(self) -> None:
        self.alive = False
        self._transport: asyncio.Transport
        self._asked: deque[_Asked] = deque()
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE
        )

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        if not self.alive:
            raise redis.ConnectionError("The connection is lost.")
        expected = sum(len(command.keys) if isinstance(command, HashReads) else 1 for command in commands)
        asked = _Asked([], expected, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._transport.write(b"".join([_packed(command) for command in commands]))
        try:
            return await asked.future
        except asyncio.CancelledError:
            # A server that stalls may never send these replies: who waits goes on waiting, and the next read gets a connection of its own.
            self.alive = False
            if all(waiting.future.done() for waiting in self._asked):
                self._transport.abort()
            raise

    def end(self) -> None:
        self.alive = False
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport, self.alive = transport, True

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                asked = self._asked[0]
                asked.replies.append(reply)
                if len(asked.replies) == asked.expected:
                    self._asked.popleft()
                    if not asked.future.done():
                        asked.future.set_result(asked.replies)
                    if not (self.alive or self._asked):
                        self._transport.abort()
        except (redis.RedisError, IndexError) as error:
            self.connection_lost(error)
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        while self._asked:
            future = self._asked.popleft().future
            if not future.done():
                future.set_exception(redis.ConnectionError(f"The connection is lost: {error or 'the server has closed it'}."))
