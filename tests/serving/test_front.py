"""The front answers the operations itself, within its bounds, and passes everything else on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse

from serving.contract import FeaturesRequest
from serving.decoding import decoder, features_struct
from serving.errors import RefusalError
from serving.front import Front

BODY = {"group": "cards", "ids": [1, "2"]}


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the front."""
    await JSONResponse({"passed": scope["path"]})(scope, receive, send)


def caller(answer: Callable[[str, Any], Awaitable[bytes]], key: str | None = None, most: int = 2) -> httpx.AsyncClient:
    decoders = {"/features": decoder(features_struct(), FeaturesRequest)}
    front = Front(behind, SecretStr(key) if key else None, decoders, answer, most, timeout_seconds=0.2)
    return httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://braid")


async def ids(path: str, request: Any) -> bytes:
    return f'{{"path": "{path}", "ids": {len(request.ids)}}}'.encode()


def test_an_operation_is_answered_and_the_rest_passed_on() -> None:
    async def ask() -> list[httpx.Response]:
        client = caller(ids)
        return [await client.post("/features", json=BODY), await client.get("/features"), await client.post("/other", json=BODY)]

    answered, *passed = asyncio.run(ask())
    assert answered.json() == {"path": "/features", "ids": 2}
    assert (answered.headers["content-type"], answered.headers["content-length"]) == ("application/json", "31")
    assert [response.json() for response in passed] == [{"passed": "/features"}, {"passed": "/other"}]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{}", 401),
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-encoding": "br"}, b"{}", 415),
        ({"content-encoding": "gzip"}, b"{}", 400),
        ({}, b" " * 65_537, 413),
        ({}, b'{"group": "cards", "ids": [1.5]}', 400),
        ({}, b"", 400),
    ],
)
def test_what_the_door_refuses_the_front_refuses(headers: dict[str, str], body: bytes, status: int) -> None:
    async def ask() -> httpx.Response:
        allowed = {} if status == 401 else {"authorization": "Bearer s3cret"}
        sent = {"content-type": "application/json", **allowed, **headers}
        return await caller(ids, "s3cret").post("/features", content=body, headers=sent)

    response = asyncio.run(ask())
    assert response.status_code == status
    assert set(response.json()) == {"error", "cure"}


def test_an_operation_may_refuse_be_late_or_fail_and_the_next_request_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(path: str, request: Any) -> bytes:
        match request.ids:
            case [404]:
                raise RefusalError(404, "No such group.", "Declare it.")
            case [504]:
                await asyncio.sleep(60)
            case [500]:
                raise ZeroDivisionError
        return await ids(path, request)

    async def ask() -> list[httpx.Response]:
        client = caller(answer, most=1)
        return [await client.post("/features", json={**BODY, "ids": [status]}) for status in (404, 504, 500, 200)]

    responses = asyncio.run(ask())
    assert [response.status_code for response in responses] == [404, 504, 500, 200]
    assert responses[0].json() == {"error": "No such group.", "cure": "Declare it."}
    assert "ZeroDivisionError" not in responses[2].text
    assert "ZeroDivisionError" in caplog.text


def test_more_requests_at_once_than_the_bound_are_refused() -> None:
    async def ask() -> list[int]:
        entered, leave = asyncio.Semaphore(0), asyncio.Event()

        async def answer(path: str, request: Any) -> bytes:
            entered.release()
            await leave.wait()
            return await ids(path, request)

        client = caller(answer)
        first = [asyncio.create_task(client.post("/features", json=BODY)) for _ in range(2)]
        for _ in first:
            await entered.acquire()
        third = await client.post("/features", json=BODY)
        leave.set()
        fourth = await client.post("/features", json=BODY) if all([await task for task in first]) else third
        return [*(task.result().status_code for task in first), third.status_code, fourth.status_code]

    assert asyncio.run(ask()) == [200, 200, 429, 200]
