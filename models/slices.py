"""Compares a candidate with the champion on slices, which are parts of the evaluation rows, for the gate. All functions are pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.model import Model
from features.objective import Objective
from features.windows import DAY_MS
from models.evaluation import Criterion
from models.ranking import Difference, difference, measured

#: Objective → the criterion of a slice: the metric, and how much worse a candidate may be on the slice.
SLICE_CRITERIA = {
    Objective.BINARY: Criterion("auc", "AUC", 0.02),
    Objective.REGRESSION: Criterion("rmse", "RMSE", None, 0.1),
    Objective.MULTICLASS: Criterion("log_loss", "log loss", None, 0.1),
}
#: The smallest number of rows of a slice, and the confidence level at which a loss beyond the tolerance must be significant. The level is high
#: because the gate compares many slices: of twenty slices, one looks worse by chance.
MIN_SLICE, SLICE_CONFIDENCE = 400, 0.99
_WEEK_DAYS = 7


@dataclass(frozen=True)
class Slice:
    """A part of the evaluation rows, compared by the criterion of the objective.

    Attributes:
        name: The condition that the rows of the slice meet.
        rows: The number of rows.
        candidate: The candidate's value of the metric.
        champion: The champion's value of the metric.
        criterion: The criterion.
        difference: The candidate's value minus the champion's, with its interval; None if the candidate is within the tolerance.
    """

    name: str
    rows: int
    candidate: float
    champion: float
    criterion: Criterion
    difference: Difference | None = None

    @property
    def worse(self) -> bool:
        """Whether the candidate is worse than the tolerance allows on this slice, and significantly worse than the champion."""
        if self.difference is None:
            return False
        return self.difference.high < 0 if self.criterion.more_is_better else self.difference.low > 0

    @property
    def text(self) -> str:
        """The comparison in words."""
        return f"{self.criterion.words} {self.candidate:.4f} against {self.champion:.4f} on {self.rows} rows"


def slices_of(model: Model, later: pd.DataFrame, candidate: npt.NDArray[Any], champion: npt.NDArray[Any]) -> Iterator[Slice]:
    """Yields the compared slices that have enough rows: weekdays and weekends, the lower and upper half of each input, and its missing values.

    Args:
        model: The declaration.
        later: The evaluation rows.
        candidate: The predictions of the candidate for these rows, shape (rows,); for several classes, the predicted probability of the label
            (`evaluation.of_labels`).
        champion: The predictions of the champion, in the same form.
    """
    criterion, labels = SLICE_CRITERIA[model.objective], later["label"].to_numpy()
    entities = later["entity"].to_numpy()
    weekday = ((later["q_ms"] // DAY_MS + 3) % _WEEK_DAYS).to_numpy()  # 1970 began on a Thursday
    masks = {"it is a weekday": weekday < 5, "it is a weekend": weekday >= 5}
    for name in model.vector.column_names:
        values = later[name].astype("float64")
        middle = values.median()
        masks |= {
            f"{name} <= {middle:g}": (values <= middle).to_numpy(), f"{name} > {middle:g}": (values > middle).to_numpy(),
            f"{name} is missing": values.isna().to_numpy(),
        }  # fmt: skip
    for name, mask in masks.items():
        if mask.sum() < MIN_SLICE:
            continue
        new, old = (measured(model.objective, entities[mask], labels[mask], answers[mask]) for answers in (candidate, champion))
        new_value, old_value = new.value(), old.value()
        if np.isnan([new_value, old_value]).any():  # such as an AUC of labels that are all the same
            continue
        much_worse = criterion.worse({criterion.metric: new_value}, {criterion.metric: old_value})
        interval = difference(old, new, paired=True, confidence=SLICE_CONFIDENCE) if much_worse else None
        yield Slice(name, int(mask.sum()), new_value, old_value, criterion, interval)
