"""Training and promotion, on MLflow's registry in SQLite: what is registered, what is refused, and who becomes champion."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from batch.promotion import promote
from batch.training import MIN_ROWS, matrix, train_models
from features.declaration import FeatureGroup
from features.definitions import user_features
from infra.registry import CHALLENGER, CHAMPION, load_booster, tracking, version_by_alias
from infra.settings import Settings

TWIN = "repurchase_batch_only"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("registry")
    settings = Settings(home=home, mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db")
    client = MlflowClient(settings.mlflow_tracking_uri)
    for name in (settings.model_name, TWIN):
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
    report = train_models(registry, user_features, training_rows(), 3, "abc123")
    assert report.candidate_version is not None, report.reason
    assert report.merged is not None
    assert report.batch_only is not None
    assert report.merged.auc > report.batch_only.auc > 0.5, "fresh features are worth something here"
    assert set(report.plots or {}) == {"roc", "calibration", "importance"}
    return registry, report.candidate_version


def register(settings: Settings, booster: lightgbm.Booster, group: FeatureGroup = user_features) -> str:
    """A version of somebody's own."""
    with tracking(settings):
        mlflow.set_experiment(settings.model_name)
        with mlflow.start_run():
            info = mlflow.lightgbm.log_model(booster, name="model", registered_model_name=settings.model_name, pip_requirements=[])
    version = str(info.registered_model_version)
    MlflowClient(settings.mlflow_tracking_uri).set_model_version_tag(
        settings.model_name, version, "group_fingerprint", group.fingerprint
    )
    return version


def booster_of(rows: pd.DataFrame, rounds: int = 30, **parameters: object) -> lightgbm.Booster:
    data = lightgbm.Dataset(matrix(user_features, rows), rows["label"].to_numpy(), feature_name=list(user_features.feature_names))
    return lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1, **parameters}, data, rounds)


def test_a_candidate_is_registered_as_text_with_where_it_is_from(trained: tuple[Settings, str]) -> None:
    settings, version = trained
    found = version_by_alias(settings, settings.model_name, CHALLENGER)
    assert found.version == version
    assert found.tags["group_fingerprint"] == user_features.fingerprint
    assert found.tags["training_set_version"] == "3"
    assert found.tags["code_version"] == "abc123"
    assert float(found.tags["auc"]) > 0.5
    booster = load_booster(settings, settings.model_name, version)
    assert tuple(booster.feature_name()) == user_features.feature_names
    with tracking(settings):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{settings.model_name}/{version}"))
    model = mlflow.models.Model.load(folder)
    assert [column.name for column in model.signature.inputs] == list(user_features.feature_names)
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".cloudpickle", ".skops")]
    plots = MlflowClient(settings.mlflow_tracking_uri).list_artifacts(found.run_id, "plots")
    assert {Path(plot.path).stem for plot in plots} == {"roc", "calibration", "importance"}
    assert version_by_alias(settings, TWIN, CHALLENGER) is not None
    assert "MLFLOW_TRACKING_URI" not in os.environ, "another home loaded in this process must not find this registry"


def test_a_matrix_has_the_defaults_that_serving_fills_in() -> None:
    rows = training_rows().head(30)
    names = user_features.feature_names
    values = rows[list(names)].astype(object).where(rows[list(names)].notna(), None)
    assert matrix(user_features, rows).tolist() == [user_features.model_input(one) for one in values.to_dict("records")]


def test_training_twice_gives_the_same_trees(trained: tuple[Settings, str]) -> None:
    settings, version = trained
    again = train_models(settings, user_features, training_rows(), 3, "abc123")
    assert again.candidate_version not in (None, version)
    texts = [load_booster(settings, settings.model_name, one).model_to_string() for one in (version, again.candidate_version)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("rows", [training_rows(MIN_ROWS), training_rows().assign(label=1)], ids=["few", "one class"])
def test_too_little_to_learn_from_is_told_and_not_raised(registry: Settings, rows: pd.DataFrame) -> None:
    report = train_models(registry, user_features, rows, 0, None)
    assert report.candidate_version is None
    assert "rows" in report.reason


def test_a_candidate_becomes_champion_by_being_no_worse(trained: tuple[Settings, str]) -> None:
    settings, version = trained
    rows = training_rows()
    client = MlflowClient(settings.mlflow_tracking_uri)
    first = promote(settings, user_features, version, rows)
    assert (first.promoted, first.champion_version) == (True, version)
    assert not promote(settings, user_features, version, rows).promoted

    worse = register(settings, booster_of(rows.assign(label=rows["label"].sample(frac=1, random_state=1).to_numpy())))
    refused = promote(settings, user_features, worse, rows)
    assert not refused.promoted
    assert "worse" in refused.reason
    assert version_by_alias(settings, settings.model_name, CHAMPION).version == version

    # The same ranking, but probabilities that hardly leave the middle.
    timid = register(settings, booster_of(rows, rounds=40, learning_rate=0.0005))
    shy = promote(settings, user_features, timid, rows)
    assert not shy.promoted
    assert shy.candidate is not None
    assert shy.champion is not None
    assert shy.candidate.log_loss > shy.champion.log_loss * 1.02

    good = register(settings, booster_of(rows))
    better = promote(settings, user_features, good, rows)
    assert better.promoted, better.reason
    assert "no worse" in better.reason
    assert client.get_model_version(settings.model_name, good).tags["promotion"] == better.reason


def test_a_champion_of_another_declaration_or_without_a_file_is_replaced(trained: tuple[Settings, str]) -> None:
    settings, version = trained
    rows = training_rows()
    other = replace(user_features, features=user_features.features[:3])
    client = MlflowClient(settings.mlflow_tracking_uri)
    client.set_registered_model_alias(settings.model_name, CHAMPION, register(settings, booster_of(rows), other))
    report = promote(settings, user_features, version, rows)
    assert report.promoted
    assert "another version of the declaration" in report.reason

    lost = client.create_model_version(settings.model_name, str(settings.home / "nowhere"))
    client.set_model_version_tag(settings.model_name, lost.version, "group_fingerprint", user_features.fingerprint)
    client.set_registered_model_alias(settings.model_name, CHAMPION, lost.version)
    report = promote(settings, user_features, version, rows)
    assert report.promoted
    assert "cannot be loaded" in report.reason
