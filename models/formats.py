"""The formats of registered models: LightGBM's text and ONNX. Neither holds code, so loading a model runs none.

An estimator of scikit-learn is converted to ONNX. Metrics are those of the model as it is loaded again, because that model is served.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import BraidError
from features.objective import Objective, TrainingData

LIGHTGBM, ONNX = "lightgbm", "onnx"
#: LightGBM's objectives whose scores are probabilities.
_PROBABILITY = re.compile(r"^objective=(binary|cross_entropy)\b", re.MULTILINE)
_CLASSES = re.compile(r"^objective=multiclass num_class:", re.MULTILINE)
#: Beyond this difference, relative to the range of the predictions, a converted estimator predicts something else for a row; and the share
#: of rows for which a conversion may do so. An ONNX tree compares in 32 bits, so a value beside a threshold may fall on its other side.
_DIFFERENCE, _DIFFERENT_ROWS = 1e-3, 0.01


@dataclass(frozen=True)
class StoredModel:
    """A model as it is registered.

    Attributes:
        format: `LIGHTGBM` or `ONNX`.
        data: The content of the model's file.
        facts: What the file does not say: `objective`, `classes`, and for ONNX the `names` of the inputs. Empty for a LightGBM model with
            one probability as answer.
        native: The model that was fitted; None for a model that was read from the registry.
    """

    format: str
    data: bytes
    facts: Mapping[str, Any] = field(default_factory=dict)
    native: Any = None

    @property
    def digest(self) -> str:
        """The SHA-256 digest of the file and the facts."""
        facts = json.dumps(self.facts, sort_keys=True).encode() if self.facts else b""
        return hashlib.sha256(self.data + facts).hexdigest()


@dataclass(frozen=True)
class Scorer:
    """A model in memory.

    Attributes:
        names: The inputs.
        objective: What it predicts.
        classes: The classes, in the order of the columns of its predictions; empty unless it predicts several.
        native: The `lightgbm.Booster` or the `onnxruntime.InferenceSession`.
    """

    names: tuple[str, ...]
    objective: Objective
    classes: tuple[str, ...]
    native: Any

    def predict(self, matrix: npt.NDArray[np.float64], threads: int = 1) -> npt.NDArray[Any]:
        """The predictions for rows of inputs: shape (rows,), or (rows, classes)."""
        if not hasattr(self.native, "run"):
            return np.asarray(self.native.predict(matrix, num_threads=threads))
        [entry] = self.native.get_inputs()
        kind = np.float64 if "double" in entry.type else np.float32
        scores = np.asarray(self.native.run(None, {entry.name: matrix.astype(kind)})[-1], dtype=np.float64)
        return scores if self.objective is Objective.MULTICLASS else scores.reshape(len(matrix), -1)[:, -1]

    def fault(self, predictions: npt.NDArray[Any]) -> str:
        """What is wrong with predictions; empty for right ones."""
        if self.objective is Objective.REGRESSION:
            return "" if np.isfinite(predictions).all() else "the model gives no number"
        if self.objective is Objective.MULTICLASS and predictions.shape[1:] != (len(self.classes),):
            return f"the model does not give a probability for each of {len(self.classes)} classes"
        return "" if ((predictions >= 0) & (predictions <= 1)).all() else "the model gives no probabilities"


def stored_model(fit: Any, data: TrainingData) -> StoredModel:
    """What a training function has given, as it is registered.

    Args:
        fit: A `lightgbm.Booster`, LightGBM's or another estimator of scikit-learn's kind, or an `onnx.ModelProto`.
        data: The rows that it was fitted on.

    Raises:
        BraidError: It is none of these, cannot be converted, has other inputs or classes, or predicts something else once converted.
    """
    facts: dict[str, Any] = {} if data.objective is Objective.BINARY else {"objective": str(data.objective)}
    if data.classes:
        facts["classes"] = list(data.classes)
    estimator, fit = fit, getattr(fit, "booster_", fit)
    if hasattr(fit, "model_to_string"):
        stored = StoredModel(LIGHTGBM, fit.model_to_string().encode(), facts, fit)
    else:
        if not hasattr(fit, "SerializeToString"):
            fit = _converted(fit, len(data.names))
        facts |= {"objective": str(data.objective), "names": list(data.names)}
        stored = StoredModel(ONNX, fit.SerializeToString(), facts, fit)
    predictions = _predictions(stored, data, type(estimator).__name__)
    if estimator is not fit and hasattr(estimator, "predict"):
        _check_conversion(estimator, predictions, data)
    return stored


def _predictions(stored: StoredModel, data: TrainingData, kind: str) -> npt.NDArray[Any]:
    """The predictions of a stored model for the rows that it was fitted on; `kind` names it in an error."""
    try:
        scorer = scorer_of(stored)
        predictions = scorer.predict(data.matrix)
        fault = scorer.fault(predictions)
    except ValueError as error:
        fault = str(error)
    if not fault and scorer.names != data.names:
        fault = "its inputs have other names than the declared inputs"
    if fault:
        raise BraidError(
            f"The fitted {kind} cannot be served: {fault}.",
            "Fit it on all columns and labels of the training data, under their names.",
        )
    return predictions


def scorer_of(stored: StoredModel) -> Scorer:
    """A stored model in memory.

    Raises:
        ValueError: The file cannot be read or is incomplete, or its predictions are not what its objective is.
    """
    objective, classes = Objective(stored.facts.get("objective", "binary")), tuple(stored.facts.get("classes", ()))
    if stored.format == LIGHTGBM:
        booster = _booster_of(stored.data.decode(), objective)
        return Scorer(tuple(booster.feature_name()), objective, classes, booster)
    if "names" not in stored.facts:
        raise ValueError("the ONNX model does not say which inputs it has")
    return Scorer(tuple(stored.facts["names"]), objective, classes, _session_of(stored.data))


def _booster_of(text: str, objective: Objective) -> Any:
    import lightgbm

    # LightGBM loads an incomplete text without an error, with the trees that are there.
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        raise ValueError("the text of the model is not whole")
    pattern = {Objective.BINARY: _PROBABILITY, Objective.MULTICLASS: _CLASSES}.get(objective)
    if pattern and not pattern.search(text):
        raise ValueError("the model gives no probabilities")
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"LightGBM cannot read the model: {error}") from None


def _session_of(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a prediction is one row, and serving has its own processes
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # the runtime has an exception for each status, without a common base
        raise ValueError(f"ONNX Runtime cannot read the model: {str(error)[:200]}") from None


def _converted(estimator: Any, inputs: int) -> Any:
    """The `onnx.ModelProto` of an estimator: in 64 bits where ONNX Runtime has such kernels, else in 32."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    fault = ""
    for kind in (DoubleTensorType, FloatTensorType):
        try:
            options = {"zipmap": False} if hasattr(estimator, "predict_proba") else None
            model = to_onnx(estimator, initial_types=[("inputs", kind([None, inputs]))], options=options)
            _session_of(model.SerializeToString())
            return model
        except Exception as error:  # noqa: BLE001  # a converter may raise anything about an estimator of somebody else's
            fault = str(error).strip().split("\n", 1)[0][:200]
    raise BraidError(
        f"The fitted {type(estimator).__name__} cannot be converted to ONNX: {fault}",
        "Give a lightgbm.Booster, an estimator that skl2onnx supports, or an onnx.ModelProto.",
    )


def _check_conversion(estimator: Any, predictions: npt.NDArray[Any], data: TrainingData) -> None:
    if data.objective is Objective.REGRESSION:
        expected = np.asarray(estimator.predict(data.matrix), dtype=np.float64).reshape(len(predictions))
    else:
        expected = np.asarray(estimator.predict_proba(data.matrix), dtype=np.float64)
        expected = expected if data.objective is Objective.MULTICLASS else expected[:, -1]
    allowed = _DIFFERENCE * (np.ptp(expected) if data.objective is Objective.REGRESSION else 1)
    different = (np.abs(expected - predictions) > allowed).reshape(len(predictions), -1).any(axis=1).mean()
    if different > _DIFFERENT_ROWS:
        raise BraidError(
            f"The {type(estimator).__name__} predicts something else for {different:.0%} of the rows once it is converted to ONNX.",
            "Scale inputs with large values, such as times, in derived features or in the estimator's pipeline.",
        )
