"""What the served log has of the answers of a model with several inputs, request columns, and outcomes that are joined, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from features.objective import TrainingData
from infra.policies import Experiment
from infra.settings import Settings
from models.formats import scorer_of, stored_model
from models.training import fitted
from serving.contract import predict_contract, score_contract
from serving.model import LoadedModel
from serving.predicting import Predictor
from serving.variants import Variant, assigned, known_variants
from store.clients import store
from store.reading import OnlineStore
from tests.payments import fraud

HALVES = Experiment(name="halves", shares={"champion": 0.5, "batch_only": 0.5}, shadow=True)


def loaded(name: str, seed: int) -> LoadedModel:
    source = np.random.default_rng(seed)
    matrix = source.integers(0, 20, (400, len(fraud.vector.names))).astype(float)
    amount = matrix[:, fraud.vector.names.index("amount")]
    data = TrainingData(
        fraud.vector.names, matrix, (amount + source.normal(0, 3, 400) > 10).astype(int), np.arange(400), fraud.objective, ()
    )
    return LoadedModel(name, "3", scorer_of(stored_model(fitted(data), data)), fraud.vector)


MODELS = {"champion": loaded("fraud", 1), "batch_only": loaded("fraud_batch_only", 2)}


def variants(experiment: Experiment | None) -> Any:
    known = known_variants(fraud)

    def of(subject: int | None) -> tuple[Variant, LoadedModel, bool]:
        name = assigned(experiment, subject) if experiment and subject is not None else "champion"
        return known[name], MODELS[name], experiment is not None and subject is not None

    def shadows(variant: Variant) -> list[tuple[Variant, LoadedModel]]:
        return [(known[name], model) for name, model in MODELS.items() if name != variant.name] if experiment else []

    return SimpleNamespace(of=of, shadows=shadows, experiment=experiment, champion=SimpleNamespace(fault=""))


def asked(
    valkey: Settings, action: str, bodies: list[dict[str, Any]], wants: Callable[[Any], bool] = lambda _: True,
    experiment: Experiment | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    """The answers to requests, and the records in the served log."""
    store(valkey).flushdb()
    makers, nothing = list[Any](), lambda *_: None
    log: Any = SimpleNamespace(wants=wants, add=makers.append)
    metrics: Any = SimpleNamespace(predicted=nothing, counted=nothing, answered=nothing, late=nothing)
    contract = (predict_contract if action == "predict" else score_contract)(fraud)[0]

    async def ask() -> list[bytes]:
        online = OnlineStore(valkey)
        freshness: Any = SimpleNamespace(stale=nothing)
        predictor = Predictor(valkey, fraud, variants(experiment), online, freshness, log, metrics)
        answers = [await getattr(predictor, action)(contract.model_validate({"at": 1_000, **body})) for body in bodies]
        await online.close()
        return answers

    answers = [msgspec.json.decode(answer) for answer in asyncio.run(ask())]
    return answers, [msgspec.json.decode(msgspec.json.encode(make())) for make in makers]


def test_a_prediction_is_logged_with_its_request_columns_and_what_its_outcome_will_name(valkey: Settings) -> None:
    body = {"card_id": 17, "terminal_id": "t/9", "payment_id": "p1", "context": {"amount": 12.5}}
    [answer], records = asked(valkey, "predict", [body])
    first, *others = records
    assert {record["answer_id"] for record in records} == {first["answer_id"]}
    assert [(record["input"], record["entity"]) for record in records] == [
        ("cards", "17"), ("terminal_terminals", "t/9"), ("pair_card_at_terminal", "17/t~19"),
    ]  # fmt: skip
    assert first["request"] == {"amount": 12.5, "channel": None}
    assert first["outcome_id"] == "p1"
    assert first["degraded_inputs"] == [name for name, its in answer["inputs"].items() if its["degraded"]]
    assert (first["model"], first["prediction"], first["experiment"]) == ("fraud", answer["prediction"], None)
    assert not any({"request", "outcome_id", "prediction", "model"} & set(record) for record in others)
    assert "payment_id" not in answer
    _, [first, *_] = asked(valkey, "predict", [{key: value for key, value in body.items() if key != "payment_id"}])
    assert first["outcome_id"] is None
    assert asked(valkey, "predict", [body], wants=lambda _: False)[1] == []


def test_some_candidates_of_an_answer_are_logged_each_as_an_answer_of_its_own(valkey: Settings) -> None:
    candidates = [{"terminal_id": f"t{n}", "amount": float(n), "payment_id": f"p{n}"} for n in range(40)]
    body = {"card_id": 17, "context": {"channel": "web"}, "candidates": candidates}
    [answer], records = asked(valkey.model_copy(update={"served_candidates": 6}), "score", [body])
    firsts = [record for record in records if record["input"] == "cards"]
    assert (len(records), len(firsts), len({record["answer_id"] for record in records})) == (18, 6, 6)
    for first in firsts:
        place = int(first["request"]["amount"])
        assert first["outcome_id"] == f"p{place}"
        assert first["request"] == {"amount": float(place), "channel": "web"}
        assert first["prediction"] == answer["candidates"][place]["prediction"]
        terminals = [record["entity"] for record in records if record["answer_id"] == first["answer_id"]][1]
        assert terminals == f"t{place}"
    assert len(asked(valkey.model_copy(update={"served_candidates": 100}), "score", [body])[1]) == 120
    assert asked(valkey.model_copy(update={"served_candidates": 0}), "score", [body])[1] == []
    mixed = {"terminal_id": "t1", "context": {"amount": 1.0}, "candidates": [{"card_id": n} for n in range(8)]}
    records = asked(valkey, "score", [mixed], wants=lambda card: card % 2 == 1)[1]
    assert {record["entity"] for record in records if record["input"] == "cards"} == {"1", "3", "5", "7"}


@pytest.mark.parametrize("action", ["predict", "score"])
def test_an_answer_in_an_experiment_is_of_the_variant_of_its_subject_and_has_the_shadows(valkey: Settings, action: str) -> None:
    context = {"amount": 12.5}
    bodies: list[dict[str, Any]] = [
        {"card_id": card, "context": context, **({"terminal_id": "t1"} if action == "predict" else {"candidates": [{"terminal_id": "t1"}]})}
        for card in range(12)
    ]  # fmt: skip
    answers, records = asked(valkey, action, bodies, wants=lambda _: False, experiment=HALVES)
    firsts = [record for record in records if record["input"] == "cards"]
    assert [record["variant"] for record in firsts] == [assigned(HALVES, card) for card in range(12)]
    assert {record["variant"] for record in firsts} == {"champion", "batch_only"}
    values = {
        name: model.predict([model.vector.of([{}] * 3, {**context, "channel": None}, 1_000)])[0] for name, model in MODELS.items()
    }
    assert len(set(values.values())) == 2
    for answer, record in zip(answers, firsts, strict=True):
        [other] = set(values) - {record["variant"]}
        assert answer["model"]["variant"] == record["variant"]
        assert (record["experiment"], record["prediction"]) == ("halves", values[record["variant"]])
        assert record["shadows"] == {other: values[other]}
    if action == "score":
        several = {"terminal_id": "t1", "context": context, "candidates": [{"card_id": 1}, {"card_id": 2}]}
        [answer], records = asked(valkey, action, [several], wants=lambda _: False, experiment=HALVES)
        assert answer["model"]["variant"] == "champion", "the candidates may have different variants"
        assert records == []
