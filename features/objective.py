"""What a model predicts, and the function that fits it.

A declaration may name its own training function: it gets a `TrainingData` and gives a fitted model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TrainingData:
    """The rows that a model is fitted on, in the order of their time.

    A model is fitted twice. The first fit has the earlier rows, and the gate judges it on the later ones. A model that passes is fitted
    again on all rows; `evaluated` is then the model that has passed.

    Attributes:
        names: The inputs of the model.
        matrix: The values of the inputs, shape (rows, inputs).
        labels: The label of each row.
        q_ms: The time of each row, in milliseconds since 1970.
        evaluated: None in the first fit. In the second fit the model of the first, a `lightgbm.Booster`: whatever the first fit has chosen by
            its last rows, such as the number of trees, the second takes over from it.
    """

    names: tuple[str, ...]
    matrix: npt.NDArray[np.float64]
    labels: npt.NDArray[Any]
    q_ms: npt.NDArray[np.int64]
    evaluated: Any = None


#: Fits a model to data.
Training = Callable[[TrainingData], Any]
