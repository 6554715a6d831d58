"""The id of a request, by which a caller finds the request's record in the served log and its line in the log of errors.

The id is the caller's `X-Request-ID` if that is short and printable, else a new one. Every HTTP response has it in the same header.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar

from serving.guard import App, Message, Receive, Scope, Send

HEADER = b"x-request-id"
#: What is taken of a caller: visible ASCII without spaces, so that an id is one word of a line of the log.
_PRINTABLE = re.compile(rb"[!-~]{1,128}")
_current: ContextVar[str] = ContextVar("request_id", default="")


class RequestIds:
    """Gives each request of the application behind it an id, and each of its responses the header."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = id_of(scope["headers"])
        _current.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)


def id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id of the request with these headers."""
    for name, value in headers:
        if name == HEADER and _PRINTABLE.fullmatch(value):
            return value.decode()
    return os.urandom(16).hex()


def current_request_id() -> str:
    """The id of the request that is being answered; empty outside of a request."""
    return _current.get()
