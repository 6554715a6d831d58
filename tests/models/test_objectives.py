"""Models of other answers and of other libraries: what is declared, registered, compared and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from braid import DeclarationError, Labels, Model, Outcome, Project, TrainingData
from features.errors import BraidError
from features.objective import Objective, Training
from infra.settings import Settings
from models.evaluation import evaluate
from models.formats import ONNX, Scorer, scorer_of, stored_model
from models.promotion import promote
from models.registry import CHAMPION, DIGEST_TAG, EVALUATED_TAG, batch_only_name, load_scorer, read_version, version_by_alias
from models.training import train_models, training_data
from orchestration import plan
from serving.contract import predict_contract, score_contract
from serving.encoding import CandidateScore, ModelInfo, Provenance, ScoreAnswer, encoded, predict_answer
from serving.model import load_model
from tests.declarations import repurchase, user_events, user_features


def linear(data: TrainingData) -> Any:
    """A training function as a user writes it."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = Ridge() if data.objective is Objective.REGRESSION else LogisticRegression()
    return make_pipeline(StandardScaler(), estimator).fit(data.matrix, data.labels)


def forest(data: TrainingData) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=10, random_state=1).fit(data.matrix, data.labels)


def declared(objective: str, training: Training | None = None) -> Model:
    name = f"{objective}_{training.__name__ if training else 'default'}"
    return Model(name, (user_features,), Labels(), objective=Objective(objective), training=training)


def rows_of(objective: str, n: int = 900) -> pd.DataFrame:
    """Labels that follow from one feature."""
    source = np.random.default_rng(5)
    rows = pd.DataFrame({name: source.integers(0, 20, n).astype(float) for name in user_features.feature_names})
    number = rows["purchase_count_7d"] + source.normal(0, 2, n)
    labels = {
        "binary": (number > 10).astype(int),
        "regression": number,
        "multiclass": pd.Series(np.array(["few", "many", "some"])[np.digitize(number, [6, 13]) * 2 % 3]),
    }
    rows["label"] = labels[objective]
    for name in user_features.feature_names:
        rows[f"batch_{name}"] = rows[name] + source.normal(0, 6, n)
    rows["entity"], rows["q_ms"] = np.arange(n), np.arange(n)
    rows["split"] = np.where(np.arange(n) < n * 2 // 3, "train", "evaluation")
    return rows


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], str]) -> Settings:
    home = tmp_path_factory.mktemp("registry")
    settings = Settings(home=home, mlflow_tracking_uri=empty_registry(home))
    client = MlflowClient(settings.mlflow_tracking_uri)
    for model in (declared("binary", linear), declared("regression"), declared("multiclass", linear)):
        for name in (model.name, batch_only_name(model.name)):
            client.create_experiment(name, artifact_location=str(home / "artifacts"))
    return settings


