"""The BentoML service: `POST /predict`, `POST /features`, probes, `/metrics`, and the page of the API at `/`."""

from __future__ import annotations

import gc
import re
import sys
import time

import bentoml

from features.declaration import FeatureGroup
from features.definitions import GROUPS, user_features
from features.sources import ColumnType
from infra.settings import Settings
from serving.answer import feature_row, merged_features, prediction
from serving.contract import FeaturesRequest, FeaturesResponse, PredictRequest, PredictResponse, rfc3339
from serving.errors import RefusalError
from serving.guard import Door, Readiness
from serving.merge import Merged
from serving.metrics import Metrics
from serving.model import Champion, LoadedModel
from serving.store import OUT_OF_REACH, OnlineStore, Parts

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")


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
        # The thread that asks the registry computes for some milliseconds at each poll; by default it would hold up a request that
        # comes back from the store for 5 ms at a time.
        sys.setswitchinterval(0.000_2)
        settings = Settings.load()
        self._metrics = Metrics()
        self._store = OnlineStore(settings)
        self._champion = Champion(settings, user_features, self._exchanged)
        self._champion.start()

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Ends the thread that follows the champion, and the connections to the store."""
        self._champion.stop()
        await self._store.close()

    @bentoml.api(route="/features")
    async def features(self, request: FeaturesRequest, /) -> FeaturesResponse:
        """The features of entities at one time, in the order of the ids."""
        try:
            return await self._features(request)
        except RefusalError as refusal:
            return refusal.response()  # type: ignore[return-value]

    @bentoml.api(route="/predict")
    async def predict(self, request: PredictRequest, /) -> PredictResponse:
        """The champion's prediction about a user, on the features of this moment."""
        try:
            return await self._predict(request)
        except RefusalError as refusal:
            return refusal.response()  # type: ignore[return-value]

    async def readiness(self) -> tuple[bool, list[str]]:
        """Whether to send requests, and what keeps this service from answering everything; empty where nothing does."""
        found = [self._champion.fault] if self._champion.fault else []
        return self._champion.looked, found if await self._store.reachable() else [*found, OUT_OF_REACH]

    async def _features(self, request: FeaturesRequest) -> FeaturesResponse:
        started = time.perf_counter()
        group = GROUPS.get(request.group)
        if group is None:
            raise RefusalError(404, f"The group {request.group!r} is not declared.", f"Declared are: {', '.join(GROUPS)}.")
        keys = _keys(group, request.ids)
        q_ms = _now_ms() if request.at is None else request.at
        found = await self._read(group, keys, q_ms)
        rows = [feature_row(group, one, parts, merged, q_ms) for one, (parts, merged) in zip(request.ids, found, strict=True)]
        self._metrics.answered("features", group, found, q_ms, started)
        return FeaturesResponse.model_construct(rows=rows)

    async def _predict(self, request: PredictRequest) -> PredictResponse:
        started = time.perf_counter()
        model = self._champion.current
        if model is None:
            raise RefusalError(503, f"No champion can answer: {self._champion.fault}.", "Train one by `braid backfill`.")
        q_ms = _now_ms() if request.at is None else request.at
        found = await self._read(user_features, [request.user_id], q_ms)
        answer = prediction(user_features, request.user_id, *found[0], q_ms, model)
        self._metrics.answered("predict", user_features, found, q_ms, started)
        return answer

    async def _read(self, group: FeatureGroup, ids: list[int | str], q_ms: int) -> list[tuple[Parts, Merged]]:
        reading = await self._store.read(group, ids)
        result = []
        for parts in reading.parts:
            try:
                result.append((parts, merged_features(group, parts, q_ms, reading.batch_end_ms)))
            except ValueError:
                end_ms = parts.batch.batch_end_ms if parts.batch else reading.batch_end_ms
                end = "" if end_ms is None else rfc3339(end_ms)
                raise RefusalError(
                    409,
                    f"The time {rfc3339(q_ms)} lies before batch_end, {end}: the view already holds what came after it.",
                    "Ask for a later time, or take the past from the training set.",
                ) from None
        return result

    def _exchanged(self, model: LoadedModel) -> None:
        self._metrics.champion(model.version)
        # MLflow and its like are a million objects that stay: a full collection would look at each of them, during some request.
        gc.collect()
        gc.freeze()
        # A request makes some thousand objects that all go with it; looking for cycles among them every 700 finds none.
        gc.set_threshold(20_000, 10, 10)


Braid.add_asgi_middleware(Readiness)  # type: ignore[attr-defined]
Braid.add_asgi_middleware(Door)  # type: ignore[attr-defined]


def _keys(group: FeatureGroup, ids: list[int | str]) -> list[int | str]:
    """The ids as the group's keys have them. Digits pass for an integer: JSON numbers beyond 2^53 do not survive every client."""
    if group.entity_type is ColumnType.STRING:
        wrong = next((position for position, one in enumerate(ids) if not isinstance(one, str)), None)
        name, keys = "a text", ids
    else:
        wrong = next((position for position, one in enumerate(ids) if not (isinstance(one, int) or _INTEGER.fullmatch(one))), None)
        name, keys = "an integer", [one if isinstance(one, int) or wrong is not None else int(one) for one in ids]
    if wrong is not None:
        raise RefusalError(
            422, f"The id at position {wrong} is not {name}.", f"The entity of {group.name} is {group.entity}, {name}."
        )
    return keys


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
