"""Checks the key, the content type, the size and the contract of a request; middleware that checks requests to BentoML, and answers `/readyz`.

A request is refused if it has no valid key, or if its body is not JSON, is too large or does not fit the contract. BentoML itself would unpickle
bodies of other content types, and would write the values of an invalid request to its log.
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

from serving.bodies import decoded
from serving.contract import MAX_BODY_BYTES
from serving.decoding import refusal_of
from serving.errors import RefusalError
from serving.media_types import JSON

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Door:
    """Middleware that passes on POST requests with the key and an `application/json` body of up to `MAX_BODY_BYTES` that fits the contract.

    Requests of other methods are passed on without a check. The application gets the body without its content encoding.

    Args:
        app: The application behind the middleware.
        key: The key that callers must send; None if no key is set.
        requests: Path → the contract of its request body. The bodies of other paths may have any form.
    """

    def __init__(self, app: App, key: SecretStr | None, requests: Mapping[str, type[BaseModel]]) -> None:
        self._app, self._key, self._requests = app, key, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 400, 401, 413 or 415, or passes the request to the application."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            if self._key is not None:
                admit(scope, self._key.get_secret_value())
            body = await body_of(scope, receive)
            if body is None:
                return
            _check(self._requests.get(scope["path"]), body)
        except RefusalError as refusal:
            await refusal.response()(scope, receive, send)
            return
        body_passed = False

        async def replay() -> Message:
            nonlocal body_passed
            if body_passed:
                return await receive()
            body_passed = True
            return {"type": "http.request", "body": body, "more_body": False}

        plain_headers = [(name, value) for name, value in scope["headers"] if name != b"content-encoding"]
        await self._app({**scope, "headers": plain_headers}, replay, send)


class Readiness:
    """Middleware that answers `/readyz` with the list of what is missing.

    The status is 200 as soon as the registry and the online store have been asked once. It is 200 also without a model or an online store,
    because the service then still serves `/features` or declared defaults, marked as degraded. After SIGTERM the status is 503 while the service
    continues to answer for `drain_seconds`, so that a load balancer can send requests elsewhere before the service ends.
    """

    def __init__(self, app: App, drain_seconds: float) -> None:
        self._app, self._ending, self._drain_seconds = app, False, drain_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers `/readyz`, or passes the request to the application."""
        if scope["type"] == "lifespan":
            self._wait_at_sigterm()
        if scope["type"] != "http" or scope["path"] != "/readyz" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        from bentoml import get_current_service

        ready, missing = (False, ["the service is ending"]) if self._ending else await get_current_service().readiness()
        await JSONResponse({"ready": ready, "missing": missing}, 200 if ready else 503)(scope, receive, send)

    def _wait_at_sigterm(self) -> None:
        """Installs a handler of SIGTERM that calls the server's own handler after `drain_seconds`."""
        loop, server = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def end(number: int, frame: FrameType | None) -> None:
            if not self._ending and callable(server):
                self._ending = True
                loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, server, number, frame)

        signal.signal(signal.SIGTERM, end)


def admit(scope: Scope, key: str) -> None:
    """Checks that a request has the key.

    Raises:
        RefusalError: The request has another key or no key.
    """
    authorization = dict(scope["headers"]).get(b"authorization", b"")
    if not hmac.compare_digest(authorization, b"Bearer " + key.encode()):
        raise RefusalError(401, "The request has no valid key.", "Send it as: Authorization: Bearer KEY.")


async def body_of(scope: Scope, receive: Receive) -> bytes | None:
    """Reads the body of a request, and decodes its content encoding; None if the caller has disconnected.

    Raises:
        RefusalError: The body is not JSON, is too large, or has an encoding that is not gzip.
    """
    kinds, length, encodings = [], b"0", []
    for name, value in scope["headers"]:
        if name == b"content-type":
            kinds.append(value.split(b";")[0].strip().lower())
        elif name == b"content-length":
            length = value
        elif name == b"content-encoding":
            encodings.append(value)
    # A request with several content-type headers is refused, because BentoML could read another of them than this function.
    if kinds != [JSON]:
        raise RefusalError(415, "The body is not JSON.", "Send it as application/json.")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise _too_large()
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return decoded(body, encodings)


def _too_large() -> RefusalError:
    return RefusalError(
        413, "The body is too large.", f"Send at most {MAX_BODY_BYTES} bytes; ask for more ids in several requests."
    )


def _check(contract: type[BaseModel] | None, body: bytes) -> None:
    if contract is None:
        return
    try:
        contract.model_validate_json(body)
    except ValidationError as error:
        raise refusal_of(error, contract) from None
