"""The door: refuses what is no JSON, too large or not in the contract before BentoML reads it, and says what is missing. ASGI.

BentoML would unpickle other kinds of bodies, and log what does not validate with the values in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse

from serving.contract import MAX_BODY_BYTES, FeaturesRequest, PredictRequest
from serving.errors import RefusalError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUESTS: dict[str, type[BaseModel]] = {"/predict": PredictRequest, "/features": FeaturesRequest}


class Door:
    """Lets through `application/json` bodies of up to `MAX_BODY_BYTES` that fit the contract."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 400, 413 or 415 itself, or hands on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await _body(scope, receive)
            if body is None:
                return
            _check(scope["path"], body)
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

    Also without a model or a store: `/features`, and defaults that are marked, are still served.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or hands on."""
        if scope["type"] != "http" or scope["path"] != "/readyz" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        from bentoml import get_current_service

        ready, missing = await get_current_service().readiness()
        await JSONResponse({"ready": ready, "missing": missing}, 200 if ready else 503)(scope, receive, send)


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


def _check(path: str, body: bytes) -> None:
    kind = _REQUESTS.get(path)
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
