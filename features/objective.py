"""What a model predicts, and the function that fits it.

A declaration may name its own training function: it gets a `TrainingData` and gives a fitted model.
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
    """What a model predicts: the probability of label 1, a number, or the probability of each class."""

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
    def label_sql_type(self) -> str:
        """The type of a label in the training set."""
        return {Objective.BINARY: "INT", Objective.REGRESSION: "DOUBLE", Objective.MULTICLASS: "STRING"}[self]


@dataclass(frozen=True)
class TrainingData:
    """The rows that a model is fitted on, in the order of their time.

    A model is fitted twice. The first fit has the earlier rows, and the gate judges it on the later ones. A model that passes is fitted
    again on all rows; `evaluated` is then the model that has passed.

    Attributes:
        names: The inputs of the model.
        matrix: The values of the inputs, shape (rows, inputs).
        labels: The label of each row: 0 or 1, a number, or for several classes the place of its class in `classes`.
        q_ms: The time of each row, in milliseconds since 1970.
        objective: What the model predicts.
        classes: The classes of these rows, sorted; empty unless there are several classes.
        evaluated: None in the first fit. In the second fit the model of the first, as it was registered: a `lightgbm.Booster` or an
            `onnxruntime.InferenceSession`. Whatever the first fit has chosen by its last rows, such as the number of trees, the second
            takes over from it.
    """

    names: tuple[str, ...]
    matrix: npt.NDArray[np.float64]
    labels: npt.NDArray[Any]
    q_ms: npt.NDArray[np.int64]
    objective: Objective = Objective.BINARY
    classes: tuple[str, ...] = ()
    evaluated: Any = None


#: Fits a model to data: gives a `lightgbm.Booster`, an estimator of scikit-learn that skl2onnx converts, or an `onnx.ModelProto`.
Training = Callable[[TrainingData], Any]
