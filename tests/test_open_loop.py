"""The load generator of the benchmarks: a stall is charged with every request that was due in it, and the highest rate is found."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks._rates import highest_rate, offer
from orchestration.open_loop import BROKEN, DEGRADED, Load, request_of

STALL_SECONDS = 0.5
HEAD = "HTTP/1.1 {} OK\r\ncontent-length: {}\r\n\r\n{}"
REQUESTS = [request_of("/predict", body) for body in ("{}", '{"user_id": 1}')]


class Server:
    """Answers requests in a thread; the first ones are held until `STALL_SECONDS` after the first, as by a process that stalls."""

    def __init__(self, answer: str) -> None:
        self.answer, self.bodies = answer, Counter[bytes]()
        self.loop, self.started = asyncio.new_event_loop(), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    def run(self) -> None:
        async def serve() -> None:
            server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
            self.port, self.stop = server.sockets[0].getsockname()[1], asyncio.Event()
            self.stalled: float | None = None
            self.started.set()
            await self.stop.wait()
            server.close()
            for writer in self.writers:
                writer.close()
            await asyncio.sleep(0)  # the transports close their sockets in the next turn of the loop

        self.loop.run_until_complete(serve())
        self.loop.close()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while head := await reader.readline():
            length = 0
            while head != b"\r\n":
                if head.startswith(b"content-length"):
                    length = int(head.split(b":")[1])
                head = await reader.readline()
            self.bodies[await reader.readexactly(length)] += 1
            now = self.loop.time()
            self.stalled = self.stalled or now
            await asyncio.sleep(self.stalled + STALL_SECONDS - now)
            writer.write(self.answer.encode())
            if not self.answer:
                writer.close()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    answers = Server(request.param)
    answers.thread.start()
    assert answers.started.wait(10)
    yield answers
    answers.loop.call_soon_threadsafe(answers.stop.set)
    answers.thread.join(10)


@pytest.mark.parametrize("server", [HEAD.format(200, 2, "{}")], indirect=True)
def test_a_stall_is_charged_with_every_request_that_was_due_in_it(server: Server) -> None:
    load = offer(server.port, REQUESTS, rate=100, seconds=1)
    assert load.statuses == {200: 100}
    assert server.bodies == {b"{}": 50, b'{"user_id": 1}': 50}
    # The requests due in the first half of the stall waited for at least its other half; each had a connection.
    assert sum(seconds > STALL_SECONDS / 2 for seconds in load.seconds) >= 100 * STALL_SECONDS / 2 - 1
    assert load.stall_seconds >= STALL_SECONDS * 0.9
    assert max(load.seconds) >= STALL_SECONDS * 0.9
    assert not load.holds(limit_ms=STALL_SECONDS * 500)


@pytest.mark.parametrize(
    ("server", "status"),
    [(HEAD.format(503, 2, "{}"), 503), (HEAD.format(200, 17, '{"degraded":true}'), DEGRADED), ("", BROKEN)],
    indirect=["server"],
)
def test_an_answer_that_is_no_good_one_is_counted_and_no_rate_holds_with_it(server: Server, status: int) -> None:
    load = offer(server.port, REQUESTS, rate=50, seconds=0.2)
    assert load.statuses == {status: 10}
    assert not load.holds(limit_ms=1e9)


@pytest.mark.parametrize(("capacity", "first"), [(800.0, 500.0), (800.0, 20_000.0), (7.0, 1.0)])
def test_the_highest_rate_is_found_from_any_first_rate_although_one_trial_fails(capacity: float, first: float) -> None:
    tried: list[float] = []

    def trial(rate: float) -> Load:
        tried.append(rate)
        spoiled = tried.count(rate) == 1
        return Load(rate, [0.5 if rate > capacity or spoiled else 0.001], statuses=Counter({200: 1}))

    assert capacity / 1.05 <= highest_rate(trial, 10, first, 20) <= capacity
    assert highest_rate(lambda rate: Load(rate, [1.0], statuses=Counter({200: 1})), 10, first, 5) == 0
