"""The BentoML service: `POST /predict`, `POST /features`, probes, `/metrics`, and the page of the API at `/`.

The entry point of a process: the settings and the project are those of its environment, and the contract of `/predict` follows from them.
"""

from __future__ import annotations

import gc
import re
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import bentoml
from starlette.responses import Response

from features.declaration import FeatureGroup
from features.instants import now_ms
from features.merge_many import ManyMerge
from features.sources import ColumnType
from infra.project import load_project
from infra.settings import Settings
from serving.answer import feature_rows, prediction, served_features
from serving.contract import FeaturesRequest, FeaturesResponse, predict_contract
from serving.encoding import FeaturesAnswer, json_response
from serving.errors import RefusalError
from serving.freshness import Freshness
from serving.guard import Door, Readiness
from serving.metrics import Metrics
from serving.model import LoadedModel
from serving.served_log import Record, ServedLog, served_record
from serving.variants import Models, Variant
from store.reading import OnlineStore

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")

_settings = Settings.load()
_project = load_project(_settings)
_model = _project.default_model
if TYPE_CHECKING:
    from serving.contract import PredictRequest, PredictResponse
else:
    PredictRequest, PredictResponse = predict_contract(_model.group.entity if _model else None)


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
        settings, self._groups = _settings, {group.name: group for group in _project.groups}
        self._metrics = Metrics()
        self._store = OnlineStore(settings)
        self._served = ServedLog(settings, self._metrics.lost)
        self._freshness = Freshness(settings, _project.groups, self._metrics.newest_event)
        self._models = Models(settings, _model, self._exchanged) if _model else None
        self._freshness.start()
        if self._models:
            self._models.start()

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Ends the threads and the connections to the store; sends what the served log still holds."""
        if self._models:
            self._models.stop()
        self._freshness.stop()
        self._served.close()
        await self._store.close()

    @bentoml.api(route="/features")
    async def features(self, request: FeaturesRequest, /) -> FeaturesResponse:
        """The features of entities at one time, in the order of the ids."""
        try:
            return await self._features(request)  # type: ignore[return-value]  # encoded already
        except RefusalError as refusal:
            return refusal.response()  # type: ignore[return-value]

    @bentoml.api(route="/predict")
    async def predict(self, request: PredictRequest, /) -> PredictResponse:
        """A prediction about an entity, on the features of this moment, by the champion or by the entity's variant in a running experiment."""
        try:
            return await self._predict(request)  # type: ignore[return-value]
        except RefusalError as refusal:
            return refusal.response()  # type: ignore[return-value]

    async def readiness(self) -> tuple[bool, list[str]]:
        """Whether to send requests, and what keeps this service from answering everything; empty where nothing does."""
        champion = self._models.champion if self._models else None
        found = [champion.fault] if champion and champion.fault else []
        looked = self._freshness.looked and (champion is None or champion.looked)
        fault = await self._store.fault()
        return looked, [*found, fault] if fault else found

    async def _features(self, request: FeaturesRequest) -> Response:
        started = time.perf_counter()
        group = self._groups.get(request.group)
        if group is None:
            raise RefusalError(404, f"The group {request.group!r} is not declared.", f"Declared are: {', '.join(self._groups)}.")
        keys = _keys(group, request.ids)
        q_ms = now_ms() if request.at is None else request.at
        stale = self._freshness.stale(request.use_case, group.name, q_ms)
        reading = await self._store.read(group, keys)
        group = reading.group
        since_ms = max(q_ms - _tiles_kept_ms(group), reading.complete_since_ms)
        serve = partial(
            served_features,
            group,
            q_ms=q_ms,
            batch_end_ms=reading.batch_end_ms,
            stale=stale,
            complete_since_ms=since_ms,
            at_q=ManyMerge(group, q_ms, reading.batch_end_ms, since_ms),
        )
        found = [serve(parts) for parts in reading.parts]
        rows = feature_rows(group, request.ids, found, q_ms)
        if self._served.on:
            for key, served, row in zip(keys, found, rows, strict=True):
                if self._served.wants(key):
                    self._served.add(partial(served_record, group, key, served, row.provenance, q_ms, now_ms()))
        response = json_response(FeaturesAnswer(rows))
        self._metrics.answered("features", group, found, q_ms, started)
        return response

    async def _predict(self, request: PredictRequest) -> Response:
        started = time.perf_counter()
        if _model is None or self._models is None:
            raise RefusalError(
                404, "The project declares no model.", "Add a Model to its definitions; /features answers without one."
            )
        group = _model.group
        [user] = _keys(group, [getattr(request, group.entity)])
        variant, model, exposed = self._models.of(user)
        if model is None:
            raise RefusalError(503, f"No champion can answer: {self._models.champion.fault}.", "Train one by `braid backfill`.")
        q_ms = now_ms() if request.at is None else request.at
        stale = self._freshness.stale(request.use_case, group.name, q_ms)
        reading = await self._store.read(group, [user])
        group = reading.group
        serve = partial(
            served_features,
            group,
            reading.parts[0],
            q_ms,
            reading.batch_end_ms,
            stale,
            complete_since_ms=max(q_ms - _tiles_kept_ms(group), reading.complete_since_ms),
        )
        served = serve(batch_only=variant.batch_only)
        answer = prediction(group, user, served, q_ms, model, variant.name)
        self._metrics.predicted(variant.name)
        if exposed or self._served.wants(user):
            served_at_ms = now_ms()
            experiment = self._models.experiment.name if exposed and self._models.experiment else None
            shadows = self._models.shadows(variant) if exposed else []

            def record() -> Record:  # by the log's thread: an answer does not wait for shadows
                exposure = {
                    "experiment": experiment, "variant": variant.name, "model": model.name, "model_version": model.version,
                    "prediction": answer.prediction,
                    "shadows": {
                        one.name: prediction(group, user, serve(batch_only=one.batch_only), q_ms, its, one.name).prediction
                        for one, its in shadows
                    },
                }  # fmt: skip
                return served_record(group, user, served, answer.provenance, q_ms, served_at_ms, exposure)

            self._served.add(record)
        response = json_response(answer)
        self._metrics.answered("predict", group, [served], q_ms, started)
        return response

    def _exchanged(self, variant: Variant, model: LoadedModel) -> None:
        if variant.name == "champion":
            self._metrics.champion(model.version)
        # MLflow and its like are a million objects that stay: a full collection would look at each of them, during some request.
        gc.collect()
        gc.freeze()
        # A request makes some thousand objects that all go with it; looking for cycles among them every 700 finds none.
        gc.set_threshold(20_000, 10, 10)


Braid.add_asgi_middleware(Readiness, drain_seconds=_settings.drain_seconds)  # type: ignore[attr-defined]
Braid.add_asgi_middleware(  # type: ignore[attr-defined]
    Door, key=_settings.api_key, requests={"/predict": PredictRequest, "/features": FeaturesRequest}
)


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


def _tiles_kept_ms(group: FeatureGroup) -> int:
    return _settings.tiles_kept_seconds(group.buffer_ms) * 1_000
