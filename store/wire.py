"""The client of a request: sends the commands of a read in one write, and returns their replies as bytes.

A pipeline of redis-py takes a connection from a pool and awaits each reply by itself, which is most of the time of a read. `Wire` packs all commands
of a read into one write, and parses the replies as they arrive, both by hiredis. For a cluster, TLS or a Unix socket, `Pipelines` uses redis-py.
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
    """HMGET of the same fields of several hashes, with one reply per hash."""

    keys: Sequence[str]
    fields: tuple[bytes, ...]


_Single = tuple[str | bytes | int, ...]
Command = _Single | HashReads


def single(commands: Sequence[Command]) -> Iterator[_Single]:
    """Yields the commands for redis-py: each has one reply, and a `HashReads` becomes one HMGET per key."""
    for command in commands:
        if isinstance(command, HashReads):
            for key in command.keys:
                yield "HMGET", key, *command.fields
        else:
            yield command


_INCOMPLETE = object()
#: The parts that a URL may have for a connection of `Wire`.
_PLAIN = {"host", "port", "db", "username", "password"}


class Replies(Protocol):
    """A client that reads.

    If the server does not answer, the methods raise the errors of the client (`store.errors.CLIENT_ERRORS`).
    """

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """Returns the replies in the order of the commands; a `HashReads` has one reply per key. An error reply is an exception in the list."""

    async def close(self) -> None:
        """Closes the connections."""


def reading_client(settings: Settings) -> Replies:
    """Returns the client of requests, which connects as the read-only user."""
    if not settings.redis_cluster:
        where: Any = parse_url(settings.redis_reader_url or settings.redis_url)
        if where.keys() <= _PLAIN:
            return Wire(**where)
    return Pipelines(settings)


class Pipelines:
    """`Replies` by redis-py, for a cluster, TLS or a Unix socket."""

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
        host: The name or the address of the server.
        port: The port of the server.
        db: The number of the database.
        username: The user; None for the default user.
        password: The password; None to connect without a password.
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
        """As `Replies.replies`. If the connection is lost, the commands are sent a second time, because reads change nothing."""
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
        return hiredis.pack_command(command)  # type: ignore[arg-type]  # the stub only allows a tuple of one word
    head, tail = _around_key(command.fields)
    # Formatting text takes half of the time of formatting bytes. In ASCII the lengths of both are equal.
    if (text := "".join([f"{head}{len(key)}\r\n{key}{tail}" for key in command.keys])).isascii():
        return text.encode()
    return "".join([f"{head}{len(key.encode())}\r\n{key}{tail}" for key in command.keys]).encode()


@lru_cache(256)  # an entry per pair of fields of a served version
def _around_key(fields: tuple[bytes, ...]) -> tuple[str, str]:
    """Returns the text before the length of the key in an HMGET of these fields, and the text after the key."""
    words = "".join([f"${len(field)}\r\n{field.decode()}\r\n" for field in fields])
    return f"*{2 + len(fields)}\r\n$5\r\nHMGET\r\n$", f"\r\n{words}"


class _Asked(NamedTuple):
    replies: list[Any]
    expected: int
    future: asyncio.Future[list[Any]]


class _Connection(asyncio.Protocol):
    """A connection of `Wire`. The server answers in the order of the commands, so the oldest read gets the next replies."""

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
            # A server that stalls may never send these replies. Other reads go on waiting here, and the next read gets a new connection.
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
