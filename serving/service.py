"""The BentoML service: the features and the predictions of a project over HTTP.

`POST /features`, `POST /models/{name}/predict` and `POST /models/{name}/score` for each model, `POST /predict` for the default model, probes,
`/metrics`, and the page of the API at `/`.

This module is the entry point of a process. It loads the settings and the project from the environment when it is imported, and makes the contracts
of the models from the project.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml import get_current_service  # imported by name, because the module bentoml computes an attribute at each use
from starlette.middleware import Middleware
from starlette.responses import Response

from features.instants import now_ms
from features.model import Model
from infra.experiments import experiment_model
from infra.project import load_project
from infra.settings import Settings
from serving.answer import Provenances, feature_rows, features_at
from serving.arrow_answer import arrow_stream
from serving.console.app import Console, console_app
from serving.console.requests import CONSOLE_REQUESTS
from serving.contract import FeaturesRequest, FeaturesResponse, predict_contract, score_contract
from serving.decoding import decoder, features_struct, predict_struct, score_struct
from serving.encoding import FeaturesAnswer, encoded
from serving.errors import RefusalError
from serving.freshness import Freshness
from serving.front import Front, cross_origin, put_in_front
from serving.guard import Door, Readiness
from serving.http_protocol import use_one_write
from serving.ids import group_of, keys_of
from serving.media_types import ARROW, JSON
from serving.metrics import Metrics
from serving.model import LoadedModel
from serving.predicting import Predictor, tiles_kept_ms
from serving.request_counts import RequestCounts
from serving.request_ids import RequestIds, current_request_id
from serving.served_log import ServedLog, served_record
from serving.stages import Stages
from serving.tracing import end_tracing, trace_request, tracing
from serving.variants import Models, Variant
from store.reading import OnlineStore

use_one_write()
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


_TIMEOUT_SECONDS = 10


class _FrontedService(bentoml.Service[Any]):
    """BentoML's service with `serving.front` in front of it."""

    def to_asgi(self, is_main: bool = True) -> Any:
        app = super().to_asgi(is_main=is_main)
        front = Middleware(
            Front,
            key=_settings.api_key,
            decoders=_decoders(),
            answer=_answer,
            media_types={"/features": (JSON, ARROW)},
            most_at_once=_settings.requests_at_once,
            shed=_shed,
            timeout_seconds=_TIMEOUT_SECONDS,
            counts=RequestCounts(app),
        )
        return put_in_front(app, [*tracing(_settings), Middleware(RequestIds), *cross_origin(_settings.cors_origins), front])

    @property
    def openapi_spec(self) -> Any:
        """The OpenAPI description of the service, with the media type Arrow, which BentoML does not know, for the answer of `/features`."""
        spec = super().openapi_spec
        answer: Any = spec.paths["/features"].post["responses"][200]  # BentoML has converted the responses to a mapping
        answer["content"][ARROW.decode()] = {"schema": {"type": "string", "format": "binary"}}
        return spec


def _decoders() -> dict[str, Callable[[bytes], Any]]:
    """Returns the decoders of the operations: path → the function that decodes a body to the request."""
    decoders = {"/features": decoder(features_struct(), FeaturesRequest), "/predict": decoder(None, PredictRequest)}
    for model in _project.models:
        predict = decoder(predict_struct(model), _contracts[model.name, "predict"][0])
        decoders[f"/models/{model.name}/predict"] = predict
        decoders[f"/models/{model.name}/score"] = decoder(score_struct(model), _contracts[model.name, "score"][0])
        if model == _default:
            decoders["/predict"] = predict
    return decoders


async def _answer(path: str, request: Any, media_type: bytes) -> bytes:
    service: Braid = get_current_service()
    return await (service.operations[path] if media_type == JSON else service.arrow_operations[path])(request)


def _shed(path: str) -> None:
    get_current_service().metrics.shed(path)


class _Endpoints:
    """The API methods of the service for BentoML, which describes them on the page of the API. `serving.front` answers the requests over HTTP.

    Attributes:
        operations: Path → the function that answers a request in JSON.
        arrow_operations: Path → the function that answers a request in Arrow's stream format, for the paths that offer this format.
    """

    operations: dict[str, Callable[[Any], Awaitable[bytes]]]
    arrow_operations: dict[str, Callable[[Any], Awaitable[bytes]]]

    async def _response(self, path: str, request: Any) -> Any:
        try:
            return Response(await self.operations[path](request), media_type="application/json")
        except RefusalError as refusal:
            return refusal.response()


def _endpoint(name: str, action: str) -> Any:
    async def answer(self: _Endpoints, request: Any, /) -> Any:
        return await self._response(f"/models/{name}/{action}", request)

    answer.__annotations__ = dict(zip(("request", "return"), _contracts[name, action], strict=True))
    answer.__name__ = f"{action}_{name}"
    answer.__doc__ = {
        "predict": f"A prediction of the model {name}, on the features of this moment.",
        "score": f"The predictions of the model {name} for many candidates, on the features of one moment.",
    }[action]
    return bentoml.api(answer, route=f"/models/{name}/{action}")


for _name, _action in _contracts:
    setattr(_Endpoints, f"{_action}_{_name}", _endpoint(_name, _action))


