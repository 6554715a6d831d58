"""Every response has the id of its request: the caller's, or a new one."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from serving.request_ids import RequestIds, current_request_id, id_of


async def says_its_id(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse(current_request_id(), 418)(scope, receive, send)


async def ask(*requests: dict[str, str]) -> list[httpx.Response]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(RequestIds(says_its_id)), base_url="http://braid") as client:
        return list(await asyncio.gather(*(client.get("/", headers=headers) for headers in requests)))


def test_the_callers_id_is_taken_and_echoed() -> None:
    responses = asyncio.run(ask({"X-Request-ID": "order-17/a"}, {"x-request-id": "b"}))
    assert [(response.text, response.headers["x-request-id"]) for response in responses] == [("order-17/a",) * 2, ("b",) * 2]


def test_without_an_id_each_request_gets_another() -> None:
    first, second = asyncio.run(ask({}, {}))
    assert first.text == first.headers["x-request-id"] != second.text == second.headers["x-request-id"]


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\nERROR", b"a\x1b[31m", "ä".encode()])
def test_an_id_that_is_long_or_not_printable_is_replaced(value: bytes) -> None:
    assert len(id_of([(b"x-request-id", value)])) == 32
    assert id_of([(b"x-request-id", b"x" * 128)]) == "x" * 128
