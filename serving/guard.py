"""The door: refuses what is no JSON, too large or not in the contract before BentoML reads it, and says what is missing. ASGI.

BentoML would unpickle other kinds of bodies, and log what does not validate with the values in it.
"""

from __future__ import annotations

import asyncio
import hmac
import signal
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import FrameType
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from starlette.responses import JSONResponse

from serving.contract import MAX_BODY_BYTES
from serving.errors import RefusalError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Door:
    """Lets through `application/json` bodies of up to `MAX_BODY_BYTES` that fit the contract, from callers with the key where one is set.

    Args:
        app: What answers.
        key: What callers must send; None where no key is set.
        requests: Path → the contract of its body.
    """

    def __init__(self, app: App, key: SecretStr | None, requests: Mapping[str, type[BaseModel]]) -> None:
        self._app, self._key, self._requests = app, key, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 400, 401, 413 or 415 itself, or hands on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            if self._key is not None:
                _admit(scope, self._key.get_secret_value())
            body = await _body(scope, receive)
            if body is None:
                return
            _check(self._requests.get(scope["path"]), body)
        except RefusalError as refusal:
            await refusal.response()(scope, receive, send)
            return
        given = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


class Readiness:
    """Answers `/readyz` with what is missing: 200 once the registry has been looked at.

    Also without a model or a store: `/features`, and defaults that are marked, are still served. After SIGTERM it says 503 while the
    service goes on answering for a while, so that a balancer has the time to send requests elsewhere and none is lost at a closing door.
    """

    def __init__(self, app: App, drain_seconds: float) -> None:
        self._app, self._ending, self._drain_seconds = app, False, drain_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or hands on."""
        if scope["type"] == "lifespan":
            self._wait_at_sigterm()
        if scope["type"] != "http" or scope["path"] != "/readyz" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        from bentoml import get_current_service

        ready, missing = (False, ["the service is ending"]) if self._ending else await get_current_service().readiness()
        await JSONResponse({"ready": ready, "missing": missing}, 200 if ready else 503)(scope, receive, send)

    def _wait_at_sigterm(self) -> None:
        """Puts the wait before what the server does."""
        loop, server = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def end(number: int, frame: FrameType | None) -> None:
            if not self._ending and callable(server):
                self._ending = True
                loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, server, number, frame)

        signal.signal(signal.SIGTERM, end)


def _admit(scope: Scope, key: str) -> None:
    given = dict(scope["headers"]).get(b"authorization", b"")
    if not hmac.compare_digest(given, b"Bearer " + key.encode()):
        raise RefusalError(401, "The request has no valid key.", "Send it as: Authorization: Bearer KEY.")


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """The request's body; None where the caller has gone."""
    # All of them: of two headers BentoML would take the one and this the other.
    kinds = [value.split(b";")[0].strip().lower() for name, value in scope["headers"] if name == b"content-type"]
    if kinds != [b"application/json"]:
        raise RefusalError(415, "The body is not JSON.", "Send it as application/json.")
    too_large = RefusalError(
        413, "The body is too large.", f"Send at most {MAX_BODY_BYTES} bytes; ask for more ids in several requests."
    )
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise too_large
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            raise too_large
    return body


def _check(kind: type[BaseModel] | None, body: bytes) -> None:
    if kind is None:
        return
    try:
        kind.model_validate_json(body)
    except ValidationError as error:
        # Neither the values nor more than the beginning of a name: a caller's mistake may hold a secret.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:64] for part in first["loc"][:2])
        said = first["msg"].removeprefix("Value error, ")
        raise RefusalError(
            400, f"The request does not pass validation{f' at {where}' if where else ''}: {said}.", "The page of the API is at /."
        ) from None