@bentoml.service(
    name="braid",
    description="Features merged from batch and speed at the time of the request, and the champion's prediction on them.",
    workers=_settings.serving_workers,
    traffic={"timeout": _TIMEOUT_SECONDS, "max_concurrency": _settings.requests_at_once},
    logging={"access": {"enabled": False}},
    service_class=_FrontedService,
)
class Braid(_Endpoints):
    """Answers requests from the online store and the registry's champion. Its only state is a cache of decoded values."""

    def __init__(self) -> None:
        # The thread that polls the registry computes for some milliseconds at each poll. With Python's default switch interval of 5 ms, it would
        # delay a request that continues after its read of the store by 5 ms at a time.
        sys.setswitchinterval(0.000_2)
        settings, self._groups = _settings, {group.name: group for group in _project.groups}
        self.metrics = Metrics(_project.models)
        self._store = OnlineStore(settings)
        self._served = ServedLog(settings, self.metrics.lost)
        self._freshness = Freshness(settings, _project.groups, self.metrics.newest_event)
        self._loaded: set[str] = set()  # the names of the models of which a version has been loaded
        tested = experiment_model(settings.experiment, _project)
        self._models = {
            model.name: Models(settings, model, partial(self._exchanged, model), settings.experiment if model == tested else None)
            for model in _project.models
        }
        self.operations = {"/features": self._features}
        self.arrow_operations = {"/features": partial(self._features, arrow=True)}
        for model in _project.models:
            predictor = Predictor(
                settings, model, self._models[model.name], self._store, self._freshness, self._served, self.metrics
            )
            self.operations |= {f"/models/{model.name}/{action}": getattr(predictor, action) for action in ("predict", "score")}
        self.operations["/predict"] = self.operations[f"/models/{_default.name}/predict"] if _default else _no_model
        self.console = Console(settings, _project, self._store, self._models)
        self._freshness.start()
        for models in self._models.values():
            models.start()

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Ends the threads and the connections to the store; sends the remaining records of the served log and the remaining traces."""
        for models in self._models.values():
            models.stop()
        self._freshness.stop()
        self._served.close()
        await self._store.close()
        end_tracing()

    @bentoml.api(route="/features")
    async def features(self, request: FeaturesRequest, /) -> FeaturesResponse:
        """Returns the features of entities at one time, in the order of the ids.

        With `Accept: application/vnd.apache.arrow.stream` the answer is a stream of Arrow: one record batch with the column `id`, one column per
        feature with the feature's name, and one column per field of the provenance, such as `provenance.degraded`.
        """
        return await self._response("/features", request)  # an encoded response, which BentoML sends unchanged

    @bentoml.api(route="/predict")
    async def predict(self, request: PredictRequest, /) -> PredictResponse:
        """Returns a prediction about an entity, on its features at this moment, by the default model or the entity's variant in an experiment."""
        return await self._response("/predict", request)

    async def readiness(self) -> tuple[bool, list[str]]:
        """Returns whether the service is ready for requests, and the reasons why it cannot answer every request; empty if it can."""
        champions = [models.champion for models in self._models.values()]
        faults = [champion.fault for champion in champions if champion.fault]
        looked = self._freshness.looked and all(champion.looked for champion in champions)
        fault = await self._store.fault()
        return looked, [*faults, fault] if fault else faults

    async def _features(self, request: FeaturesRequest, arrow: bool = False) -> bytes:
        stages = Stages()
        trace_request("features")
        group = group_of(self._groups, request.group)
        keys = keys_of(group, request.ids)
        q_ms = now_ms() if request.at is None else request.at
        stale = self._freshness.stale(request.use_case, group.name, q_ms)
        reading = await self._store.read(group, keys)
        stages.read(reading.decode_seconds)
        group = reading.group
        serve = features_at(reading, q_ms, tiles_kept_ms(_settings, group), stale)
        found = [serve(parts) for parts in reading.parts]
        stages.end("merge")
        if arrow:
            response = arrow_stream(group, keys, found, q_ms, _settings.architecture)
        else:
            response = encoded(FeaturesAnswer(feature_rows(group, request.ids, found, q_ms, _settings.architecture)))
        stages.end("encode")

        def afterwards() -> None:
            if self._served.on:
                request_id, provenances = current_request_id(), Provenances(group.feature_names, q_ms, _settings.architecture)
                for key, served in zip(keys, found, strict=True):
                    if self._served.wants(key):
                        provenance = provenances.of(served)
                        self._served.add(partial(served_record, group, key, served, provenance, q_ms, now_ms(), None, request_id))
            self.metrics.counted(group, found, q_ms)
            self.metrics.answered("features", stages)

        asyncio.get_running_loop().call_soon(afterwards)  # runs after the answer, so the caller does not wait
        return response

    def _exchanged(self, declared: Model, variant: Variant, model: LoadedModel) -> None:
        if variant.name == "champion" and declared == _default:
            self.metrics.champion(model.version)
        if declared.name in self._loaded:
            # A later version adds few objects besides itself. A full collection would visit every decoded value, and would block all requests for
            # that time: 70 ms of CPU time with the values of 2,469 users.
            return
        self._loaded.add(declared.name)
        # MLflow and other libraries have a million permanent objects. They are frozen, because a full collection during a request would visit each.
        gc.collect()
        gc.freeze()
        # A request makes some thousand objects, which reference counting frees at its end. A collection at every 700 objects would find no cycles.
        gc.set_threshold(20_000, 10, 10)


async def _no_model(_request: Any) -> bytes:
    raise RefusalError(404, "The project declares no model.", "Add a Model to its definitions; /features answers without one.")


Braid.mount_asgi_app(console_app(lambda: bentoml.get_current_service().console), path="/console")  # type: ignore[attr-defined]
Braid.add_asgi_middleware(Readiness, drain_seconds=_settings.drain_seconds)  # type: ignore[attr-defined]
Braid.add_asgi_middleware(Door, key=_settings.api_key, requests=CONSOLE_REQUESTS)  # type: ignore[attr-defined]
