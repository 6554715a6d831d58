"""The server's HTTP protocol: an answer comes as a whole, however large it is, and whether the connection ends with it or not."""

from __future__ import annotations

import asyncio
import http.client
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from serving.guard import Receive, Scope, Send
from serving.http_protocol import OneWriteProtocol

LARGE = 20_000_000
#: Where `tcpi_data_segs_in` stands in Linux's `struct tcp_info`.
DATA_SEGMENTS_IN = 152


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with as many bytes as the path says, in two parts where the path ends so."""
    size, in_parts = int(scope["path"].split("/")[1]), scope["path"].endswith("/parts")
    headers = [] if in_parts else [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if in_parts:
        await send({"type": "http.response.body", "body": b"b" * (size // 2), "more_body": True})
        await asyncio.sleep(0.01)
        size -= size // 2
    await send({"type": "http.response.body", "body": b"b" * size})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, http=OneWriteProtocol, lifespan="off", log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(30)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the system does not count the segments of a connection")
def test_head_and_body_are_one_segment(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for _ in range(20):
            connection.sendall(b"GET /300 HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\n" + b"b" * 300):
                answer += connection.recv(65_536)
        [segments] = struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), DATA_SEGMENTS_IN)
    assert segments == 20


@pytest.mark.parametrize("path", ["/0", "/300", f"/{LARGE}", "/300/parts", f"/{LARGE}/parts"])
@pytest.mark.parametrize("ends", [True, False])
def test_every_byte_arrives_once(port: int, path: str, ends: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(3):
        connection.request("GET", path, headers={"connection": "close"} if ends else {})
        with connection.getresponse() as answer:
            assert (answer.status, answer.will_close) == (200, ends)
            assert answer.read() == b"b" * int(path.split("/")[1])
    connection.close()


def test_a_caller_who_has_gone_harms_no_other(port: int) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(f"GET /{LARGE} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    test_every_byte_arrives_once(port, "/300", ends=False)
