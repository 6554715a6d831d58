"""ASGI application in front of BentoML's: answers the operations of the project itself, and passes on every other request.

BentoML reads a body twice more, starts three spans of its own, and inspects its methods on each request: together twice the
work of a whole prediction. It stays the server; its probes, metrics and the page of the API answer as before, and its counts of requests
count what is answered here (`serving.request_counts`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from pydantic import SecretStr
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from infra.deadlines import Deadline
from serving.errors import RefusalError
from serving.guard import App, Receive, Scope, Send, admit, body_of
from serving.media_types import JSON, preferred
from serving.request_counts import RequestCounts
from serving.request_ids import current_request_id

_log = logging.getLogger("serving")


class Front:
    """Answers POST requests of known paths.

    Args:
        app: The application behind.
        key: The key that callers must send; None where no key is set.
        decoders: Path → the function from a body to the request.
        answer: The function from a path, its request and a media type to the answer, encoded as that type.
        media_types: Path → the media types that its answer may have, the usual one first; JSON alone for other paths.
        most_at_once: The number of requests in work at a time; more are refused at once, so that no queue takes the time of those in work.
            A request is in work from the last byte of its body on: callers that send slowly keep nobody out.
        shed: Called with the path of a request that is refused for that bound.
        timeout_seconds: The time of a request, from its first byte to its answer.
        counts: Counts the requests.

    A request is refused by status 400, 401, 413, 415 or 422, by 503 beyond the bound, by 504 after its time, and by 500 where the service itself fails.
    """

    def __init__(
        self,
        app: App,
        key: SecretStr | None,
        decoders: Mapping[str, Callable[[bytes], Any]],
        answer: Callable[[str, Any, bytes], Awaitable[bytes]],
        media_types: Mapping[str, tuple[bytes, ...]],
        most_at_once: int,
        shed: Callable[[str], None],
        timeout_seconds: float,
        counts: RequestCounts,
    ) -> None:
        self._app, self._key, self._decoders, self._answer = app, key.get_secret_value() if key else None, decoders, answer
        self._media_types = media_types
        self._free, self._shed, self._timeout_seconds, self._counts = most_at_once, shed, timeout_seconds, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request, or passes it on."""
        if scope["type"] != "http" or scope["path"] not in self._decoders or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path, began, status = scope["path"], time.perf_counter(), None
        self._counts.begin(path)
        try:
            status = await self._answered(scope, receive, send)
        finally:  # the caller does not wait for it
            asyncio.get_running_loop().call_soon(self._counts.end, path, status, time.perf_counter() - began)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> int | None:
        """Answers the request. Returns the status; None if the caller has disconnected."""
        media_type = JSON
        if offered := self._media_types.get(scope["path"]):
            media_type = preferred(tuple([value for name, value in scope["headers"] if name == b"accept"]), offered)
        try:
            answer = await self._within_bounds(scope, receive, media_type)
        except RefusalError as refusal:
            response = refusal.response()
            await response(scope, receive, send)
            return response.status_code
        if answer is None:
            return None
        headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        return 200

    async def _within_bounds(self, scope: Scope, receive: Receive, media_type: bytes) -> bytes | None:
        """The answer; None if the caller has disconnected."""
        path = scope["path"]
        try:
            with Deadline(self._timeout_seconds):
                if self._key is not None:
                    admit(scope, self._key)
                body = await body_of(scope, receive)
                return None if body is None else await self._in_work(path, body, media_type)
        except TimeoutError:
            raise RefusalError(
                504, f"The request was not answered within {self._timeout_seconds:g} s.", "Send the request again."
            ) from None
        except RefusalError:
            raise
        except Exception:  # noqa: BLE001  # the caller must get an answer, whatever has failed
            _log.exception("the request %s of %s failed", current_request_id(), path)
            raise RefusalError(500, "The service has failed at this request.", "The server's log says why.") from None

    async def _in_work(self, path: str, body: bytes, media_type: bytes) -> bytes:
        if not self._free:
            self._shed(path)
            raise RefusalError(503, "The service answers too many requests at this moment.", "Send the request again later.")
        self._free -= 1
        try:
            return await self._answer(path, self._decoders[path](body), media_type)
        finally:
            self._free += 1


def cross_origin(origins: Collection[str]) -> list[Middleware]:
    """The layer that lets the pages of some origins call the service in browsers; none without an origin.

    The key of a deployment is a header that the page itself sets, so no cookie or other credential of the browser is allowed.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=("GET", "POST"),
            allow_headers=("authorization", "content-encoding", "content-type", "traceparent", "x-request-id"),
            expose_headers=("retry-after", "x-request-id"),
        )
    ]


def put_in_front(app: App, layers: Sequence[Middleware]) -> App:
    """The application behind `layers`, the outermost first. BentoML's own layers are all behind them, for each costs every request."""
    for layer in reversed(layers):
        app = layer.cls(app, *layer.args, **layer.kwargs)
    return app
