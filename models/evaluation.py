"""Metrics and plots of predictions against labels, by objective, and what the gate asks of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.objective import Objective
from models.ranking import LEAST_PROBABILITY

#: Metric → its value.
Evaluation = dict[str, float]


class Criterion(NamedTuple):
    """How much worse a candidate may be by one metric than the champion, because the candidate knows newer data.

    Attributes:
        metric: The name of the metric.
        words: Its name in a sentence.
        difference: By how much it may be smaller; for a metric of which less is better None.
        share: By what share of the champion's it may be larger.
    """

    metric: str
    words: str
    difference: float | None
    share: float = 0.0

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return self.difference is not None

    def worse(self, candidate: Mapping[str, float], champion: Mapping[str, float]) -> bool:
        """Whether the candidate is worse than allowed."""
        new, old = candidate[self.metric], champion[self.metric]
        # Not by the opposite comparison: a metric that is no number is worse.
        return not (new <= old * (1 + self.share) if self.difference is None else new >= old - self.difference)


#: Objective → the criteria of the gate, the first of which is the one that people read.
CRITERIA = {
    Objective.BINARY: (Criterion("auc", "AUC", 0.002), Criterion("log_loss", "log loss", None, 0.02)),
    Objective.REGRESSION: (Criterion("rmse", "RMSE", None, 0.02), Criterion("mae", "MAE", None, 0.02)),
    Objective.MULTICLASS: (Criterion("log_loss", "log loss", None, 0.02), Criterion("accuracy", "accuracy", 0.005)),
}


def evaluate(
    objective: Objective, labels: npt.NDArray[Any], predictions: npt.NDArray[Any], classes: tuple[str, ...] = ()
) -> Evaluation:
    """The metrics of predictions.

    BINARY: area under the ROC curve, log loss, Brier score, average precision. REGRESSION: root of the mean squared error, mean absolute
    error, share of the explained variance. MULTICLASS: log loss, accuracy.

    Args:
        objective: What the model predicts.
        labels: The labels: 0 or 1, numbers, or the names of classes.
        predictions: As `models.formats.Scorer.predict` gives them.
        classes: The classes of the columns of the predictions. A label that is none of them counts as wrong.
    """
    from sklearn import metrics

    if objective is Objective.REGRESSION:
        numbers = labels.astype("float64")
        return {
            "rmse": float(metrics.root_mean_squared_error(numbers, predictions)),
            "mae": float(metrics.mean_absolute_error(numbers, predictions)),
            "r2": float(metrics.r2_score(numbers, predictions)),
        }
    if objective is Objective.MULTICLASS:
        guess = np.array(classes, dtype=object)[predictions.argmax(axis=1)]
        return {
            "log_loss": float(-np.log(np.maximum(of_labels(labels, predictions, classes), LEAST_PROBABILITY)).mean()),
            "accuracy": float((guess == labels).mean()),
        }
    return {
        "auc": float(metrics.roc_auc_score(labels, predictions)),
        "log_loss": float(metrics.log_loss(labels, predictions)),
        "brier": float(metrics.brier_score_loss(labels, predictions)),
        "average_precision": float(metrics.average_precision_score(labels, predictions)),
    }


def of_labels(labels: npt.NDArray[Any], predictions: npt.NDArray[Any], classes: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """The probability that each answer gives to its label; 0 for a label that is none of the classes.

    Args:
        labels: The names of classes.
        predictions: A row of probabilities per label.
        classes: The classes of the columns of the predictions.
    """
    each: npt.NDArray[np.float64] = predictions * (labels[:, None] == np.array(classes, dtype=object)[None, :])
    return each.sum(axis=1)


def plots(
    objective: Objective, labels: npt.NDArray[Any], predictions: npt.NDArray[Any], gains: Mapping[str, float]
) -> dict[str, bytes]:
    """PNG images by title, as the objective has them.

    For a probability they are the ROC curve and the calibration curve, for a number the observed against the predicted values; and the gain
    of each input where it is known.
    """
    from matplotlib.figure import Figure
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import roc_curve

    def png(figure: Figure) -> bytes:
        target = BytesIO()
        figure.savefig(target, format="png", dpi=90, bbox_inches="tight")
        return target.getvalue()

    images, curves = {}, []
    if objective is Objective.BINARY:
        curves = [
            ("roc", roc_curve(labels, predictions)[:2], ("false positive rate", "true positive rate"), "-"),
            ("calibration", calibration_curve(labels, predictions, n_bins=10)[::-1], ("predicted", "observed"), ".-"),
        ]
    elif objective is Objective.REGRESSION:
        curves = [("observed", (predictions, labels), ("predicted", "observed"), ".")]
    for title, (x, y), (x_label, y_label), style in curves:
        figure = Figure(figsize=(4, 4))
        axes = figure.add_subplot()
        axes.plot(x, y, style)
        low, high = (0, 1) if objective is Objective.BINARY else (float(np.min(y)), float(np.max(y)))
        axes.plot([low, high], [low, high], linestyle=":", color="grey")
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        images[title] = png(figure)
    if gains:
        figure = Figure(figsize=(6, 0.4 * len(gains) + 1))
        figure.add_subplot(title="gain by feature").barh(list(gains), list(gains.values()))
        images["importance"] = png(figure)
    return images
