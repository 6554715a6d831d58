"""The id of a request, by which a caller finds the request's records in the served log and its line in the error log.

The id is the caller's `X-Request-ID` if that is short and printable, else a new random id. Every HTTP response has the id in the header of that name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar

from serving.guard import App, Message, Receive, Scope, Send

HEADER = b"x-request-id"
#: The ids that are accepted from a caller: visible ASCII without spaces, so that an id is one word in a line of the log.
_PRINTABLE = re.compile(rb"[!-~]{1,128}")
_current: ContextVar[str] = ContextVar("request_id", default="")


class RequestIds:
    """Middleware that assigns an id to each request, and adds the id to the header of each response."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request to the application, with an id."""
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
    """Returns the id of the request with these headers: the caller's own if it is acceptable, else a new one."""
    for name, value in headers:
        if name == HEADER and _PRINTABLE.fullmatch(value):
            return value.decode()
    return os.urandom(16).hex()


def current_request_id() -> str:
    """Returns the id of the current request; empty outside of a request."""
    return _current.get()
