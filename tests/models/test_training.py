"""Training and promotion, on MLflow's registry in SQLite: what is registered, what is refused, and who becomes champion."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from features.declaration import FeatureGroup, last_k
from features.model import Labels, Model, Outcome
from features.objective import TrainingData
from features.project import Project
from infra.settings import Settings
from models import promotion, training
from models.evaluation import evaluate
from models.promotion import PROVEN_TAG, UNPROVEN, promote
from models.registry import (
    CHALLENGER,
    CHAMPION,
    DIGEST_TAG,
    EVALUATED_TAG,
    FIT_TAG,
    TWIN_TAG,
    batch_only_name,
    load_scorer,
    make_champion,
    read_version,
    tracking,
    version_by_alias,
    version_of,
)  # fmt: skip
from models.training import MIN_ROWS, fitted, train_models, training_data
from orchestration import plan
from serving.model import load_model
from tests.declarations import repurchase, user_events, user_features

TWIN = "repurchase_batch_only"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], str]) -> Settings:
    home = tmp_path_factory.mktemp("registry")
    settings = Settings(home=home, mlflow_tracking_uri=empty_registry(home))
    client = MlflowClient(settings.mlflow_tracking_uri)
    for name in (repurchase.name, TWIN):
        client.create_experiment(name, artifact_location=str(home / "artifacts"))
    return settings


def training_rows(n: int = 1_200, noise: float = 4.0) -> pd.DataFrame:
    """Labels that follow from a feature, of which the batch layer sees a blurred one."""
    source = np.random.default_rng(5)
    rows = pd.DataFrame({name: source.integers(0, 20, n).astype(float) for name in user_features.feature_names})
    rows["label"] = (rows["purchase_count_7d"] + source.normal(0, noise, n) > 10).astype(int)
    for name in user_features.feature_names:
        rows[f"batch_{name}"] = rows[name] + source.normal(0, 6, n)
    rows.loc[::7, ["avg_purchase_30d", "days_since_last"]] = None
    rows["entity"], rows["q_ms"] = np.arange(n), np.arange(n)
    rows["split"] = np.where(np.arange(n) < n * 2 // 3, "train", "evaluation")
    return rows


@pytest.fixture(scope="module")
def trained(registry: Settings) -> tuple[Settings, str]:
    report = train_models(registry, repurchase, training_rows(), 3, "abc123", view_versions={"user_features": 9})
    assert report.candidate_version is not None, report.reason
    assert report.merged is not None
    assert report.batch_only is not None
    assert report.merged["auc"] > report.batch_only["auc"] > 0.5, "fresh features are worth something here"
    assert set(report.plots or {}) == {"roc", "calibration", "importance"}
    return registry, report.candidate_version


def register(settings: Settings, booster: lightgbm.Booster, group: FeatureGroup = user_features) -> str:
    """A version of somebody's own."""
    with tracking(settings):
        mlflow.set_experiment(repurchase.name)
        with mlflow.start_run():
            info = mlflow.lightgbm.log_model(booster, name="model", registered_model_name=repurchase.name, pip_requirements=[])
    version = str(info.registered_model_version)
    MlflowClient(settings.mlflow_tracking_uri).set_model_version_tag(
        repurchase.name, version, "group_fingerprint", group.fingerprint
    )
    return version


def booster_of(rows: pd.DataFrame, rounds: int = 30, **parameters: object) -> lightgbm.Booster:
    data = lightgbm.Dataset(
        repurchase.vector.matrix(rows), rows["label"].to_numpy(), feature_name=list(user_features.feature_names)
    )
    return lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1, **parameters}, data, rounds)


