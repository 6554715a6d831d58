"""The BentoML service: `POST /predict`, `POST /features`, probes, `/metrics`, and the page of the API at `/`."""

from __future__ import annotations

import gc
import time

import bentoml

from features.declaration import FeatureGroup
from features.definitions import GROUPS, user_features
from features.sources import ColumnType
from infra.settings import Settings
from serving.answer import feature_row, merged_features, prediction
from serving.contract import (
    FeaturesRequest,
    FeaturesResponse,
    PredictRequest,
    PredictResponse,
    milliseconds,
    rfc3339,
)
from serving.errors import RefusalError
from serving.guard import JsonOnly
from serving.merge import Merged
from serving.model import Champion
from serving.store import OnlineStore, Parts


@bentoml.service(
    name="braid",
    description="Features merged from batch and speed at the time of the request, and the champion's prediction on them.",
    workers=1,
    traffic={"timeout": 10, "max_concurrency": 256},
    logging={"access": {"enabled": False}},
)
class Braid:
    """Answers from the online store and the registry's champion. Holds no state of its own but decoded values."""

    def __init__(self) -> None:
        # After the worker has set prometheus_client's folder for several processes.
        from prometheus_client import Counter, Gauge, Histogram

        settings = Settings.load()
        self._store = OnlineStore(settings)
        self._champion = Champion(settings, user_features)
        self._champion.start()
        self._seconds = Histogram(
            "braid_answer_seconds", "Time to answer.", ["endpoint"], buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
        )
        self._rows = Counter("braid_rows_total", "Entities answered for.", ["endpoint", "state"])
        self._freshness = Gauge("braid_newest_event_age_seconds", "Age of the newest event in the last answer.", ["group"])
        self._version = Gauge("braid_champion_version", "Version of the model that answers; 0 for none.")
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def close(self) -> None:
        """Ends the thread that follows the champion."""
        self._champion.stop()

    @bentoml.api(route="/features")
    async def features(self, request: FeaturesRequest, /) -> FeaturesResponse:
        """The features of entities at one time, in the order of the ids."""
        try:
            return await self._features(request)
        except RefusalError as refusal:
            return refusal.response()  # type: ignore[return-value]

    async def _features(self, request: FeaturesRequest) -> FeaturesResponse:
        started = time.perf_counter()
        group = GROUPS.get(request.group)
        if group is None:
            raise RefusalError(404, f"The group {request.group!r} is not declared.", f"Declared are: {', '.join(GROUPS)}.")
        ids = [_entity_id(group, one) for one in request.ids]
        q_ms = _now_ms() if request.at is None else milliseconds(request.at)
        rows = [
            feature_row(group, one, parts, merged, q_ms)
            for one, (parts, merged) in zip(request.ids, await self._read(group, ids, q_ms), strict=True)
        ]
        self._observe("features", started)
        return FeaturesResponse.model_construct(rows=rows)

    @bentoml.api(route="/predict")
    async def predict(self, request: PredictRequest, /) -> PredictResponse:
        """The champion's prediction about a user, on the features of this moment."""
        try:
            return await self._predict(request)
        except RefusalError as refusal:
            return refusal.response()  # type: ignore[return-value]

    async def _predict(self, request: PredictRequest) -> PredictResponse:
        started = time.perf_counter()
        model = self._champion.current
        if model is None:
            raise RefusalError(
                503, f"No model can answer: {self._champion.fault or 'it is being loaded'}.", "Train one by `braid backfill`."
            )
        q_ms = _now_ms() if request.at is None else milliseconds(request.at)
        [(parts, merged)] = await self._read(user_features, [request.user_id], q_ms)
        answer = prediction(user_features, request.user_id, parts, merged, q_ms, model)
        self._version.set(int(model.version))
        self._observe("predict", started)
        return answer

    async def _read(self, group: FeatureGroup, ids: list[int | str], q_ms: int) -> list[tuple[Parts, Merged]]:
        reading = await self._store.read(group, ids)
        result = []
        for parts in reading.parts:
            try:
                merged = merged_features(group, parts, q_ms, reading.batch_end_ms)
            except ValueError:
                end_ms = parts.batch.batch_end_ms if parts.batch else reading.batch_end_ms
                end = "" if end_ms is None else rfc3339(end_ms)
                raise RefusalError(
                    409,
                    f"The time {rfc3339(q_ms)} lies before batch_end, {end}: the view already holds what came after it.",
                    "Ask for a later time, or take the past from the training set.",
                ) from None
            result.append((parts, merged))
            state = "degraded" if merged.degraded or parts.faults else "exact" if parts.known else "unknown"
            self._rows.labels(group.name, state).inc()
            if merged.newest_event_ms is not None:
                self._freshness.labels(group.name).set((q_ms - merged.newest_event_ms) / 1_000)
        return result

    def _observe(self, endpoint: str, started: float) -> None:
        self._seconds.labels(endpoint).observe(time.perf_counter() - started)


Braid.add_asgi_middleware(JsonOnly)  # type: ignore[attr-defined]


def _entity_id(group: FeatureGroup, given: int | str) -> int | str:
    """The id as the group's keys have it."""
    if group.entity_type is ColumnType.STRING:
        return str(given)
    try:
        return int(given)
    except ValueError:
        raise RefusalError(
            422, f"The id {given!r} is not an integer.", f"The entity of {group.name} is {group.entity}, an integer."
        ) from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
