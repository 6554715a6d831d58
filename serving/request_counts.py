"""Adds the requests that `serving.front` answers to BentoML's counts of requests at `/metrics`.

BentoML's own middleware looks up labels four times for each request, and prometheus_client validates them each time. Here each look-up is made once.
Everything except the number of requests in work is counted after the answer has been sent.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from bentoml._internal.context import server_context
from starlette.applications import Starlette
from starlette.middleware import Middleware

from serving.guard import App

_BENTOML_COUNTS = "RunnerTrafficMetricsMiddleware"


class RequestCounts:
    """Counts the requests that are answered in front of a BentoML application, in the metrics of that application.

    Args:
        app: The application, before it starts. Its own counting middleware is replaced by one whose metrics this object uses. Without such a
            middleware nothing is counted.
    """

    def __init__(self, app: Starlette) -> None:
        self._theirs: Any = None
        for place, layer in enumerate(app.user_middleware):
            if getattr(layer.cls, "__name__", "") == _BENTOML_COUNTS:
                app.user_middleware[place] = Middleware(self._behind, layer)
        self._in_work, self._answered = cache(self._in_work_of), cache(self._answered_of)

    def begin(self, path: str) -> None:
        """Counts a request as in work."""
        if self._theirs is not None:
            self._in_work(path).inc()

    def end(self, path: str, status: int | None, seconds: float) -> None:
        """Counts a request as ended, and as answered if it has a status.

        Args:
            path: The path of the request.
            status: The status of the response; None if the caller has disconnected.
            seconds: The time of the request.
        """
        if self._theirs is None:
            return
        self._in_work(path).dec()
        if status is not None:
            last, total, duration = self._answered(path, status)
            last.set_to_current_time()
            total.inc()
            duration.observe(seconds)

    def _behind(self, app: App, layer: Middleware) -> Any:
        # Called once, at the start of the application: the middleware of BentoML has the metrics.
        self._theirs = layer.cls(app, *layer.args, **layer.kwargs)
        return self._theirs

    def _in_work_of(self, path: str) -> Any:
        if not self._theirs._is_setup:  # noqa: SLF001  # BentoML has no public access to its metrics
            self._theirs._setup()  # noqa: SLF001
        return self._theirs.metrics_request_in_progress.labels(endpoint=path, **_service())

    def _answered_of(self, path: str, status: int) -> tuple[Any, Any, Any]:
        theirs, labels = self._theirs, {"endpoint": path, "http_response_code": status, **_service()}
        return (
            theirs.metrics_last_request_timestamp.labels(**_service()),
            theirs.metrics_request_total.labels(**labels),
            theirs.metrics_request_duration.labels(**labels),
        )


def _service() -> dict[str, str | None]:
    return {
        "service_name": server_context.bento_name,
        "service_version": server_context.bento_version,
        "runner_name": server_context.service_name,
    }
