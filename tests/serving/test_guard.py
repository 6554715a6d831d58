"""The door's key: without it nothing is read."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse

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
