"""The page of the console and its requests, as an ASGI application that `serving.service` mounts at `/console`.

The page itself is public, like the page of the API. Its requests are POSTs with JSON, which `serving.guard` checks. They read the store by the same
functions as `/features`, and no metric counts them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from features.instants import now_ms
from features.project import Project
from infra.settings import Settings
from monitoring.freshness import newest_event_ms
from serving.console.description import (
    ProjectDescription,
    Status,
    group_state,
    model_state,
    project_description,
    stream_state,
)
from serving.console.explanation import Explainer, Explanation, History, Point
from serving.console.requests import CONSOLE_REQUESTS, ConsoleRequest, EntityRequest, HistoryRequest
from serving.encoding import encoded
from serving.errors import RefusalError
from serving.ids import group_of, key_of_text
from serving.predicting import tiles_kept_ms
from serving.variants import Models
from store.errors import StoreError
from store.protocol import Reader
from store.server import store_to_read

#: The number of points of a history.
POINTS = 120
#: How long a status is reused, in seconds, so that all open pages share one read of the store.
_STATUS_SECONDS = 1.0
_FOLDER = Path(__file__).parent
_FILES = {
    "": ("console.html", "text/html"),
    "console.css": ("console.css", "text/css"),
    "console.js": ("console.js", "text/javascript"),
}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Console:
    """Answers the page's requests in one worker process.

    Args:
        settings: The settings.
        project: The declarations.
        store: The reader of the online store that requests use.
        models: Name → the champion and the variants of a model.
    """

    def __init__(self, settings: Settings, project: Project, store: Reader, models: Mapping[str, Models]) -> None:
        self._settings, self._store, self._models = settings, store, models
        self._groups = {group.name: group for group in project.groups}
        self._project = project_description(project)
        self._notes = store_to_read(settings)
        self._status: Status | None = None
        self._status_at = 0.0

    async def project(self, _request: ConsoleRequest) -> ProjectDescription:
        """Returns the declarations of the project."""
        return self._project

    async def status(self, _request: ConsoleRequest) -> Status:
        """Returns the state of groups, stream and models, which is at most a second old."""
        if self._status is None or time.monotonic() - self._status_at >= _STATUS_SECONDS:
            self._status_at = time.monotonic()
            self._status = await asyncio.to_thread(self._look)
        return self._status

    async def entity(self, request: EntityRequest) -> Explanation:
        """Explains the features of an entity.

        Raises:
            RefusalError: The group is not declared, the id is of another type, or the time lies before batch_end.
        """
        explainer = await self._explainer(request)
        return explainer.explanation(request.id, now_ms() if request.at is None else request.at)

    async def history(self, request: HistoryRequest) -> History:
        """Returns the values of a feature at `POINTS` times from `since`, or from batch_end if that is later.

        Raises:
            RefusalError: The group or the feature is not declared, the id is of another type, or the time lies before batch_end.
        """
        explainer = await self._explainer(request)
        index, until_ms = explainer.index_of(request.feature), now_ms() if request.at is None else request.at
        end_ms = explainer.batch_end_ms
        since_ms = min(until_ms, request.since if end_ms is None else max(request.since, end_ms))
        points: list[Point] = []
        for place in range(POINTS):
            points.append(explainer.point(index, since_ms + (until_ms - since_ms) * place // (POINTS - 1)))
            await asyncio.sleep(0)  # a hundred merges without a pause would delay other requests
        return History(points, explainer.batch_alone(index, until_ms))

    async def _explainer(self, request: EntityRequest) -> Explainer:
        group = group_of(self._groups, request.group)
        reading = await self._store.read(group, [key_of_text(group, request.id)])
        return Explainer(reading, tiles_kept_ms(self._settings, reading.group))

    def _look(self) -> Status:
        models = [model_state(name, variants) for name, variants in self._models.items()]
        try:
            groups = [
                group_state(self._settings, group, self._notes.published(group.name), newest_event_ms(self._notes, group))
                for group in self._groups.values()
            ]
            return Status(now_ms(), groups, stream_state(self._notes.progress()), models, "")
        except StoreError as error:
            return Status(now_ms(), [], None, models, error.cause)


def console_app(console: Callable[[], Console]) -> Starlette:
    """Returns the ASGI application of the console.

    Args:
        console: Returns the console of this process; called for each request.
    """

    def endpoint(action: str, contract: type[ConsoleRequest]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            body: Any = contract.model_validate_json(await request.body())
            try:
                return Response(encoded(await getattr(console(), action)(body)), media_type="application/json")
            except RefusalError as refusal:
                return refusal.response()

        return answer

    routes = [Route(f"/{path}", _page_file(*file)) for path, file in _FILES.items()]
    for path, contract in CONSOLE_REQUESTS.items():
        action = path.rsplit("/", 1)[1]
        routes.append(Route(f"/api/{action}", endpoint(action, contract), methods=["POST"]))
    return Starlette(routes=routes)


def _page_file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (_FOLDER / name).read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers=_HEADERS)

    return answer
