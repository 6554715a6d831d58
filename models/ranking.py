"""Rankings compared: areas under ROC curves, and how sure their difference is. Pure.

An AUC asks whether those who did were ranked before those who did not, whatever the model takes a probability to mean: it is fair
to models of another horizon, where a Brier score would favour the one that predicts less. Answers about one entity are not
independent, so the bootstrap draws entities, each with all of its answers.
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
    """How much larger the second AUC is than the first, and the interval of it; paired where both ranked the same answers."""

    value: float
    low: float
    high: float
    paired: bool

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out that there is none."""
        return self.low > 0 or self.high < 0


class Ranking:
    """Answers in the order of their scores.

    Args:
        entities: Whose answers they are.
        labels: 0 or 1.
        scores: What the model said.
    """

    def __init__(self, entities: Array, labels: Array, scores: Array) -> None:
        order = np.argsort(scores, kind="stable")
        names, of_answer = np.unique(entities, return_inverse=True)
        self.entities = len(names)
        self._entity, self._positive = of_answer[order], labels[order] == 1
        self._ties, _ = runs(scores[order])

    def auc(self, weights: Array | None = None) -> float:
        """The area, each answer counted as often as its entity's weight says; NaN where all labels are the same."""
        weight = np.ones(self.entities)[self._entity] if weights is None else weights[self._entity]
        if not len(weight):
            return float("nan")
        positive = np.add.reduceat(np.where(self._positive, weight, 0), self._ties)
        negative = np.add.reduceat(np.where(self._positive, 0, weight), self._ties)
        pairs = positive.sum() * negative.sum()
        return float(positive @ (np.cumsum(negative) - negative / 2) / pairs) if pairs else float("nan")

    def redrawn(self, drawn: Array) -> float:
        """The area after a draw of entities, with replacement."""
        return self.auc(np.bincount(drawn, minlength=self.entities))


def auc_difference(first: Ranking, second: Ranking, paired: bool, confidence: float) -> Difference | None:
    """The difference of the second's AUC to the first's, by scipy's bootstrap; None where either has labels of one kind alone.

    Args:
        first: The one that is compared with.
        second: The other.
        paired: Whether both have the same answers, with the same entities: each draw is then of both.
        confidence: Of the interval, in (0, 1).
    """
    from scipy.stats import bootstrap

    value = second.auc() - first.auc()
    if np.isnan(value):
        return None
    draws = (np.arange(first.entities),) if paired else (np.arange(first.entities), np.arange(second.entities))

    def statistic(*drawn: Array) -> float:
        return second.redrawn(drawn[-1]) - first.redrawn(drawn[0])

    # The same data give the same interval.
    found = bootstrap(
        draws, statistic, n_resamples=_RESAMPLES, vectorized=False, method="percentile", confidence_level=confidence,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return None if np.isnan(found.low) or np.isnan(found.high) else Difference(value, float(found.low), float(found.high), paired)
