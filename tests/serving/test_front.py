"""The front answers the operations itself, within its bounds, and passes everything else on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Mount

from serving.contract import FeaturesRequest
from serving.decoding import decoder, features_struct
from serving.errors import RefusalError
from serving.front import Front, cross_origin, put_in_front
from serving.guard import App
from serving.media_types import ARROW, JSON
from serving.request_counts import RequestCounts
from serving.request_ids import RequestIds

BODY = {"group": "cards", "ids": [1, "2"]}


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the front."""
    await JSONResponse({"passed": scope["path"]})(scope, receive, send)


def caller(
    answer: Callable[[str, Any, bytes], Awaitable[bytes]],
    key: str | None = None,
    most: int = 2,
    origins: tuple[str, ...] = (),
    shed: Callable[[str], None] = print,
) -> httpx.AsyncClient:
    decoders = {"/features": decoder(features_struct(), FeaturesRequest)}
    secret = SecretStr(key) if key else None
    front = Middleware(
        Front, key=secret, decoders=decoders, answer=answer, media_types={"/features": (JSON, ARROW)}, most_at_once=most, shed=shed,
        timeout_seconds=0.2, counts=RequestCounts(Starlette()),
    )  # fmt: skip
    app: App = Starlette(routes=[Mount("/", behind)])
    app = put_in_front(app, [Middleware(RequestIds), *cross_origin(origins), front])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://braid")


async def ids(path: str, request: Any, media_type: bytes) -> bytes:
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
    ("accept", "media_type"),
    [
        ("application/vnd.apache.arrow.stream", ARROW),
        ("application/vnd.apache.arrow.stream;q=0.9, */*;q=0.1", ARROW),
        ("application/json;q=0.5, Application/vnd.apache.arrow.stream", ARROW),
        ("*/*, application/vnd.apache.arrow.stream", ARROW),
        ("application/vnd.apache.arrow.stream, application/json", JSON),
        ("application/vnd.apache.arrow.stream;q=0, */*", JSON),
        ("application/vnd.apache.arrow.stream;q=high, application/*", JSON),
        ("*/*", JSON),
        ("text/html", JSON),
        ("", JSON),
    ],
)
def test_the_accept_header_decides_on_the_media_type(accept: str, media_type: bytes) -> None:
    async def answer(path: str, request: Any, media_type: bytes) -> bytes:
        return media_type

    response = asyncio.run(caller(answer).post("/features", json=BODY, headers={"accept": accept}))
    assert (response.content, response.headers["content-type"]) == (media_type, media_type.decode())


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
    async def answer(path: str, request: Any, media_type: bytes) -> bytes:
        match request.ids:
            case [404]:
                raise RefusalError(404, "No such group.", "Declare it.")
            case [504]:
                await asyncio.sleep(60)
            case [500]:
                raise ZeroDivisionError
        return await ids(path, request, media_type)

    async def ask() -> list[httpx.Response]:
        client = caller(answer, most=1)
        return [await client.post("/features", json={**BODY, "ids": [status]}) for status in (404, 504, 500, 200)]

    responses = asyncio.run(ask())
    assert [response.status_code for response in responses] == [404, 504, 500, 200]
    assert responses[0].json() == {"error": "No such group.", "cure": "Declare it."}
    assert "ZeroDivisionError" not in responses[2].text
    assert "ZeroDivisionError" in caplog.text
    assert f"the request {responses[2].headers['x-request-id']} of /features failed" in caplog.text


def test_requests_beyond_the_bound_are_refused_at_once_and_counted() -> None:
    shed: list[str] = []

    async def ask() -> list[httpx.Response]:
        entered, leave = asyncio.Semaphore(0), asyncio.Event()

        async def answer(path: str, request: Any, media_type: bytes) -> bytes:
            entered.release()
            await leave.wait()
            return await ids(path, request, media_type)

        client = caller(answer, shed=shed.append)
        first = [asyncio.create_task(client.post("/features", json=BODY)) for _ in range(2)]
        for _ in first:
            await entered.acquire()
        third = await client.post("/features", json=BODY)
        leave.set()
        answered = [await task for task in first]
        return [*answered, third, await client.post("/features", json=BODY)]

    responses = asyncio.run(ask())
    assert [response.status_code for response in responses] == [200, 200, 503, 200]
    assert [response.headers.get("retry-after") for response in responses] == [None, None, "1", None]
    assert shed == ["/features"]


def test_a_body_that_arrives_slowly_keeps_nobody_out() -> None:
    async def ask() -> list[int]:
        begun, finish = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"group": "cards", '
            begun.set()
            await finish.wait()
            yield b'"ids": [1]}'

        # httpx's transport for ASGI reads the content as the application asks for it.
        client = caller(ids, most=1)
        headers = {"content-type": "application/json", "content-length": "30"}
        slow = asyncio.create_task(client.post("/features", content=slowly(), headers=headers))
        await begun.wait()
        fast = await client.post("/features", json=BODY)
        finish.set()
        return [(await slow).status_code, fast.status_code]

    assert asyncio.run(ask()) == [200, 200]


PREFLIGHT = {
    "origin": "https://shop.example.com",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-request-id",
}


def test_pages_of_a_listed_origin_may_call_and_read_the_headers() -> None:
    async def ask() -> list[httpx.Response]:
        client = caller(ids, "s3cret", origins=("https://shop.example.com",))
        return [
            await client.options("/features", headers=PREFLIGHT),
            await client.post("/features", json=BODY, headers={"origin": PREFLIGHT["origin"]}),
            await client.options("/features", headers={**PREFLIGHT, "origin": "https://evil.example.com"}),
            await client.post("/features", json=BODY, headers={"origin": "https://evil.example.com"}),
        ]

    preflight, refused, *of_others = asyncio.run(ask())
    # A preflight has no key; the request behind it needs the key, and its refusal can be read by the page.
    assert (preflight.status_code, refused.status_code) == (200, 401)
    for response in (preflight, refused):
        assert response.headers["access-control-allow-origin"] == "https://shop.example.com"
        assert "access-control-allow-credentials" not in response.headers
    assert "x-request-id" in refused.headers["access-control-expose-headers"]
    assert of_others[0].status_code == 400
    assert all("access-control-allow-origin" not in response.headers for response in of_others)


def test_without_origins_no_page_may_call() -> None:
    async def ask() -> list[httpx.Response]:
        client = caller(ids)
        origin = {"origin": PREFLIGHT["origin"]}
        return [await client.options("/features", headers=PREFLIGHT), await client.post("/features", json=BODY, headers=origin)]

    assert not any(name.startswith("access-control") for response in asyncio.run(ask()) for name in response.headers)
