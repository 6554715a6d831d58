"""Registers a fitted model in MLflow: a run with its parameters, metrics and plots, and a version with its tags."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.settings import Settings
from models.formats import LIGHTGBM, StoredModel, scorer_of
from models.registry import DIGEST_TAG, FACTS, OBJECTIVE_TAG, tracking

#: Format → the packages that MLflow records as requirements of the model.
_PACKAGES = {"lightgbm": ("lightgbm", "numpy", "pandas"), "onnx": ("onnx", "onnxruntime", "numpy", "pandas")}


def register(
    settings: Settings,
    name: str,
    stored: StoredModel,
    example: npt.NDArray[np.float64],
    tags: Mapping[str, str],
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    plots: Mapping[str, bytes] | None = None,
) -> str:
    """Registers a fitted model in its format, with its signature. Returns the new version.

    Args:
        settings: The settings that name the MLflow server.
        name: The registered name, which is also the name of the MLflow experiment.
        stored: The stored model, with `native`.
        example: Some rows of the model's input, shape (rows, inputs).
        tags: Tags of the run and of the version.
        parameters: Parameters of the run.
        metrics: Metrics of the run.
        plots: PNG images of the run by title.

    Raises:
        MlflowException: The registry does not answer.
    """
    import mlflow
    from mlflow.models import infer_signature

    scorer = scorer_of(stored)
    tags = {**tags, OBJECTIVE_TAG: str(scorer.objective)}
    frame = pd.DataFrame(example, columns=list(scorer.names))
    common: dict[str, Any] = {
        "name": "model",
        # Without this list, MLflow loads the model in a new process to find its packages, which takes most of the time of a training.
        "pip_requirements": [f"{package}=={metadata.version(package)}" for package in ("mlflow", *_PACKAGES[stored.format])],
        "metadata": {FACTS: dict(stored.facts)} if stored.facts else None,
    }
    with tracking(settings):
        mlflow.set_experiment(name)
        with mlflow.start_run(tags=dict(tags)):
            mlflow.log_params(dict(parameters))
            mlflow.log_metrics(dict(metrics or {}))
            for title, image in (plots or {}).items():
                _log_png(mlflow, title, image)
            if stored.format == LIGHTGBM:
                signature = infer_signature(frame, scorer.predict(example))
                info = mlflow.lightgbm.log_model(stored.native, signature=signature, input_example=frame, **common)
            else:
                # The signature is that of a matrix: an ONNX model has one input, so column names would not match its inputs.
                signature = infer_signature(example, scorer.predict(example))
                info = mlflow.onnx.log_model(stored.native, signature=signature, save_as_external_data=False, **common)
            # One call writes the version and its tags, so no process sees the version without its tags.
            registered = mlflow.register_model(info.model_uri, name, tags={**tags, DIGEST_TAG: stored.digest})
    return str(registered.version)


def _log_png(mlflow: Any, title: str, png: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{title}.png"
        path.write_bytes(png)
        mlflow.log_artifact(str(path), "plots")
