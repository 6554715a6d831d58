"""Metrics and plots of scores against labels. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on the evaluation rows: area under the ROC curve, log loss, Brier score, average precision."""

    auc: float
    log_loss: float
    brier: float
    average_precision: float


def evaluate(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> Evaluation:
    """The metrics of scores in [0, 1] against labels 0 and 1."""
    from sklearn import metrics

    return Evaluation(
        float(metrics.roc_auc_score(labels, scores)),
        float(metrics.log_loss(labels, scores)),
        float(metrics.brier_score_loss(labels, scores)),
        float(metrics.average_precision_score(labels, scores)),
    )


def plots(labels: npt.NDArray[Any], scores: npt.NDArray[Any], gains: dict[str, float]) -> dict[str, bytes]:
    """PNG images by title: the ROC curve, the calibration curve, and the gain of each feature."""
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
    figure = Figure(figsize=(6, 0.4 * len(gains) + 1))
    figure.add_subplot(title="gain by feature").barh(list(gains), list(gains.values()))
    images["importance"] = png(figure)
    return images
