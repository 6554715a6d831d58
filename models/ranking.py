"""Compares two rankings by the area under the ROC curve (AUC), with a confidence interval of the difference. Pure.

The AUC is the share of (positive, negative) pairs that a model orders rightly. It depends on the order of the scores alone, so two
models that predict different horizons can be compared by it; a Brier score would favour the model with the smaller probabilities.
Answers about the same entity depend on each other, so the bootstrap draws entities, and takes all answers of each drawn entity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.tiles import runs

Array = npt.NDArray[Any]
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Difference:
    """The second AUC minus the first.

    Attributes:
        value: The difference.
        low: The lower end of its confidence interval.
        high: The upper end of its confidence interval.
        paired: Whether both models ranked the same answers.
    """

    value: float
    low: float
    high: float
    paired: bool

    @property
    def shown(self) -> bool:
        """Whether the confidence interval excludes 0, so that the data show a difference."""
        return self.low > 0 or self.high < 0


class Ranking:
    """Answers in the order of their scores. The three arrays have one element per answer.

    Args:
        entities: The entity that the answer is about.
        labels: 0 or 1.
        scores: The score that the model predicted.
    """

    def __init__(self, entities: Array, labels: Array, scores: Array) -> None:
        order = np.argsort(scores, kind="stable")
        names, of_answer = np.unique(entities, return_inverse=True)
        self.entities = len(names)
        self._entity, self._positive = of_answer[order], labels[order] == 1
        self._ties, _ = runs(scores[order])

    def auc(self, weights: Array | None = None) -> float:
        """The AUC; NaN where all labels are the same.

        Args:
            weights: One number per entity: how often each of the entity's answers counts; by default once.
        """
        weight = np.ones(self.entities)[self._entity] if weights is None else weights[self._entity]
        if not len(weight):
            return float("nan")
        positive = np.add.reduceat(np.where(self._positive, weight, 0), self._ties)
        negative = np.add.reduceat(np.where(self._positive, 0, weight), self._ties)
        pairs = positive.sum() * negative.sum()
        return float(positive @ (np.cumsum(negative) - negative / 2) / pairs) if pairs else float("nan")

    def redrawn(self, drawn: Array) -> float:
        """The AUC of a sample of entities.

        Args:
            drawn: Indices of the sampled entities; an index that occurs twice counts twice.
        """
        return self.auc(np.bincount(drawn, minlength=self.entities))


def auc_difference(first: Ranking, second: Ranking, paired: bool, confidence: float) -> Difference | None:
    """The second AUC minus the first, with an interval by scipy's bootstrap; None where one ranking has labels of one class only.

    Args:
        first: The baseline.
        second: The ranking that is compared with the baseline.
        paired: Whether both rankings have the same answers about the same entities; each bootstrap sample is then drawn for both.
        confidence: The confidence level of the interval, in (0, 1).
    """
    from scipy.stats import bootstrap

    value = second.auc() - first.auc()
    if np.isnan(value):
        return None
    draws = (np.arange(first.entities),) if paired else (np.arange(first.entities), np.arange(second.entities))

    def statistic(*drawn: Array) -> float:
        return second.redrawn(drawn[-1]) - first.redrawn(drawn[0])

    interval = bootstrap(
        draws,
        statistic,
        n_resamples=_RESAMPLES,
        vectorized=False,
        method="percentile",
        confidence_level=confidence,
        rng=np.random.default_rng(0),  # a fixed seed: the same data give the same interval
    ).confidence_interval
    if np.isnan(interval.low) or np.isnan(interval.high):
        return None
    return Difference(value, float(interval.low), float(interval.high), paired)
