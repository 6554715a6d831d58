"""Computes metrics and plots of predictions against labels, by objective, and defines the criteria of the gate. All functions are pure."""

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
    """A metric, and how much worse than the champion a candidate may be by it.

    The tolerance exists because the candidate knows newer data.

    Attributes:
        metric: The name of the metric.
        words: The name of the metric in a sentence.
        difference: How much smaller than the champion's value the candidate's value may be; None if smaller values are better.
        share: How much larger the candidate's value may be if smaller values are better, as a share of the champion's value.
    """

    metric: str
    words: str
    difference: float | None
    share: float = 0.0

    @property
    def more_is_better(self) -> bool:
        """Whether larger values of the metric are better."""
        return self.difference is not None

    def worse(self, candidate: Mapping[str, float], champion: Mapping[str, float]) -> bool:
        """Returns whether the candidate is worse than the tolerance allows.

        Args:
            candidate: Metric → the value of the candidate.
            champion: Metric → the value of the champion.
        """
        new, old = candidate[self.metric], champion[self.metric]
        # The negated comparison makes NaN count as worse.
        return not (new <= old * (1 + self.share) if self.difference is None else new >= old - self.difference)


#: Objective → the criteria of the gate. The first criterion is the metric that reports show.
CRITERIA = {
    Objective.BINARY: (Criterion("auc", "AUC", 0.002), Criterion("log_loss", "log loss", None, 0.02)),
    Objective.REGRESSION: (Criterion("rmse", "RMSE", None, 0.02), Criterion("mae", "MAE", None, 0.02)),
    Objective.MULTICLASS: (Criterion("log_loss", "log loss", None, 0.02), Criterion("accuracy", "accuracy", 0.005)),
}


def evaluate(
    objective: Objective, labels: npt.NDArray[Any], predictions: npt.NDArray[Any], classes: tuple[str, ...] = ()
) -> Evaluation:
    """Computes the metrics of predictions.

    BINARY: area under the ROC curve, log loss, Brier score, average precision. REGRESSION: root of the mean squared error, mean absolute
    error, share of the explained variance. MULTICLASS: log loss, accuracy.

    Args:
        objective: What the model predicts.
        labels: The labels: 0 or 1, numbers, or the names of classes.
        predictions: The result of `models.formats.Scorer.predict`, shape (rows,) or (rows, classes).
        classes: The classes of the columns of the predictions. A label outside these classes counts as wrong.
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
    """Returns the predicted probability of each label, shape (rows,); 0 for a label outside the classes.

    Args:
        labels: The names of classes.
        predictions: The probabilities, shape (rows, classes).
        classes: The classes of the columns of the predictions.
    """
    each: npt.NDArray[np.float64] = predictions * (labels[:, None] == np.array(classes, dtype=object)[None, :])
    return each.sum(axis=1)


def plots(
    objective: Objective, labels: npt.NDArray[Any], predictions: npt.NDArray[Any], gains: Mapping[str, float]
) -> dict[str, bytes]:
    """Draws the plots of an evaluation. Returns PNG images by title.

    BINARY: the ROC curve and the calibration curve. REGRESSION: the observed against the predicted values. Every objective: the gains, if known.

    Args:
        objective: What the model predicts.
        labels: The labels of the evaluation rows.
        predictions: The predictions for these rows.
        gains: Input of the model → its gain; empty if the gains are unknown.
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
