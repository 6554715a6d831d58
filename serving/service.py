"""The BentoML service: the features and the predictions of a project over HTTP.

`POST /features`, `POST /models/{name}/predict` and `POST /models/{name}/score` for each model, `POST /predict` for the default model,
probes, `/metrics`, and the page of the API at `/`.

The entry point of a process: the settings and the project are those of its environment, and the contracts of the models follow from them.
"""

from __future__ import annotations

import gc
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import bentoml
from starlette.responses import Response

from features.instants import now_ms
from features.merge_many import ManyMerge
from features.model import Model
from infra.project import load_project
from infra.settings import Settings
from serving.answer import feature_rows, served_features
from serving.console.app import Console, console_app
from serving.console.requests import CONSOLE_REQUESTS
from serving.contract import FeaturesRequest, FeaturesResponse, predict_contract, score_contract
from serving.encoding import FeaturesAnswer, json_response
from serving.errors import RefusalError
from serving.freshness import Freshness
from serving.guard import Door, Readiness
from serving.metrics import Metrics
from serving.model import LoadedModel
from serving.predicting import Predictor, keys_of, tiles_kept_ms
from serving.served_log import ServedLog, served_record
from serving.variants import Models, Variant
from store.reading import OnlineStore

_settings = Settings.load()
_project = load_project(_settings)
#: (model, action) → the contract of its endpoint; an action is a method of `Predictor`.
_contracts: dict[tuple[str, str], tuple[Any, Any]] = {}
for _declared in _project.models:
    _contracts[_declared.name, "predict"], _contracts[_declared.name, "score"] = (
        predict_contract(_declared),
        score_contract(_declared),
    )
_default = _project.default_model
if TYPE_CHECKING:
    from serving.contract import PredictRequest, PredictResponse
else:
    PredictRequest, PredictResponse = _contracts[_default.name, "predict"] if _default else predict_contract(None)


class _ModelEndpoints:
    """An API method for each model of the project and each action: a prediction, and the scores of many candidates."""

    _predictors: dict[str, Predictor]


def _endpoint(name: str, action: str) -> Any:
    async def answer(self: _ModelEndpoints, request: Any, /) -> Any:
        try:
            return await getattr(self._predictors[name], action)(request)
        except RefusalError as refusal:
            return refusal.response()

    answer.__annotations__ = dict(zip(("request", "return"), _contracts[name, action], strict=True))
    answer.__name__ = f"{action}_{name}"
    answer.__doc__ = {
        "predict": f"A prediction of the model {name}, on the features of this moment.",
        "score": f"The predictions of the model {name} for many candidates, on the features of one moment.",
    }[action]
    return bentoml.api(answer, route=f"/models/{name}/{action}")


for _name, _action in _contracts:
    setattr(_ModelEndpoints, f"{_action}_{_name}", _endpoint(_name, _action))


@bentoml.service(
    name="braid",
    description="Features merged from batch and speed at the time of the request, and the champion's prediction on them.",
    workers=1,
    traffic={"timeout": 10, "max_concurrency": 256},
    logging={"access": {"enabled": False}},
)
class Braid(_ModelEndpoints):
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
        self._models = {
            model.name: Models(settings, model, partial(self._exchanged, model), settings.experiment if model == _default else None)
            for model in _project.models
        }
        self._predictors = {
            model.name: Predictor(
                settings, model, self._models[model.name], self._store, self._freshness, self._served, self._metrics
            )
            for model in _project.models
        }
        self.console = Console(settings, _project, self._store, self._models)
        self._freshness.start()
        for models in self._models.values():
            models.start()

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Ends the threads and the connections to the store; sends what the served log still holds."""
        for models in self._models.values():
            models.stop()
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
        """A prediction about an entity, on the features of this moment, by the default model or the entity's variant in an experiment."""
        try:
            return await self._default_predictor().predict(request)  # type: ignore[return-value]
        except RefusalError as refusal:
            return refusal.response()  # type: ignore[return-value]

    async def readiness(self) -> tuple[bool, list[str]]:
        """Whether to send requests, and what keeps this service from answering everything; empty where nothing does."""
        champions = [models.champion for models in self._models.values()]
        faults = [champion.fault for champion in champions if champion.fault]
        looked = self._freshness.looked and all(champion.looked for champion in champions)
        fault = await self._store.fault()
        return looked, [*faults, fault] if fault else faults

    async def _features(self, request: FeaturesRequest) -> Response:
        started = time.perf_counter()
        group = self._groups.get(request.group)
        if group is None:
            raise RefusalError(404, f"The group {request.group!r} is not declared.", f"Declared are: {', '.join(self._groups)}.")
        keys = keys_of(group, request.ids)
        q_ms = now_ms() if request.at is None else request.at
        stale = self._freshness.stale(request.use_case, group.name, q_ms)
        reading = await self._store.read(group, keys)
        group = reading.group
        since_ms = max(q_ms - tiles_kept_ms(_settings, group), reading.complete_since_ms)
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
        self._metrics.counted(group, found, q_ms)
        self._metrics.answered("features", started)
        return response

    def _default_predictor(self) -> Predictor:
        if _default is None:
            raise RefusalError(
                404, "The project declares no model.", "Add a Model to its definitions; /features answers without one."
            )
        return self._predictors[_default.name]

    def _exchanged(self, declared: Model, variant: Variant, model: LoadedModel) -> None:
        if variant.name == "champion" and declared == _default:
            self._metrics.champion(model.version)
        # MLflow and its like are a million objects that stay: a full collection would look at each of them, during some request.
        gc.collect()
        gc.freeze()
        # A request makes some thousand objects that all go with it; looking for cycles among them every 700 finds none.
        gc.set_threshold(20_000, 10, 10)


Braid.mount_asgi_app(console_app(lambda: bentoml.get_current_service().console), path="/console")  # type: ignore[attr-defined]
Braid.add_asgi_middleware(Readiness, drain_seconds=_settings.drain_seconds)  # type: ignore[attr-defined]
Braid.add_asgi_middleware(  # type: ignore[attr-defined]
    Door,
    key=_settings.api_key,
    requests={
        "/predict": PredictRequest,
        "/features": FeaturesRequest,
        **CONSOLE_REQUESTS,
        **{f"/models/{name}/{action}": request for (name, action), (request, _) in _contracts.items()},
    },
)
