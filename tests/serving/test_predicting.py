"""Predictions of other kinds than a probability, through reading, merging, the contract and the served log, without a server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from braid import Labels, Model
from features.objective import Objective, TrainingData
from infra.settings import Settings
from models.formats import scorer_of, stored_model
from models.training import fitted
from serving.contract import predict_contract, score_contract
from serving.model import LoadedModel
from serving.predicting import Predictor
from serving.request_ids import RequestIds
from serving.variants import known_variants
from store.clients import store
from store.reading import OnlineStore
from tests.declarations import user_features

CLASSES = {Objective.REGRESSION: (), Objective.MULTICLASS: ("few", "many", "some")}


def loaded(model: Model) -> LoadedModel:
    source, classes = np.random.default_rng(1), CLASSES[model.objective]
    matrix = source.integers(0, 20, (300, len(model.vector.names))).astype(float)
    labels = matrix[:, 3] * 100 if not classes else matrix[:, 3].astype(int) % 3
    data = TrainingData(model.vector.names, matrix, labels, np.arange(300), model.objective, classes)
    return LoadedModel(model.name, "1", scorer_of(stored_model(fitted(data), data)), model.vector)


@pytest.mark.parametrize("objective", [Objective.REGRESSION, Objective.MULTICLASS])
def test_a_number_or_several_classes_are_the_answer_to_a_request_and_to_many_candidates(
    valkey: Settings, objective: Objective
) -> None:
    store(valkey).flushdb()
    model, records = Model("other", (user_features,), Labels(), objective=objective), list[Any]()
    champion, variant = loaded(model), known_variants(model)["champion"]
    models: Any = SimpleNamespace(
        of=lambda _: (variant, champion, False), champion=SimpleNamespace(current=champion), experiment=None, shadows=lambda _: []
    )
    log: Any = SimpleNamespace(wants=lambda _: True, add=records.append)
    nothing = lambda *_: None  # noqa: E731
    stages = list[dict[str, float]]()
    metrics: Any = SimpleNamespace(
        predicted=nothing, counted=nothing, late=nothing, answered=lambda _endpoint, its, _model: stages.append(its.seconds)
    )
    freshness: Any = SimpleNamespace(stale=nothing)
    (request, response), (many, scores) = predict_contract(model), score_contract(model)

    async def ask() -> tuple[bytes, bytes]:
        online = OnlineStore(valkey)
        predictor = Predictor(valkey, model, models, online, freshness, log, metrics)
        predicted = b""

        async def predict(*_: Any) -> None:
            nonlocal predicted
            predicted = await predictor.predict(request.model_validate({"user_id": 7}))

        await RequestIds(predict)({"type": "http", "headers": [(b"x-request-id", b"order-17")]}, nothing, nothing)
        scored = await predictor.score(many.model_validate({"candidates": [{"user_id": 7}, {"user_id": 8}]}))
        await online.close()
        return predicted, scored

    predicted, scored = asyncio.run(ask())
    assert [list(seconds) for seconds in stages] == [["store", "decode", "merge", "model", "encode"]] * 2
    assert all(second > 0 for seconds in stages for second in seconds.values())
    [expected] = champion.predict([model.vector.empty()])
    answer = response.model_validate_json(predicted)
    assert answer.prediction == expected
    assert [row.prediction for row in scores.model_validate_json(scored).candidates] == [expected, expected]
    logged = [msgspec.json.decode(msgspec.json.encode(make())) for make in records]
    assert sorted(record["entity"] for record in logged) == ["7", "7", "8"], "the prediction and both candidates"
    for record in logged:
        assert record["request_id"] == "order-17"
        if objective is Objective.REGRESSION:
            assert record["prediction"] == expected > 1
            assert record["predictions"] is None
        else:
            assert set(expected) == set(CLASSES[objective])
            assert record["predictions"] == expected
            assert record["prediction"] is None, "the column of the served log is a number"