@pytest.mark.parametrize(
    ("objective", "training"),
    [("binary", linear), ("regression", None), ("multiclass", linear)],
    ids=["binary", "regression", "classes"],
)
def test_a_model_of_any_answer_goes_through_the_gate_and_is_loaded_again(
    registry: Settings, objective: str, training: Training | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = declared(objective, training), rows_of(objective)
    report = train_models(registry, model, rows, 1, None)
    assert report.candidate_version is not None, report.reason
    first = promote(registry, model, report.candidate_version, rows, 0, report.twin_version)
    assert first.promoted
    champion = version_by_alias(registry, model.name, CHAMPION)
    assert champion.tags[EVALUATED_TAG] == report.candidate_version
    assert champion.tags["objective"] == objective
    stored = read_version(registry, model.name, champion.version)
    assert stored.digest == champion.tags[DIGEST_TAG]
    assert (stored.format == ONNX) is (training is not None)

    # What is served is what was evaluated, but for the rows that it has learnt.
    evaluated = load_scorer(registry, model.name, report.candidate_version)
    later = rows[rows["split"] == "evaluation"]
    predictions = evaluated.predict(model.vector.matrix(later))
    metrics = evaluate(model.objective, later["label"].to_numpy(), predictions, evaluated.classes)
    assert metrics == pytest.approx(report.merged)
    metric, better = {"binary": ("auc", 0.9), "regression": ("rmse", 2.6), "multiclass": ("accuracy", 0.6)}[objective]
    assert metrics[metric] < better if objective == "regression" else metrics[metric] > better

    loaded = load_model(registry, model, model.name, champion.version, champion.tags)
    [answer] = loaded.predict([model.vector.empty()])
    if objective == "multiclass":
        assert list(answer) == ["few", "many", "some"]
        assert sum(answer.values()) == pytest.approx(1)
    _check_contract(model, answer)

    # A candidate that has learnt from shuffled labels is worse by the criteria of its objective.
    shuffled = rows.assign(label=rows["label"].sample(frac=1, random_state=1).to_numpy())
    worse = train_models(registry, model, shuffled, 1, None)
    refused = promote(registry, model, worse.candidate_version, rows, 0, worse.twin_version)
    assert not refused.promoted
    assert "worse" in refused.reason

    other = replace(model, objective=Objective.REGRESSION if objective != "regression" else Objective.BINARY)
    with pytest.raises(ValueError, match="is declared"):
        load_model(registry, other, model.name, champion.version, champion.tags)
    monkeypatch.setattr(plan, "runs", lambda *_: True)
    for change, altered in ((model, ()), (other, (("prediction", f"{objective} → {other.objective}"),))):
        [planned] = plan.model_plans(Project((user_events,), (user_features,), (change,)), registry)
        assert planned.settled is not bool(altered)
        assert planned.change is not None
        assert planned.change.altered == altered


def _check_contract(model: Model, answer: Any) -> None:
    """What is encoded passes the contract of the model."""
    provenance, info = Provenance("2026-01-01T00:00:00.000Z", None, None, 0, False, (), (), ()), ModelInfo("m", "1", "champion")
    predicted = encoded(predict_answer(("user_id",))(7, answer, {"spend": 1.5}, info, provenance))
    assert predict_contract(model)[1].model_validate_json(predicted).prediction == answer
    scored = encoded(ScoreAnswer([CandidateScore(answer, False)], info, provenance))
    assert score_contract(model)[1].model_validate_json(scored).candidates[0].prediction == answer


@pytest.mark.parametrize("objective", ["binary", "multiclass"])
def test_trees_of_scikit_learn_are_converted_and_predict_the_same(objective: str) -> None:
    data = training_data(declared(objective, forest), rows_of(objective))
    estimator = forest(data)
    scorer = scorer_of(stored_model(estimator, data))
    expected = estimator.predict_proba(data.matrix)
    assert np.allclose(scorer.predict(data.matrix), expected if objective == "multiclass" else expected[:, 1], atol=1e-5)


def test_a_fitted_model_that_cannot_be_served_is_refused_with_a_sentence() -> None:
    import lightgbm

    data = training_data(declared("binary", linear), rows_of("binary"))
    with pytest.raises(BraidError, match="cannot be converted to ONNX"):
        stored_model(object(), data)
    nameless = lightgbm.LGBMClassifier(n_estimators=2, verbosity=-1).fit(data.matrix, data.labels)
    with pytest.raises(BraidError, match="other names than the declared inputs"):
        stored_model(nameless, data)
    named = lightgbm.LGBMClassifier(n_estimators=2, verbosity=-1).fit(data.matrix, data.labels, feature_name=list(data.names))
    assert scorer_of(stored_model(named, data)).names == data.names
    number = lightgbm.train({"verbosity": -1}, lightgbm.Dataset(data.matrix, data.labels, feature_name=list(data.names)), 2)
    with pytest.raises(BraidError, match="no probabilities"):
        stored_model(number, data)

    # A time in milliseconds does not fit into the 32 bits of an ONNX tree.
    place = np.arange(len(data.labels))
    times = replace(data, matrix=np.column_stack([1.7e12 + place, data.matrix[:, 1:]]), labels=(place % 100 < 50).astype(int))
    with pytest.raises(BraidError, match="once it is converted"):
        stored_model(forest(times), times)


def test_a_digest_covers_the_names_of_the_classes() -> None:
    data = training_data(declared("multiclass", linear), rows_of("multiclass"))
    stored = stored_model(linear(data), data)
    renamed = replace(stored, facts={**stored.facts, "classes": list(reversed(stored.facts["classes"]))})
    assert renamed.digest != stored.digest


def test_a_class_that_a_model_does_not_know_counts_as_wrong() -> None:
    labels, predictions = np.array(["a", "c"], dtype=object), np.array([[0.9, 0.1], [0.2, 0.8]])
    metrics = evaluate(Objective.MULTICLASS, labels, predictions, ("a", "b"))
    assert metrics["accuracy"] == 0.5
    assert metrics["log_loss"] > 10


@pytest.mark.parametrize(
    ("objective", "prediction", "fault"),
    [
        (Objective.BINARY, [0.5, 1.5], "no probabilities"), (Objective.BINARY, [float("nan")], "no probabilities"),
        (Objective.REGRESSION, [float("inf")], "no number"), (Objective.MULTICLASS, [[0.5, 0.3, 0.2]], "each of 2 classes"),
        (Objective.REGRESSION, [-7.0], ""), (Objective.MULTICLASS, [[0.5, 0.5]], ""),
    ],
)  # fmt: skip
def test_a_prediction_of_another_kind_is_a_fault(objective: Objective, prediction: list, fault: str) -> None:
    found_fault = Scorer((), objective, ("a", "b"), None).fault(np.array(prediction))
    assert fault in found_fault
    assert bool(fault) is bool(found_fault)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"objective": "ranking"}, "objective of m is 'ranking'"),
        ({"objective": "regression", "outcome": Outcome(where="event_type = 'PURCHASE'")}, "follows or not"),
        ({"objective": "regression", "when_late": float("nan")}, "when it is late"),
        ({"objective": "multiclass", "when_late": 0.5}, "when it is late"),
        ({"when_late": 1.5}, "when it is late"),
    ],
)
def test_a_wrong_objective_is_refused_by_the_declaration(change: dict, cause: str) -> None:
    with pytest.raises(DeclarationError, match=cause):
        Model(**{"name": "m", "inputs": (user_features,), "outcome": Labels(), **change})
    assert Model("m", (user_features,), Labels(), objective="regression", when_late=-3.0).objective is Objective.REGRESSION  # type: ignore[arg-type]
    assert repurchase.objective is Objective.BINARY