def test_a_candidate_is_registered_as_text_with_where_it_is_from(trained: tuple[Settings, str]) -> None:
    settings, version = trained
    challenger = version_by_alias(settings, repurchase.name, CHALLENGER)
    assert challenger.version == version
    assert challenger.tags["group_fingerprint"] == user_features.fingerprint
    assert challenger.tags["training_set_version"] == "3"
    assert challenger.tags["code_version"] == "abc123"
    assert challenger.tags["view_versions"] == '{"user_features": 9}'
    assert challenger.tags[DIGEST_TAG] == read_version(settings, repurchase.name, version).digest
    assert float(challenger.tags["auc"]) > 0.5
    assert load_scorer(settings, repurchase.name, version).names == user_features.feature_names
    with tracking(settings):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{repurchase.name}/{version}"))
    model = mlflow.models.Model.load(folder)
    assert [column.name for column in model.signature.inputs] == list(user_features.feature_names)
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".cloudpickle", ".skops")]
    plots = MlflowClient(settings.mlflow_tracking_uri).list_artifacts(challenger.run_id, "plots")
    assert {Path(plot.path).stem for plot in plots} == {"roc", "calibration", "importance"}
    assert version_by_alias(settings, TWIN, CHALLENGER) is not None
    assert "MLFLOW_TRACKING_URI" not in os.environ, "another home loaded in this process must not find this registry"


def test_a_matrix_has_the_defaults_that_serving_fills_in() -> None:
    rows = training_rows().head(30)
    names = user_features.feature_names
    values = rows[list(names)].astype(object).where(rows[list(names)].notna(), None)
    assert repurchase.vector.matrix(rows).tolist() == [
        user_features.model_input(values_of_row) for values_of_row in values.to_dict("records")
    ]


def test_a_list_is_in_the_training_set_and_in_no_model(registry: Settings) -> None:
    group = replace(user_features, features=(last_k("items", of="item_id", k=3), *user_features.features))
    settings, listed = registry, Model("listed", (group,), repurchase.outcome)
    client = MlflowClient(settings.mlflow_tracking_uri)
    for name in ("listed", batch_only_name("listed")):
        client.create_experiment(name, artifact_location=str(settings.home / "artifacts"))
    rows = training_rows()
    rows["items"] = rows["batch_items"] = [None if n % 3 else np.array(["a", "b"]) for n in range(len(rows))]
    version = train_models(settings, listed, rows, 0, None).candidate_version
    assert version is not None
    assert load_scorer(settings, "listed", version).names == user_features.feature_names
    assert promote(settings, listed, version, rows).promoted
    again = train_models(settings, listed, rows, 0, None).candidate_version
    assert promote(settings, listed, str(again), rows).slices, "the slices of promotion leave it out"
    # Serving asks it for what it was trained on.
    model = load_model(settings, listed, "listed", version, {"group_fingerprint": group.fingerprint})
    assert 0 <= model.predict([group.model_input({"items": ["a"], "purchase_count_7d": 3})])[0] <= 1


