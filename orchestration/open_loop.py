"""Open-loop load at a fixed rate: the due time of a request does not depend on earlier answers, and its latency is measured from the due time.

So a server that stalls for a second is charged with every request that was due in that second. A generator that waits for each answer before
the next request would omit these requests (Gil Tene calls this coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import httptools
import numpy as np

T = TypeVar("T")

#: The number of connections: more than the requests that a process of serving has in work at a time, so that serving refuses excess requests.
#: With fewer connections they would wait in the generator instead.
CONNECTIONS = 128
#: The load ends as saturated if more requests wait than are due in `_BACKLOG_SECONDS`, or if the last answers take longer than `_DRAIN_SECONDS`.
_BACKLOG_SECONDS, _DRAIN_SECONDS = 1.0, 60.0
#: The statuses that are counted for an exact answer, for a request whose connection has ended, and for an answer that is marked as degraded.
OK, BROKEN, DEGRADED = 200, 0, -1


@dataclass
class Load:
    """The results of requests at a fixed rate.

    Attributes:
        rate: Requests per second that were due.
        seconds: The latency of each request in seconds, from the time when the request was due until its answer or the end of its connection.
        served_seconds: The latency of each request that was served, exactly or marked as degraded; errors and broken connections are left out.
        late_seconds: How late the generator sent each request for which a connection was free.
        statuses: Status → number of requests; `BROKEN` and `DEGRADED` count as statuses.
        stall_seconds: The longest time without an answer while a request was due.
        saturated: Whether the load was ended because too many requests waited, or because the last answers took too long.
    """

    rate: float
    seconds: list[float] = field(default_factory=list)
    served_seconds: list[float] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    stall_seconds: float = 0.0
    saturated: bool = False

    def percentile_ms(self, percent: float) -> float:
        """Returns a percentile of the latency, in milliseconds; infinity without answers."""
        return float(np.percentile(self.seconds, percent)) * 1_000 if self.seconds else float("inf")

    def holds(self, limit_ms: float) -> bool:
        """Returns whether every request has an exact answer with the status 200, and the 99th percentile of the latency is within the limit."""
        return not self.saturated and set(self.statuses) == {OK} and self.percentile_ms(99) <= limit_ms


class _Connection(asyncio.Protocol):
    """A connection with at most one request in flight."""

    def __init__(self, generator: Generator) -> None:
        self._generator, self._parser = generator, httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._place: int | None = None
        self._degraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, place: int, request: bytes) -> None:
        assert self._transport is not None
        self._place, self._degraded = place, False
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._degraded = self._degraded or b'"degraded":true' in body

    def on_message_complete(self) -> None:
        place, self._place = self._place, None
        assert place is not None
        status = self._parser.get_status_code()
        self._generator.answered(place, DEGRADED if self._degraded and status == OK else status, self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._place is not None:
            self._generator.answered(self._place, BROKEN, None)
        else:
            self._generator.lost(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Generator:
    """The requests of one load: those that are due, those that wait for a connection, and those in flight.

    Args:
        request: Returns the bytes of a request by its number, from 0. It is called before the request is due, so that its work delays no request.
        rate: Requests per second.
        number: The number of requests; None for requests until `stop` is called.

    Attributes:
        load: The results so far.
    """

    def __init__(self, request: Callable[[int], bytes], rate: float, number: int | None) -> None:
        self._request, self._number = request, float("inf") if number is None else number
        self.load = Load(rate)
        self._loop = asyncio.get_running_loop()
        self._begin = self._last_answer = 0.0
        self._next = self._answers = 0
        self._prepared = b""
        self._free: list[_Connection] = []
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._open: dict[int, None] = {}  # in the order in which the requests were due
        self._sent, self._ended = asyncio.Event(), asyncio.Event()

    async def run(self, port: int) -> Load:
        """Sends the requests to a port of this machine over `CONNECTIONS` connections, and waits for the answers."""
        connections = [
            (await self._loop.create_connection(lambda: _Connection(self), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)
        ]
        self._free = list(connections)
        self._prepared = self._request(0)
        self._begin = self._last_answer = self._loop.time() + 0.1
        self._loop.call_at(self._begin, self._offer)
        await self._sent.wait()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            self.load.saturated = True
        for connection in connections:
            connection.close()
        return self.load

    def lost(self, connection: _Connection) -> None:
        """Removes a connection that the server has closed while no request was in flight."""
        if connection in self._free:
            self._free.remove(connection)

    def stop(self) -> None:
        """Ends the load after the requests that are already due."""
        self._number = min(self._number, self._next)

    def _due(self, place: int) -> float:
        return self._begin + place / self.load.rate

    def _offer(self) -> None:
        """Sends the requests that are due, and schedules its next call for the time when the next request is due."""
        while self._next < self._number and self._due(self._next) <= (now := self._loop.time()):
            self._open[self._next] = None
            if self._free and not self._waiting:
                self.load.late_seconds.append(now - self._due(self._next))
                self._free.pop().send(self._next, self._prepared)
            else:
                self._waiting.append((self._next, self._prepared))
            self._next += 1
            if self._next < self._number:
                self._prepared = self._request(self._next)
        if len(self._waiting) > max(CONNECTIONS, _BACKLOG_SECONDS * self.load.rate):
            self.load.saturated = True
            self.stop()
        if self._next < self._number:
            self._loop.call_at(self._due(self._next), self._offer)
        else:
            self._sent.set()
            if self._answers == self._number:
                self._ended.set()

    def answered(self, place: int, status: int, connection: _Connection | None) -> None:
        """Records an answer, and sends over its connection the request that has waited longest.

        Args:
            place: The number of the request.
            status: The HTTP status, `BROKEN` or `DEGRADED`.
            connection: The connection; None if it has ended.
        """
        now, oldest = self._loop.time(), next(iter(self._open))
        self.load.stall_seconds = max(self.load.stall_seconds, now - max(self._last_answer, self._due(oldest)))
        self._last_answer = now
        del self._open[place]
        self.load.seconds.append(now - self._due(place))
        if status in (OK, DEGRADED):
            self.load.served_seconds.append(now - self._due(place))
        self.load.statuses[status] += 1
        self._answers += 1
        if connection is not None:
            if self._waiting:
                connection.send(*self._waiting.popleft())
            else:
                self._free.append(connection)
        if self._answers == self._number:
            self._ended.set()


def request_of(path: str, body: str, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Returns the bytes of a POST request with a JSON body."""
    content = body.encode()
    fields = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(content)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "\r\n"]
    return "\r\n".join(lines).encode() + content


def run_timed(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on an event loop whose timer counts microseconds, without pauses of the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        # The timer of epoll has a resolution of milliseconds, the timer of select of microseconds.
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
            return runner.run(main())
    finally:
        gc.enable()
