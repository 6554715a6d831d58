"""The objective of a model, and the interface of the function that fits it.

A declaration may name its own training function, which gets a `TrainingData` and returns a fitted model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from features.sources import ColumnType


class Objective(StrEnum):
    """The kind of a model's prediction: the probability of label 1, a number, or the probability of each class."""

    BINARY = "binary"
    REGRESSION = "regression"
    MULTICLASS = "multiclass"

    @property
    def label_type(self) -> ColumnType:
        """The type of a label in a file of labels."""
        return {
            Objective.BINARY: ColumnType.INT64,
            Objective.REGRESSION: ColumnType.DECIMAL,
            Objective.MULTICLASS: ColumnType.STRING,
        }[self]

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels that there are; empty where each value of the type is one."""
        return (0, 1) if self is Objective.BINARY else ()

    @property
    def label_sql_type(self) -> str:
        """The Spark SQL type of a label in the training set."""
        return {Objective.BINARY: "INT", Objective.REGRESSION: "DOUBLE", Objective.MULTICLASS: "STRING"}[self]


@dataclass(frozen=True)
class TrainingData:
    """The rows on which a model is fitted, in the order of their time.

    A model is fitted twice. The first fit has the earlier rows, and the gate evaluates it on the later rows. A model that passes the gate is
    fitted again on all rows; `evaluated` is then the model of the first fit.

    Attributes:
        names: The inputs of the model.
        matrix: The values of the inputs, shape (rows, inputs).
        labels: The label of each row, shape (rows,): 0 or 1, a number, or with the objective "multiclass" the index of its class in `classes`.
        q_ms: The time of each row, in ms since 1970, shape (rows,).
        objective: The kind of the prediction.
        classes: The classes of these rows, sorted, with the objective "multiclass"; else empty.
        evaluated: None in the first fit. In the second fit, the registered model of the first fit: a `lightgbm.Booster` or an
            `onnxruntime.InferenceSession`. The second fit takes from it the choices that the first fit made on its last rows, such as the
            number of trees.
    """

    names: tuple[str, ...]
    matrix: npt.NDArray[np.float64]
    labels: npt.NDArray[Any]
    q_ms: npt.NDArray[np.int64]
    objective: Objective = Objective.BINARY
    classes: tuple[str, ...] = ()
    evaluated: Any = None


#: A function that fits a model: it returns a `lightgbm.Booster`, an estimator of scikit-learn that skl2onnx converts, or an `onnx.ModelProto`.
Training = Callable[[TrainingData], Any]
