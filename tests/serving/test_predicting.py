"""Predictions of other kinds than a probability, through reading, merging, the contract and the served log, without a server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from braid import Labels, Model
from features.merge import NOT_PUBLISHED
from features.objective import Objective, TrainingData
from features.packed import FORMAT
from infra.settings import Settings
from models.formats import scorer_of, stored_model
from models.training import fitted
from serving.answer import feature_rows, features_at
from serving.contract import predict_contract, score_contract
from serving.decoding import predict_struct
from serving.model import LoadedModel
from serving.predicting import Predictor, tiles_kept_ms
from serving.request_ids import RequestIds
from serving.variants import known_variants
from store.clients import store
from store.keys import meta_key
from store.publishing import STREAM_FORMAT
from store.reading import OTHER_ARCHITECTURE, OTHER_VERSION, OnlineStore
from tests.declarations import user_features
from tests.payments import fraud, payments

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Q_MS = 1_780_000_000_000
CLASSES = {Objective.BINARY: (), Objective.REGRESSION: (), Objective.MULTICLASS: ("few", "many", "some")}


def loaded(model: Model) -> LoadedModel:
    source, classes = np.random.default_rng(1), CLASSES[model.objective]
    matrix = source.integers(0, 20, (300, len(model.vector.names))).astype(float)
    labels = (
        matrix[:, 3].astype(int) % 3 if classes else matrix[:, 3] > 9 if model.objective is Objective.BINARY else matrix[:, 3] * 100
    )
    data = TrainingData(model.vector.names, matrix, labels, np.arange(300), model.objective, classes)
    return LoadedModel(model.name, "1", scorer_of(stored_model(fitted(data), data)), model.vector)


def reasons(settings: Settings, model: Model) -> list[list[str]]:
    """The reasons in the answers of `/features`, `predict` and `score` about one user."""
    champion, nothing = loaded(model), lambda *_: None
    models: Any = SimpleNamespace(of=lambda _: (known_variants(model)["champion"], champion, False))
    log: Any = SimpleNamespace(wants=lambda _: False)
    metrics: Any = SimpleNamespace(predicted=nothing, counted=nothing, late=nothing, answered=nothing)
    freshness: Any = SimpleNamespace(stale=nothing)

    async def ask() -> list[Any]:
        online = OnlineStore(settings)
        reading = await online.read(user_features, [7])
        serve = features_at(reading, Q_MS, tiles_kept_ms(settings, reading.group))
        [row] = feature_rows(reading.group, [7], [serve(reading.parts[0])], Q_MS, settings.architecture)
        predictor = Predictor(settings, model, models, online, freshness, log, metrics)
        predicted = await predictor.predict(predict_contract(model)[0].model_validate({"user_id": 7, "at": Q_MS}))
        scored = await predictor.score(score_contract(model)[0].model_validate({"candidates": [{"user_id": 7}], "at": Q_MS}))
        await online.close()
        return [msgspec.to_builtins(row), *(msgspec.json.decode(answer) for answer in (predicted, scored))]

    answers = asyncio.run(ask())
    assert [list(answer["provenance"]["degraded_features"]) for answer in answers] == [list(user_features.feature_names)] * 3
    return [list(answer["provenance"]["degraded_reasons"]) for answer in answers]


@pytest.mark.parametrize("architecture", ["lambda", "kappa"])
def test_an_answer_without_the_store_gives_the_reason_of_the_store_and_no_other(valkey: Settings, architecture: Any) -> None:
    model, settings = Model("other", (user_features,), Labels()), valkey.model_copy(update={"architecture": architecture})
    store(valkey).flushdb()
    unreachable = reasons(settings.model_copy(update={"redis_reader_url": "redis://127.0.0.1:1/0"}), model)
    assert unreachable == [["the online store cannot be reached"]] * 3
    _, *late = reasons(settings, replace(model, budget_ms=0.001))
    assert late == [["the online store has not answered within the budget of 0.001 ms"]] * 2
    publications: list[tuple[dict[str, Any], str]] = [
        ({"fingerprint": "0" * 16, "format": FORMAT}, OTHER_VERSION),
        ({"fingerprint": user_features.fingerprint, "format": FORMAT if settings.kappa else STREAM_FORMAT}, OTHER_ARCHITECTURE),
    ]
    for published, reason in publications:
        store(valkey).hset(meta_key(user_features.name), mapping={"batch_end_ms": Q_MS, "declaration": "{}", **published})
        assert reasons(settings, model) == [[reason]] * 3


def test_before_the_first_batch_the_answer_says_that_nothing_has_been_published(valkey: Settings) -> None:
    store(valkey).flushdb()
    assert reasons(valkey, Model("other", (user_features,), Labels())) == [[NOT_PUBLISHED]] * 3


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


def test_a_decimal_of_a_request_has_the_micro_units_of_an_event_with_the_same_number(spark: SparkSession) -> None:
    numbers = ["278.2813215", "657.9344545", "0.0000025", "0.0000035", "-1.2345675", "999999999999.1234565", "1e-7", "12.5", "7"]
    column = next(column for column in payments.columns if column.name == "amount")
    typed = spark.createDataFrame([(number,) for number in numbers], "amount STRING").selectExpr(
        f"CAST({column.typed_sql()} AS DOUBLE)"
    )
    right = [amount for (amount,) in typed.collect()]
    contract, _ = predict_contract(fraud)
    bodies = [f'{{"card_id": 1, "terminal_id": "t", "context": {{"amount": {number}}}}}' for number in numbers]
    usual = msgspec.json.Decoder(predict_struct(fraud))
    assert [usual.decode(body).context.amount for body in bodies] == right
    assert [contract.model_validate_json(body).context.amount for body in bodies] == right
