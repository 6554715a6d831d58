"""Trains a candidate model from the training set, and beside it a batch-only twin.

The candidate is trained on merged features; the twin is trained on the features that batch alone would have served. The difference
between the two evaluations shows what the speed layer is worth. Reads the rows of `training_set_{model}`; writes two runs and two
registered versions to MLflow: LightGBM's text format, signature, metrics on the evaluation rows, and plots.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.model import Model
from features.vector import FeatureVector, Matrix, vector_text
from infra.settings import Settings
from models.registry import CHALLENGER, DIGEST_TAG, batch_only_name, text_digest, tracking

_PARAMETERS = {
    "objective": "binary",
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
#: The smallest number of rows that a split needs for training or for evaluation.
MIN_ROWS = 200


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on the evaluation rows: area under the ROC curve, log loss, Brier score, average precision."""

    auc: float
    log_loss: float
    brier: float
    average_precision: float


@dataclass(frozen=True)
class TrainingReport:
    """The result of a training.

    Attributes:
        reason: Why no model was trained; empty after a training.
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
    view_version: int | None = None,
) -> TrainingReport:
    """Trains the candidate and its batch-only twin on one training set.

    The declaration of the model's input and the three versions below become tags of the registered versions.

    Args:
        settings: The settings that name the MLflow server.
        model: The declaration of the model.
        rows: The training set: columns `entity`, `q_ms`, `split`, `label`, the features, and the features with the prefix `batch_`.
        delta_version: The Delta version of the training set's table.
        code_version: The commit of the code, or None where the code has no repository.
        view_version: The current Delta version of the group's batch view; drift is measured against this version.
    """
    vector = model.vector
    counts = {split: rows.loc[rows["split"] == split, "label"] for split in ("train", "evaluation")}
    for split, labels in counts.items():
        if len(labels) < MIN_ROWS or labels.nunique() < 2:
            return TrainingReport(
                f"The {split} part has {len(labels)} rows of {labels.nunique()} classes; {MIN_ROWS} rows of both classes are needed."
            )
    tags = {
        "group": model.group.name,
        "group_fingerprint": model.group.fingerprint,
        "fingerprint": vector.fingerprint,
        "declaration": vector_text(vector),
        "training_set_version": str(delta_version),
    }
    if code_version:
        tags["code_version"] = code_version
    if view_version is not None:
        tags["view_version"] = str(view_version)
    candidate = _train(settings, vector, rows, "", model.name, tags)
    twin = _train(settings, vector, rows, "batch_", batch_only_name(model.name), tags)
    return TrainingReport("", candidate[0], twin[0], candidate[1], twin[1], candidate[2])


def evaluate(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> Evaluation:
    """The metrics of scores in [0, 1] against labels 0 and 1."""
    from sklearn import metrics

    return Evaluation(
        float(metrics.roc_auc_score(labels, scores)),
        float(metrics.log_loss(labels, scores)),
        float(metrics.brier_score_loss(labels, scores)),
        float(metrics.average_precision_score(labels, scores)),
    )


def fitted(inputs: Matrix, labels: npt.NDArray[Any], names: list[str]) -> Any:
    """The `lightgbm.Booster` of a training period, whose rows are in the order of time. Its last tenth stops the training."""
    import lightgbm

    cut = int(len(inputs) * 0.9)
    fit = lightgbm.Dataset(inputs[:cut], labels[:cut], feature_name=names)
    watch = lightgbm.Dataset(inputs[cut:], labels[cut:], reference=fit)
    return lightgbm.train(_PARAMETERS, fit, _ROUNDS, valid_sets=[watch], callbacks=[lightgbm.early_stopping(30, verbose=False)])


def _train(
    settings: Settings, vector: FeatureVector, rows: pd.DataFrame, prefix: str, name: str, tags: dict[str, str]
) -> tuple[str, Evaluation, dict[str, bytes]]:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import infer_signature

    train = rows[rows["split"] == "train"].sort_values(["q_ms", "entity"])
    later = rows[rows["split"] == "evaluation"].sort_values(["q_ms", "entity"])
    names = list(vector.names)
    booster = fitted(vector.matrix(train, prefix), train["label"].to_numpy(), names)
    x_later, y_later = vector.matrix(later, prefix), later["label"].to_numpy()
    scores = np.asarray(booster.predict(x_later, num_threads=2))
    evaluation = evaluate(y_later, scores)
    plots = _plots(y_later, scores, booster, names)

    with tracking(settings), _run(mlflow, name, tags):
        mlflow.log_params(
            {**_PARAMETERS, "rounds": booster.best_iteration, "train_rows": len(train), "evaluation_rows": len(later)}
        )
        mlflow.log_metrics(vars(evaluation))
        for title, figure in plots.items():
            _log_png(mlflow, title, figure)
        example = pd.DataFrame(x_later[:3], columns=names)
        info = mlflow.lightgbm.log_model(
            booster,
            name="model",
            signature=infer_signature(example, scores[:3]),
            input_example=example,
            # Without this list MLflow loads the model in a new process to find the packages, which takes most of the training's time.
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in ("mlflow", "lightgbm", "numpy", "pandas")],
        )
        metrics = {metric: f"{number:.6f}" for metric, number in vars(evaluation).items()}
        # The version and its tags in one call: no process ever sees the version without its tags.
        registered = mlflow.register_model(
            info.model_uri, name, tags={**tags, **metrics, DIGEST_TAG: text_digest(booster.model_to_string())}
        )
    version = str(registered.version)
    MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(name, CHALLENGER, version)
    return version, evaluation, plots


def _run(mlflow: Any, experiment: str, tags: dict[str, str]) -> Any:
    mlflow.set_experiment(experiment)
    return mlflow.start_run(tags=tags)


def _log_png(mlflow: Any, title: str, png: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{title}.png"
        path.write_bytes(png)
        mlflow.log_artifact(str(path), "plots")


def _plots(labels: npt.NDArray[Any], scores: npt.NDArray[Any], booster: Any, names: list[str]) -> dict[str, bytes]:
    """PNG images by title: the ROC curve, the calibration curve, and the gain of each feature."""
    from io import BytesIO

    from matplotlib.figure import Figure
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import roc_curve

    def png(figure: Figure) -> bytes:
        target = BytesIO()
        figure.savefig(target, format="png", dpi=90, bbox_inches="tight")
        return target.getvalue()

    images = {}
    for title, (x, y), (x_label, y_label) in (
        ("roc", roc_curve(labels, scores)[:2], ("false positive rate", "true positive rate")),
        ("calibration", calibration_curve(labels, scores, n_bins=10)[::-1], ("predicted", "observed")),
    ):
        figure = Figure(figsize=(4, 4))
        axes = figure.add_subplot()
        axes.plot(x, y, marker="." if title == "calibration" else None)
        axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        images[title] = png(figure)
    figure = Figure(figsize=(6, 0.4 * len(names) + 1))
    gains = booster.feature_importance("gain")
    figure.add_subplot(title="gain by feature").barh(names, gains)
    images["importance"] = png(figure)
    return images