def test_training_twice_gives_the_same_trees(trained: tuple[Settings, str]) -> None:
    settings, version = trained
    again = train_models(settings, repurchase, training_rows(), 3, "abc123")
    assert again.candidate_version not in (None, version)
    texts = [read_version(settings, repurchase.name, number).data for number in (version, again.candidate_version)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("rows", [training_rows(MIN_ROWS), training_rows().assign(label=1)], ids=["few", "one class"])
def test_too_little_to_learn_from_is_told_and_not_raised(registry: Settings, rows: pd.DataFrame) -> None:
    report = train_models(registry, repurchase, rows, 0, None)
    assert report.candidate_version is None
    assert "rows" in report.reason


def test_a_candidate_becomes_champion_by_being_no_worse(trained: tuple[Settings, str]) -> None:
    settings, version = trained
    rows = training_rows()
    client = MlflowClient(settings.mlflow_tracking_uri)
    first = promote(settings, repurchase, version, rows)
    assert first.promoted
    champion = version_by_alias(settings, repurchase.name, CHAMPION)
    assert (champion.version, champion.tags[EVALUATED_TAG]) == (first.champion_version, version)
    assert "champion already" in promote(settings, repurchase, version, rows).reason

    worse = register(settings, booster_of(rows.assign(label=rows["label"].sample(frac=1, random_state=1).to_numpy())))
    refused = promote(settings, repurchase, worse, rows)
    assert not refused.promoted
    assert "worse" in refused.reason
    assert version_by_alias(settings, repurchase.name, CHAMPION).version == champion.version

    # The same ranking, but probabilities that hardly leave the middle.
    timid = register(settings, booster_of(rows, rounds=40, learning_rate=0.0005))
    shy = promote(settings, repurchase, timid, rows)
    assert not shy.promoted
    assert shy.candidate is not None
    assert shy.champion is not None
    assert shy.candidate["log_loss"] > shy.champion["log_loss"] * 1.02

    good = register(settings, booster_of(rows))
    better = promote(settings, repurchase, good, rows)
    assert better.promoted, better.reason
    assert "no worse" in better.reason
    assert client.get_model_version(repurchase.name, good).tags["promotion"] == better.reason


def test_the_champion_is_the_candidate_fitted_again_on_all_rows(
    trained: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = trained
    MlflowClient(settings.mlflow_tracking_uri).delete_registered_model_alias(repurchase.name, CHAMPION)
    rows = training_rows().sample(frac=1, random_state=3)
    rows.loc[rows["q_ms"].between(700, 799), "split"] = "gap"
    candidate = train_models(settings, repurchase, rows, 4, "abc123", view_versions={"user_features": 9})
    fits: list[TrainingData] = []
    monkeypatch.setattr(training, "fitted", lambda data: fits.append(data) or fitted(data))
    report = promote(settings, repurchase, candidate.candidate_version, rows, 0, candidate.twin_version)
    assert report.promoted

    evaluated = version_of(settings, repurchase.name, candidate.candidate_version)
    champion = version_by_alias(settings, repurchase.name, CHAMPION)
    assert champion.version != evaluated.version
    inherited = {
        "auc",
        "log_loss",
        "training_set_version",
        "training_table",
        "view_versions",
        "code_version",
        "declaration",
        "fingerprint",
    }
    assert {tag: champion.tags[tag] for tag in inherited} == {tag: evaluated.tags[tag] for tag in inherited}
    assert (evaluated.tags[FIT_TAG], champion.tags[FIT_TAG]) == ("held out", "all rows")
    assert champion.tags[EVALUATED_TAG] == evaluated.version
    assert version_by_alias(settings, repurchase.name, CHALLENGER).version == champion.version
    assert [len(data.labels) for data in fits] == [len(rows), len(rows)], (
        "the twin and the candidate, with the gap and the later rows"
    )
    assert all(data.q_ms.tolist() == sorted(rows["q_ms"]) for data in fits)
    first, second = (load_scorer(settings, repurchase.name, entry.version).native for entry in (evaluated, champion))
    assert first.current_iteration() == second.current_iteration() > 1, "no early stopping on rows that it learns"
    assert first.model_to_string() != second.model_to_string()
    again = fitted(training_data(repurchase, rows, evaluated=first))
    assert again.predict(fits[1].matrix).tolist() == second.predict(fits[1].matrix).tolist()

    loaded, load = list[str](), promotion.load_scorer
    monkeypatch.setattr(promotion, "load_scorer", lambda *arguments: loaded.append(arguments[-1]) or load(*arguments))
    next_report = promote(settings, repurchase, register(settings, first), rows, 0)
    assert loaded == [evaluated.version], "the next gate compares models that have not learnt the later rows"
    assert next_report.candidate == next_report.champion
    assert f"of version {champion.version}, as fitted before the evaluation," in next_report.reason


def test_a_champion_of_another_declaration_or_without_a_file_is_replaced(trained: tuple[Settings, str]) -> None:
    settings, version = trained
    rows = training_rows()
    other = replace(user_features, features=user_features.features[:3])
    client = MlflowClient(settings.mlflow_tracking_uri)
    client.set_registered_model_alias(repurchase.name, CHAMPION, register(settings, booster_of(rows), other))
    report = promote(settings, repurchase, version, rows)
    assert report.promoted
    assert "another version of the declaration" in report.reason

    lost = client.create_model_version(repurchase.name, str(settings.home / "nowhere"))
    client.set_model_version_tag(repurchase.name, lost.version, "group_fingerprint", user_features.fingerprint)
    client.set_registered_model_alias(repurchase.name, CHAMPION, lost.version)
    report = promote(settings, repurchase, version, rows)
    assert report.promoted
    assert "cannot be loaded" in report.reason


def test_a_champion_of_another_outcome_is_marked_and_in_the_plan_until_a_candidate_replaces_it(
    trained: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, version = trained
    rows, name = training_rows(), repurchase.name
    MlflowClient(settings.mlflow_tracking_uri).delete_registered_model_alias(name, CHAMPION)
    assert promote(settings, repurchase, version, rows).promoted
    champion = version_by_alias(settings, name, CHAMPION)
    assert champion is not None
    monkeypatch.setattr(plan, "runs", lambda *_: True)
    same = replace(repurchase, outcome=Outcome(where="event_type='PURCHASE'", within="168h"))
    others = [
        replace(repurchase, outcome=outcome)
        for outcome in (
            Outcome(where="event_type = 'PURCHASE'", within="14d"), Outcome(where="event_type = 'VIEW'", within="7d"), Labels(within="7d")
        )
    ]  # fmt: skip
    for model in (repurchase, same, *others):
        loaded = load_model(settings, model, name, champion.version, champion.tags)
        assert ("trained to predict an event of user_events" in loaded.fault) is (model in others), model.outcome
        [planned] = plan.model_plans(Project((user_events,), (user_features,), (model,)), settings)
        assert planned.settled is (model not in others)

    [longer, *_] = others
    refused = promote(settings, longer, version_of(settings, name, version).version, rows)
    assert not refused.promoted, "it is the champion of the other outcome"
    # The model of the other outcome may rank the new labels better by chance.
    shuffled = rows["label"].where(rows["split"] == "evaluation", rows["label"].sample(frac=1, random_state=1).to_numpy())
    candidate = train_models(settings, longer, rows.assign(label=shuffled), 3, None).candidate_version
    assert candidate is not None
    old = promote(settings, repurchase, candidate, rows)
    assert not old.promoted
    assert "trained on another version of the declaration" in old.reason
    report = promote(settings, longer, candidate, rows)
    assert report.promoted
    assert "another version of the declaration and cannot be compared" in report.reason
    champion = version_by_alias(settings, name, CHAMPION)
    assert champion is not None
    assert load_model(settings, longer, name, champion.version, champion.tags).fault == ""


def test_a_candidate_is_compared_on_rows_that_the_champion_has_not_learnt(trained: tuple[Settings, str]) -> None:
    settings, _ = trained
    client = MlflowClient(settings.mlflow_tracking_uri)
    client.delete_registered_model_alias(repurchase.name, CHAMPION)
    rows = training_rows()

    def split_at(boundary: int) -> pd.DataFrame:
        return rows.assign(split=np.where(rows["q_ms"] < boundary, "train", "evaluation"))

    first = train_models(settings, repurchase, split_at(950), 3, None).candidate_version
    assert first is not None
    assert promote(settings, repurchase, first, split_at(950)).promoted
    # Older events were loaded since, so the evaluation begins earlier than that of the champion.
    candidate = train_models(settings, repurchase, split_at(400), 4, None).candidate_version
    assert candidate is not None
    few = promote(settings, repurchase, candidate, split_at(400).query("q_ms < 1_100"))
    assert "cannot be compared on 150 later rows that the champion has not learnt" in few.reason
    report = promote(settings, repurchase, candidate, split_at(400))
    assert "on 250 later rows" in report.reason
    later = split_at(950).query("split == 'evaluation'")
    right = evaluate(
        repurchase.objective,
        later["label"].to_numpy(),
        load_scorer(settings, repurchase.name, first).predict(repurchase.vector.matrix(later)),
    )
    assert report.champion == pytest.approx(right)


def test_a_champion_stays_while_the_artifacts_cannot_be_read(
    trained: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = trained
    rows, artifacts = training_rows(), settings.home / "artifacts"
    client = MlflowClient(settings.mlflow_tracking_uri)
    champion, candidate = (register(settings, booster_of(rows, rounds)) for rounds in (30, 31))
    client.set_registered_model_alias(repurchase.name, CHAMPION, champion)

    def load_in_an_outage(*arguments: Any) -> Any:
        artifacts.rename(settings.home / "away")  # after the candidate was read
        return load_scorer(*arguments)

    monkeypatch.setattr("models.promotion.load_scorer", load_in_an_outage)
    try:
        with pytest.raises((OSError, MlflowException)):
            promote(settings, repurchase, candidate, rows, 0)
    finally:
        (settings.home / "away").rename(artifacts)
    assert alias(settings, repurchase.name) == champion


def alias(settings: Settings, name: str) -> str | None:
    champion = version_by_alias(settings, name, CHAMPION)
    return champion.version if champion else None


def artifact(settings: Settings, version: str) -> Path:
    """The file of a version's text."""
    source = MlflowClient(settings.mlflow_tracking_uri).get_model_version(repurchase.name, version).source
    [path] = (settings.home / "artifacts").rglob(f"*{source.rsplit('/', 1)[-1]}*/**/model.lgb")
    return path


def test_one_changed_byte_is_not_the_model_that_was_registered(trained: tuple[Settings, str]) -> None:
    settings, champion = trained
    rows = training_rows()
    MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(repurchase.name, CHAMPION, champion)
    version = train_models(settings, repurchase, rows, 3, None).candidate_version
    path = artifact(settings, version)
    data = bytearray(path.read_bytes())
    place = data.index(b"leaf_value=") + len(b"leaf_value=") + 4
    data[place] = ord("1") if data[place] != ord("1") else ord("2")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="digests differ"):
        load_scorer(settings, repurchase.name, version)
    report = promote(settings, repurchase, version, rows)
    assert not report.promoted
    assert "cannot be loaded: it is not the one that was registered" in report.reason
    assert alias(settings, repurchase.name) == champion


def test_what_somebody_else_has_registered_has_its_digest_from_its_promotion_on(trained: tuple[Settings, str]) -> None:
    settings, champion = trained
    client, name = MlflowClient(settings.mlflow_tracking_uri), repurchase.name
    client.set_registered_model_alias(name, CHAMPION, champion)
    own = register(settings, booster_of(training_rows()))
    assert DIGEST_TAG not in client.get_model_version(name, own).tags
    assert promote(settings, repurchase, own, training_rows()).promoted
    assert client.get_model_version(name, own).tags[DIGEST_TAG] == hashlib.sha256(artifact(settings, own).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"defects": 3}, "consistency has 3 defects"),
        ({"MAX_PREDICT_MS": 0.0}, "ms for one prediction; 0 are allowed"),
        ({"rows": training_rows().query("split == 'train'")}, "cannot be compared on 0 later rows"),
        ({"rows": training_rows().assign(label=0)}, "rows with different labels are needed"),
    ],
    ids=["defects", "slow", "no later rows", "one label"],
)
def test_a_candidate_is_refused_with_a_sentence(
    trained: tuple[Settings, str], change: dict, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, champion = trained
    client = MlflowClient(settings.mlflow_tracking_uri)
    client.set_registered_model_alias(repurchase.name, CHAMPION, champion)
    candidate = register(settings, booster_of(training_rows()))
    if "MAX_PREDICT_MS" in change:
        monkeypatch.setattr(promotion, "MAX_PREDICT_MS", change["MAX_PREDICT_MS"])
    report = promote(settings, repurchase, candidate, change.get("rows", training_rows()), change.get("defects", 0))
    assert not report.promoted
    assert says in report.reason
    assert (report.champion_version, alias(settings, repurchase.name)) == (champion, champion)
    assert client.get_model_version(repurchase.name, candidate).tags["promotion"] == report.reason


def test_a_candidate_of_other_features_is_refused(trained: tuple[Settings, str]) -> None:
    settings, _ = trained
    x, y = np.random.default_rng(1).random((300, 2)), np.arange(300) % 2
    other = lightgbm.train({"objective": "binary", "verbosity": -1}, lightgbm.Dataset(x, y, feature_name=["a", "b"]), 3)
    report = promote(settings, repurchase, register(settings, other), training_rows())
    assert not report.promoted
    assert "not the declared features" in report.reason


def test_a_candidate_that_is_better_at_the_cost_of_a_part_is_refused(trained: tuple[Settings, str]) -> None:
    settings, _ = trained
    rows = training_rows(4_500)
    source = np.random.default_rng(2)

    def blind(where: pd.Series, share: float) -> lightgbm.Booster:
        """A model that has learnt little where a part of the labels was drawn by chance."""
        drawn = where & (source.random(len(rows)) < share)
        return booster_of(rows.assign(label=np.where(drawn, source.integers(0, 2, len(rows)), rows["label"])), rounds=60)

    low = rows["events_last_hour"] <= rows["events_last_hour"].median()
    champion, candidate = register(settings, blind(low, 1.0)), register(settings, blind(~low, 0.8))
    MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(repurchase.name, CHAMPION, champion)
    report = promote(settings, repurchase, candidate, rows)
    assert report.candidate["auc"] > report.champion["auc"], "over all it is better"
    assert not report.promoted
    assert "worse where events_last_hour > " in report.reason
    [worse] = [part for part in report.slices if part.worse]
    assert worse.difference.high < 0
    assert {"it is a weekday", "avg_purchase_30d > 10"} & {part.name for part in report.slices}


@pytest.mark.parametrize("defects", [None, 0], ids=["nothing served was checked", "checked and right"])
def test_a_promotion_without_evidence_is_recorded_as_unproven(trained: tuple[Settings, str], defects: int | None) -> None:
    settings, champion = trained
    client = MlflowClient(settings.mlflow_tracking_uri)
    client.set_registered_model_alias(repurchase.name, CHAMPION, champion)
    candidate = train_models(settings, repurchase, training_rows(), 3, None).candidate_version
    assert candidate is not None
    report = promote(settings, repurchase, candidate, training_rows(), defects)
    tags = client.get_model_version(repurchase.name, candidate).tags
    assert report.promoted, "a first champion must come before the first answer"
    assert report.proven is (defects is not None)
    assert (tags[PROVEN_TAG], tags["promotion"]) == (str(report.proven).lower(), report.reason)
    assert (UNPROVEN in report.reason) is not report.proven


def test_the_twin_follows_the_champion_also_after_a_crash_between_the_two(
    trained: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = trained
    rows, client = training_rows(), MlflowClient(settings.mlflow_tracking_uri)
    client.delete_registered_model_alias(repurchase.name, CHAMPION)
    first, second = (train_models(settings, repurchase, rows, 3, None) for _ in range(2))
    assert promote(settings, repurchase, first.candidate_version, rows, twin_version=first.twin_version).promoted
    first_twin = version_by_alias(settings, TWIN, CHAMPION)
    assert first_twin.tags[EVALUATED_TAG] == first.twin_version
    first_champion = alias(settings, repurchase.name)

    move = MlflowClient.set_registered_model_alias

    def crash(self: MlflowClient, name: str, *rest: str) -> None:
        if name == TWIN and rest[-1] != first_twin.version:
            raise KeyboardInterrupt
        move(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", crash)
        with pytest.raises(KeyboardInterrupt):
            promote(settings, repurchase, second.candidate_version, rows, twin_version=second.twin_version)
    champion = version_by_alias(settings, repurchase.name, CHAMPION)
    assert (champion.tags[EVALUATED_TAG], alias(settings, TWIN)) == (second.candidate_version, first_twin.version)
    again = promote(settings, repurchase, second.candidate_version, rows, twin_version=second.twin_version)
    assert "champion already" in again.reason
    assert version_by_alias(settings, TWIN, CHAMPION).tags[EVALUATED_TAG] == second.twin_version

    make_champion(settings, repurchase.name, first_champion)  # `braid promote`, back and forth
    assert alias(settings, TWIN) == first_twin.version
    make_champion(settings, repurchase.name, champion.version)
    assert alias(settings, TWIN) == champion.tags[TWIN_TAG]

    client.set_registered_model_alias(repurchase.name, CHAMPION, first_champion)  # back, in MLflow
    worse = register(settings, booster_of(rows.assign(label=rows["label"].sample(frac=1, random_state=1).to_numpy())))
    assert not promote(settings, repurchase, worse, rows).promoted
    assert alias(settings, TWIN) == first_twin.version
