"""The ASGI application in front of BentoML's: answers the requests of the project's operations, and passes on every other request.

For each request, BentoML would read the body twice more, start three spans, and inspect its methods, which is twice the work of a whole prediction.
BentoML remains the server. Its probes, its metrics and the page of the API work as before, and its counts of requests include the requests that are
answered here (`serving.request_counts`).
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

    The status of a refused request is 400, 401, 413, 415 or 422 for an error of the caller, 503 above the bound of requests in work, 504 after the
    timeout, and 500 if the service itself fails. The function `answer` may refuse with further statuses (`serving.errors`).

    Args:
        app: The application behind this one.
        key: The key that callers must send; None if no key is set.
        decoders: Path → the function that decodes a body to the request.
        answer: Answers a request; its arguments are the path, the request and the media type of the answer. It returns the encoded answer.
        media_types: Path → the media types that its answer may have, the default first; only JSON for other paths.
        most_at_once: The largest number of requests in work at a time. More requests are refused immediately, so that no queue delays the requests
            in work. A request is in work from the last byte of its body on, so callers that send slowly do not block others.
        shed: Called with the path of a request that is refused because of that bound.
        timeout_seconds: The longest time of a request, from its head to its answer.
        counts: Counts the requests.
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
        """Answers the request, or passes it to the application behind."""
        if scope["type"] != "http" or scope["path"] not in self._decoders or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path, began, status = scope["path"], time.perf_counter(), None
        self._counts.begin(path)
        try:
            status = await self._answered(scope, receive, send)
        finally:  # the request is counted after the answer, so the caller does not wait
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
        """Returns the encoded answer within the time of a request; None if the caller has disconnected.

        Raises:
            RefusalError: The request is refused, takes too long, or fails.
        """
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
        except Exception:  # noqa: BLE001  # the caller must get a response, whatever has failed
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
    """Returns the middleware that allows pages of some origins to call the service from a browser (CORS); empty without an origin.

    A page sends the key of the deployment in a header that it sets itself, so cookies and other credentials of the browser are not allowed.
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
    """Returns an application with `layers` in front of `app`, the outermost layer first.

    BentoML's own layers are in `app`, behind these layers, because each layer costs time for every request.
    """
    for layer in reversed(layers):
        app = layer.cls(app, *layer.args, **layer.kwargs)
    return app
