"""Trains a candidate and its batch-only twin from the training set; fits a candidate that passed the gate again on all rows.

The candidate is trained on merged features; the twin is trained on the features that batch alone would have served. The difference between the two
evaluations is the benefit of the speed layer. Reads the rows of the training set; writes runs and registered versions to MLflow: the model in its
format, signature, metrics on the evaluation rows, and plots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from features.model import Model
from features.objective import Objective, TrainingData
from features.vector import vector_text
from infra.settings import Settings
from models.evaluation import Evaluation, evaluate, plots
from models.formats import LIGHTGBM, StoredModel, scorer_of, stored_model
from models.registration import register
from models.registry import (
    ALL_ROWS,
    CHALLENGER,
    DIGEST_TAG,
    EVALUATED_TAG,
    FIT_TAG,
    HELD_OUT,
    LEARNT_TAG,
    OUTCOME_TAG,
    TABLE_TAG,
    RegisteredVersion,
    batch_only_name,
    load_scorer,
)

_PARAMETERS = {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 7,
    "num_threads": 2,
    "verbosity": -1,
}
_ROUNDS = 400
#: The smallest number of rows of the split `train` for a training, and of the split `evaluation` for an evaluation.
MIN_ROWS = 200


@dataclass(frozen=True)
class TrainingReport:
    """The result of a training.

    Attributes:
        reason: Why no model was trained; empty if a model was trained.
        candidate_version: The registered version of the candidate.
        twin_version: The registered version of the batch-only twin.
        merged: The evaluation of the candidate.
        batch_only: The evaluation of the twin.
        plots: PNG images of the candidate's evaluation by title.
    """

    reason: str
    candidate_version: str | None = None
    twin_version: str | None = None
    merged: Evaluation | None = None
    batch_only: Evaluation | None = None
    plots: dict[str, bytes] | None = None


def train_models(
    settings: Settings,
    model: Model,
    rows: pd.DataFrame,
    delta_version: int,
    code_version: str | None,
    view_versions: Mapping[str, int] | None = None,
    table: str | None = None,
) -> TrainingReport:
    """Trains the candidate and its batch-only twin on the training rows of a training set, and evaluates both on the evaluation rows.

    Both are registered with the alias `challenger`. The declaration of the model's input, the versions and the table become tags of the registered
    versions.

    Args:
        settings: The settings that name the MLflow server.
        model: The declaration of the model.
        rows: The training set: columns `entity`, `q_ms`, `split`, `label`, the features, and the features with the prefix `batch_`.
        delta_version: The Delta version of the training set's table.
        code_version: The commit of the code; None if the code is not in a git repository.
        view_versions: Group → the current Delta version of its batch view; drift is measured against these versions.
        table: The table of the training set; by default `training_set_{model}`.

    Raises:
        BraidError: The fitted model cannot be served (`models.formats.stored_model`).
    """
    vector = model.vector
    counts = {split: rows.loc[rows["split"] == split, "label"] for split in ("train", "evaluation")}
    for split, labels in counts.items():
        if len(labels) < MIN_ROWS or labels.nunique() < 2:
            return TrainingReport(
                f"The {split} part has {len(labels)} rows with {labels.nunique()} labels; {MIN_ROWS} rows with different labels are needed."
            )
    tags = {
        "group": model.group.name,
        "group_fingerprint": model.group.fingerprint,
        "fingerprint": vector.fingerprint,
        "declaration": vector_text(vector),
        "training_set_version": str(delta_version),
        TABLE_TAG: table or model.training_table,
        FIT_TAG: HELD_OUT,
        OUTCOME_TAG: model.outcome_meaning,
    }
    if code_version:
        tags["code_version"] = code_version
    if view_versions:
        tags["view_versions"] = json.dumps(dict(view_versions))
    candidate = _train(settings, model, rows, "", model.name, tags)
    twin = _train(settings, model, rows, "batch_", batch_only_name(model.name), tags)
    return TrainingReport("", candidate[0], twin[0], candidate[1], twin[1], candidate[2])


def fitted(data: TrainingData) -> Any:
    """Fits a `lightgbm.Booster`; the training function of a model that declares none.

    The first fit trains on the first nine tenths of the rows and stops early by the loss on the last tenth. The second fit trains on all rows,
    and has as many trees as the first.
    """
    import lightgbm

    names, parameters = list(data.names), {**_PARAMETERS, "objective": str(data.objective)}
    if data.classes:
        parameters["num_class"] = len(data.classes)
    if isinstance(data.evaluated, lightgbm.Booster):
        rows = lightgbm.Dataset(data.matrix, data.labels, feature_name=names)
        return lightgbm.train(parameters, rows, data.evaluated.current_iteration())
    cut = int(len(data.matrix) * 0.9)
    fit = lightgbm.Dataset(data.matrix[:cut], data.labels[:cut], feature_name=names)
    watch = lightgbm.Dataset(data.matrix[cut:], data.labels[cut:], reference=fit)
    return lightgbm.train(parameters, fit, _ROUNDS, valid_sets=[watch], callbacks=[lightgbm.early_stopping(30, verbose=False)])


def training_data(model: Model, rows: pd.DataFrame, prefix: str = "", evaluated: Any = None) -> TrainingData:
    """Converts rows of a training set to training data, sorted by time and entity.

    Args:
        model: The declaration.
        rows: The rows, in any order.
        prefix: "batch_" for the features that batch alone would have served.
        evaluated: The value of `TrainingData.evaluated`.
    """
    rows, vector, classes = rows.sort_values(["q_ms", "entity"]), model.vector, ()
    labels = rows["label"].to_numpy()
    if model.objective is Objective.MULTICLASS:
        known, labels = np.unique(labels.astype(str), return_inverse=True)
        classes = tuple(known.tolist())
    return TrainingData(
        vector.names, vector.matrix(rows, prefix), labels, rows["q_ms"].to_numpy(), model.objective, classes, evaluated
    )


def _fit(model: Model, data: TrainingData) -> tuple[StoredModel, dict[str, Any]]:
    """Fits a model by its training function. Returns the fitted model, and the parameters of its MLflow run."""
    function = model.training or fitted
    stored = stored_model(function(data), data)
    parameters: dict[str, Any] = {"training": f"{function.__module__}.{getattr(function, '__qualname__', function)}"}
    if model.training is None:
        parameters |= {**_PARAMETERS, "rounds": scorer_of(stored).native.current_iteration()}
    return stored, parameters


def _train(
    settings: Settings, model: Model, rows: pd.DataFrame, prefix: str, name: str, tags: dict[str, str]
) -> tuple[str, Evaluation, dict[str, bytes]]:
    from mlflow import MlflowClient

    data, objective = training_data(model, rows[rows["split"] == "train"], prefix), model.objective
    later = rows[rows["split"] == "evaluation"].sort_values(["q_ms", "entity"])
    matrix, labels = model.vector.matrix(later, prefix), later["label"].to_numpy()
    stored, parameters = _fit(model, data)
    scorer = scorer_of(stored)
    predictions = scorer.predict(matrix, threads=2)
    evaluation = evaluate(objective, labels, predictions, scorer.classes)
    gains = {}
    if stored.format == LIGHTGBM:
        gains = dict(zip(scorer.names, scorer.native.feature_importance("gain").tolist(), strict=True))
    images = plots(objective, labels, predictions, gains)
    metrics = {metric: f"{number:.6f}" for metric, number in evaluation.items()}
    counts = {"train_rows": len(data.labels), "evaluation_rows": len(labels)}
    tags = {**tags, **metrics, LEARNT_TAG: str(data.q_ms[-1])}
    version = register(settings, name, stored, matrix[:3], tags, parameters | counts, evaluation, images)
    MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(name, CHALLENGER, version)
    return version, evaluation, images


def fit_on_all_rows(
    settings: Settings, model: Model, rows: pd.DataFrame, name: str, evaluated: RegisteredVersion, tags: dict[str, str]
) -> str:
    """Fits an evaluated version again, on all rows of its training set, and registers the result. Returns the new version.

    The new version has the tags of the evaluated version, which include the metrics of the evaluation. Its tag `EVALUATED_TAG` is the number of the
    evaluated version.

    Args:
        settings: The settings that name the MLflow server.
        model: The declaration.
        rows: The training set of the evaluated version.
        name: The registered name of the model or of its batch-only twin.
        evaluated: The version that was evaluated.
        tags: Additional tags of the new version.

    Raises:
        BraidError: The fitted model cannot be served (`models.formats.stored_model`).
        ValueError: The evaluated version cannot be loaded.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    prefix = "" if name == model.name else "batch_"
    data = training_data(model, rows, prefix, load_scorer(settings, name, evaluated.version).native)
    stored, parameters = _fit(model, data)
    inherited = {tag: value for tag, value in evaluated.tags.items() if tag not in {DIGEST_TAG, FIT_TAG, "promotion"}}
    return register(
        settings, name, stored, data.matrix[-3:],
        {**inherited, FIT_TAG: ALL_ROWS, EVALUATED_TAG: evaluated.version, LEARNT_TAG: str(data.q_ms[-1]), **tags},
        parameters | {"train_rows": len(data.labels), "evaluation_rows": 0},
    )  # fmt: skip
