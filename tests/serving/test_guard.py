"""The door: without its key nothing is read, and a body is read as the encoding that it says."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse

from serving.contract import MAX_BODY_BYTES, FeaturesRequest
from serving.guard import Door


@pytest.fixture
def door() -> httpx.AsyncClient:
    """The door of a deployment with a key, before a service that says that it was reached."""

    async def service(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({"reached": True})(scope, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(Door(service, SecretStr("s3cret"), {})), base_url="http://braid")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401), ({"authorization": "Bearer other"}, 401), ({"authorization": "Bearer s3cret2"}, 401), ({"authorization": "s3cret"}, 401),
        ({"authorization": "Bearer s3cret"}, 200),
    ],
)  # fmt: skip
def test_only_callers_with_the_key_are_let_in(door: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    async def ask() -> tuple[httpx.Response, httpx.Response]:
        return await door.post("/predict", json={"user_id": 1}, headers=headers), await door.get("/livez", headers=headers)

    answer, probe = asyncio.run(ask())
    assert answer.status_code == status
    assert "s3cret" not in answer.text
    assert probe.status_code == 200, "probes need no key"


JSON = b'{"group": "user_features", "ids": [1, 2]}'


def sent(body: bytes, *encodings: str) -> httpx.Response:
    """The answer to a request of `/features`, by a service that gives back the body and the encodings that reach it."""

    async def service(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"].decode()
        kinds = [value.decode() for name, value in scope["headers"] if name == b"content-encoding"]
        await JSONResponse({"body": body, "encodings": kinds})(scope, receive, send)

    async def ask() -> httpx.Response:
        door = Door(service, None, {"/features": FeaturesRequest})
        headers = [("content-type", "application/json"), *(("content-encoding", encoding) for encoding in encodings)]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://braid") as client:
            return await client.post("/features", content=body, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("body", "encodings"),
    [
        (JSON, ()),
        (JSON, ("identity",)),
        (gzip.compress(JSON), ("gzip",)),
        (gzip.compress(JSON), ("GZIP",)),
        (gzip.compress(JSON), ("x-gzip",)),
        (gzip.compress(JSON), ("identity, gzip",)),
        (gzip.compress(JSON[:9]) + gzip.compress(JSON[9:]), ("gzip",)),
    ],
    ids=["plain", "identity", "gzip", "in capitals", "x-gzip", "after identity", "two members"],  # the bytes hold the time
)
def test_a_body_is_read_plain_or_as_gzip(body: bytes, encodings: tuple[str, ...]) -> None:
    answer = sent(body, *encodings)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"body": JSON.decode(), "encodings": []}


@pytest.mark.parametrize(
    ("body", "encodings", "status", "says"),
    [
        (JSON, ("br",), 415, "content-encoding: gzip"),
        (zlib.compress(JSON), ("deflate",), 415, "content-encoding: gzip"),
        (gzip.compress(gzip.compress(JSON)), ("gzip", "gzip"), 415, "content-encoding: gzip"),
        (JSON, ("gzip",), 400, "not gzip"),
        (gzip.compress(JSON)[:-9], ("gzip",), 400, "not gzip"),
        (gzip.compress(JSON) + b"more", ("gzip",), 400, "not gzip"),
        (gzip.compress(b" " * (MAX_BODY_BYTES + 1)), ("gzip",), 413, "too large"),
        (gzip.compress(b" " * 50_000_000), ("gzip",), 413, "too large"),
        (gzip.compress(b" " * MAX_BODY_BYTES) + gzip.compress(JSON), ("gzip",), 413, "too large"),
        (gzip.compress(b"not JSON"), ("gzip",), 400, "validation"),
        (b"", ("gzip",), 400, "validation"),
    ],
    ids=["brotli", "deflate", "twice", "not gzip", "cut off", "with a tail", "too large", "a bomb", "too large together", "not JSON", "nothing"],
)  # fmt: skip
def test_what_is_not_gzip_or_too_large_is_refused_by_a_sentence(
    body: bytes, encodings: tuple[str, ...], status: int, says: str
) -> None:
    answer = sent(body, *encodings)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"] + answer.json()["cure"]
