"""The formats of registered models: LightGBM's text and ONNX. Neither contains code, so loading a model runs no foreign code.

Converts a fitted model to the content of a file, and the content of a file to a model in memory. An estimator of scikit-learn is converted to ONNX.
Metrics are computed with the model that is loaded again from its stored form, because that model is served.
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
#: The largest allowed difference between the predictions of an estimator and of its conversion for a row (for a regression, as a share of the
#: range of the predictions), and the largest allowed share of rows with a larger difference. Some rows may differ because an ONNX tree compares in
#: 32 bits: a value close to a threshold may fall on the other side of the threshold.
_DIFFERENCE, _DIFFERENT_ROWS = 1e-3, 0.01


@dataclass(frozen=True)
class StoredModel:
    """A model in the form in which it is registered.

    Attributes:
        format: `LIGHTGBM` or `ONNX`.
        data: The content of the model's file.
        facts: What the file does not contain: `objective`, `classes`, and for ONNX the `names` of the inputs. Empty for a LightGBM model that
            predicts one probability.
        native: The fitted `lightgbm.Booster` or `onnx.ModelProto`; None for a model that was read from the registry.
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
        names: The names of the inputs.
        objective: What the model predicts.
        classes: The classes, in the order of the columns of the predictions; empty unless the model predicts several classes.
        native: The `lightgbm.Booster` or the `onnxruntime.InferenceSession`.
    """

    names: tuple[str, ...]
    objective: Objective
    classes: tuple[str, ...]
    native: Any

    def predict(self, matrix: npt.NDArray[np.float64], threads: int = 1) -> npt.NDArray[Any]:
        """Predicts rows of inputs. Returns shape (rows,), or (rows, classes) for several classes.

        Args:
            matrix: The inputs, shape (rows, inputs).
            threads: The number of threads of a LightGBM model. An ONNX model uses one thread.
        """
        if not hasattr(self.native, "run"):
            return np.asarray(self.native.predict(matrix, num_threads=threads))
        [entry] = self.native.get_inputs()
        kind = np.float64 if "double" in entry.type else np.float32
        scores = np.asarray(self.native.run(None, {entry.name: matrix.astype(kind)})[-1], dtype=np.float64)
        return scores if self.objective is Objective.MULTICLASS else scores.reshape(len(matrix), -1)[:, -1]

    def fault(self, predictions: npt.NDArray[Any]) -> str:
        """Returns why predictions do not fit the objective, as a clause; empty if they fit."""
        if self.objective is Objective.REGRESSION:
            return "" if np.isfinite(predictions).all() else "the model gives no number"
        if self.objective is Objective.MULTICLASS and predictions.shape[1:] != (len(self.classes),):
            return f"the model does not give a probability for each of {len(self.classes)} classes"
        return "" if ((predictions >= 0) & (predictions <= 1)).all() else "the model gives no probabilities"


def stored_model(fit: Any, data: TrainingData) -> StoredModel:
    """Converts the result of a training function to the form in which it is registered.

    Args:
        fit: A `lightgbm.Booster`, an estimator of LightGBM or with scikit-learn's interface, or an `onnx.ModelProto`.
        data: The rows that the model was fitted on.

    Raises:
        BraidError: `fit` is of another type, cannot be converted, has other inputs or classes, or predicts other values after the conversion.
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
    """Returns the predictions of a stored model for the rows that it was fitted on.

    Raises:
        BraidError: The model cannot be loaded, has other inputs, or predicts what does not fit its objective. `kind` names the model in the error.
    """
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
    """Loads a stored model into memory.

    Raises:
        ValueError: The file cannot be read, is incomplete, or holds a LightGBM model of another kind than the objective.
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

    # LightGBM loads an incomplete text without an error, with the trees that the text contains.
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
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # serving predicts single rows in several processes
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # the runtime has one exception type per status, without a common base
        raise ValueError(f"ONNX Runtime cannot read the model: {str(error)[:200]}") from None


def _converted(estimator: Any, inputs: int) -> Any:
    """Converts an estimator to an `onnx.ModelProto`: with 64-bit inputs if ONNX Runtime has kernels for them, else with 32-bit inputs."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    fault = ""
    for kind in (DoubleTensorType, FloatTensorType):
        try:
            options = {"zipmap": False} if hasattr(estimator, "predict_proba") else None
            model = to_onnx(estimator, initial_types=[("inputs", kind([None, inputs]))], options=options)
            _session_of(model.SerializeToString())
            return model
        except Exception as error:  # noqa: BLE001  # a converter may raise any exception for an estimator of another library
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
