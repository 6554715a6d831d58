"""Compares the answers of two models, with a confidence interval of the difference. All functions are pure.

Probabilities are compared by the area under the ROC curve (AUC), other predictions by their errors; `measured` returns the measure of an objective.

The AUC is the share of (positive, negative) pairs that a model orders correctly. It depends only on the order of the scores, so it can compare two
models that predict different horizons; a Brier score would favour the model with the smaller probabilities. Answers about the same entity depend on
each other, so the bootstrap draws entities and takes all answers of each drawn entity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from features.objective import Objective
from features.tiles import runs

Array = npt.NDArray[Any]
#: The smallest probability in the log loss, which a class outside the classes of a model has.
LEAST_PROBABILITY = 1e-15
_RESAMPLES = 1_000
#: The number of answers times samples that are in memory at once.
_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Difference:
    """The second value of the measure minus the first.

    Attributes:
        value: The difference.
        low: The lower end of the confidence interval of the difference.
        high: The upper end of the confidence interval of the difference.
        paired: Whether both values are computed from answers to the same requests.
    """

    value: float
    low: float
    high: float
    paired: bool

    @property
    def shown(self) -> bool:
        """Whether the confidence interval excludes 0, so that the data show a difference."""
        return self.low > 0 or self.high < 0


class Measured(Protocol):
    """A measure of answers, with its value on all answers and on samples of the entities."""

    @property
    def entities(self) -> int:
        """The number of entities."""

    @property
    def answers(self) -> int:
        """The number of answers."""

    def value(self) -> float:
        """Returns the value on all answers; NaN if the measure is undefined for these answers."""

    def redrawn(self, drawn: Array) -> Array:
        """Returns the value on each of many samples of entities, shape (samples,).

        Args:
            drawn: Indices of the sampled entities, shape (samples, entities); an index that occurs twice in a sample counts twice.
        """


class Ranking:
    """The AUC of answers. The three arrays have one element per answer.

    Args:
        entities: The entity that the answer is about.
        labels: 0 or 1.
        scores: The score that the model predicted.
    """

    def __init__(self, entities: Array, labels: Array, scores: Array) -> None:
        order = np.argsort(scores, kind="stable")
        names, of_answer = np.unique(entities, return_inverse=True)
        self.entities, self.answers = len(names), len(entities)
        self._entity, self._positive = of_answer[order], labels[order] == 1
        self._ties, _ = runs(scores[order])

    def value(self) -> float:
        """Returns the AUC of all answers; NaN if all labels are the same."""
        return float(self._auc(np.ones((1, self.entities), np.int64))[0])

    def redrawn(self, drawn: Array) -> Array:
        """Returns the AUC on samples of entities, as specified by `Measured.redrawn`."""
        return self._auc(np.stack([np.bincount(sample, minlength=self.entities) for sample in drawn]))

    def _auc(self, weights: Array) -> Array:
        """Returns the AUC of each sample; `weights` is how often each answer of an entity counts, shape (samples, entities)."""
        if not self.answers:
            return np.full(len(weights), np.nan)
        weight = weights[:, self._entity]
        positive = np.add.reduceat(np.where(self._positive, weight, 0), self._ties, axis=1)
        negative = np.add.reduceat(np.where(self._positive, 0, weight), self._ties, axis=1)
        ordered = (positive * (np.cumsum(negative, axis=1) - negative / 2)).sum(axis=1)
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return np.divide(ordered, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


class MeanError:
    """The mean error of answers. The arrays have one element per answer.

    Args:
        entities: The entity that the answer is about.
        errors: The error of the answer.
        root: Whether the value is the square root of the mean, as for squared errors.
    """

    def __init__(self, entities: Array, errors: Array, root: bool = False) -> None:
        names, of_answer = np.unique(entities, return_inverse=True)
        self.entities, self.answers, self._root = len(names), len(entities), root
        self._answers = np.bincount(of_answer, minlength=self.entities)
        self._sums = np.bincount(of_answer, weights=errors, minlength=self.entities)

    def value(self) -> float:
        """Returns the mean error of all answers; NaN without answers."""
        return float(self.redrawn(np.arange(self.entities)[np.newaxis])[0])

    def redrawn(self, drawn: Array) -> Array:
        """Returns the mean error on samples of entities, as specified by `Measured.redrawn`."""
        answers = self._answers[drawn].sum(axis=1)
        mean = np.divide(self._sums[drawn].sum(axis=1), answers, out=np.full(len(answers), np.nan), where=answers > 0)
        return np.asarray(np.sqrt(mean) if self._root else mean)


def measured(objective: Objective, entities: Array, labels: Array, predictions: Array) -> Measured:
    """Returns the measure of an objective for answers: the AUC of probabilities, the RMSE of numbers, the log loss of several classes.

    The arrays have the shape (answers,).

    Args:
        objective: What the model predicts.
        entities: The entity of each answer.
        labels: The label of each answer.
        predictions: The prediction of each answer; for several classes, the predicted probability of the label.
    """
    if objective is Objective.BINARY:
        return Ranking(entities, labels, predictions)
    if objective is Objective.REGRESSION:
        return MeanError(entities, (predictions - labels.astype("float64")) ** 2, root=True)
    return MeanError(entities, -np.log(np.maximum(predictions.astype("float64"), LEAST_PROBABILITY)))


def difference(first: Measured, second: Measured, paired: bool, confidence: float) -> Difference | None:
    """Returns the second value minus the first, with a confidence interval from scipy's bootstrap.

    The result is None if one of them has no value, such as an AUC of one class, or if the answers are too few for an interval: about a single entity,
    or with so few labels of a class that a sample has none of them.

    Args:
        first: The measure of the baseline.
        second: The measure that is compared with the baseline.
        paired: Whether both measures are of answers to the same requests. Each bootstrap sample of entities is then used for both measures.
        confidence: The confidence level of the interval, in (0, 1).
    """
    from scipy.stats import bootstrap

    value = second.value() - first.value()
    if np.isnan(value) or min(first.entities, second.entities) < 2:  # of one entity there is one sample
        return None
    draws = (np.arange(first.entities),) if paired else (np.arange(first.entities), np.arange(second.entities))

    at_once = max(1, _AT_ONCE // max(first.answers, second.answers))

    def statistic(*drawn: Array, axis: int) -> Array:
        assert axis == -1, "a sample is a row"
        # The `batch` of scipy would bound the memory as well, but the draws, and hence the interval, would depend on it.
        parts = [slice(begun, begun + at_once) for begun in range(0, len(drawn[0]), at_once)]
        return np.concatenate([second.redrawn(drawn[-1][part]) - first.redrawn(drawn[0][part]) for part in parts])

    interval = bootstrap(
        draws,
        statistic,
        n_resamples=_RESAMPLES,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        rng=np.random.default_rng(0),  # a fixed seed: the same data give the same interval
    ).confidence_interval
    if np.isnan(interval.low) or np.isnan(interval.high):
        return None
    return Difference(value, float(interval.low), float(interval.high), paired)
