"""The measures of `benchmarks.example_gain`: each is prepared once for some rows and scores, and then computed for many draws of days.

A measure gets rows with the columns `label` (0 or 1), `day` (from 0), `subject` (the entity of the model's first input) and, for rankings of lists,
`list_id`; and a score per row. It returns a function of the draw: how many times each day counts.

    average precision        the area under the curve of precision and recall
    recall at 1 % FPR        the share of the positives above the score that 1 % of the negatives exceed
    AUC                      the share of the pairs of a positive and a negative that are in the right order
    log loss                 the mean negative logarithm of the probability of the observed label; smaller is better
    calibration error        the mean distance between predicted and observed share, over ten bins by score; smaller is better
    subject precision@100    of the 100 subjects with the highest scores of a day, the share that had a positive on that day; mean over days
    NDCG@10                  the discounted gain of the first ten rows of a list, against the best order; mean over lists with a positive
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
#: The value of a measure for a draw: how many times each day counts.
OfDraw = Callable[[Floats], float]

FALSE_POSITIVES, SUBJECTS, BINS, FIRST = 0.01, 100, 10, 10


def _cumulated(rows: pd.DataFrame, scores: Floats) -> Callable[[Floats], tuple[Floats, Floats, Floats]]:
    """Prepares a function of the draw that returns the weights of the positives, and the cumulated positives and negatives, by descending score."""
    order = np.argsort(-scores, kind="stable")
    day, label = rows["day"].to_numpy()[order], rows["label"].to_numpy()[order] > 0

    def of_draw(times: Floats) -> tuple[Floats, Floats, Floats]:
        weights = times[day]
        positive = np.where(label, weights, 0.0)
        return positive, np.cumsum(positive), np.cumsum(weights - positive)

    return of_draw


def average_precision(rows: pd.DataFrame, scores: Floats) -> OfDraw:
    """Prepares the average precision."""
    cumulated = _cumulated(rows, scores)

    def of_draw(times: Floats) -> float:
        positive, true, false = cumulated(times)
        return float((true / np.maximum(true + false, 1e-9) * positive).sum() / true[-1]) if true[-1] else np.nan

    return of_draw


def recall(rows: pd.DataFrame, scores: Floats) -> OfDraw:
    """Prepares the recall at a false positive rate of `FALSE_POSITIVES`."""
    cumulated = _cumulated(rows, scores)

    def of_draw(times: Floats) -> float:
        _, true, false = cumulated(times)
        flagged = int(np.searchsorted(false, FALSE_POSITIVES * false[-1], side="right"))
        return float(true[min(flagged, len(true)) - 1] / true[-1]) if true[-1] else np.nan

    return of_draw


def auc(rows: pd.DataFrame, scores: Floats) -> OfDraw:
    """Prepares the area under the ROC curve. Equal scores are ordered as their rows, because the models hardly ever predict equal scores."""
    cumulated = _cumulated(rows, scores)

    def of_draw(times: Floats) -> float:
        positive, true, false = cumulated(times)
        return float(1 - (positive * false).sum() / true[-1] / false[-1]) if true[-1] and false[-1] else np.nan

    return of_draw


def log_loss(rows: pd.DataFrame, scores: Floats) -> OfDraw:
    """Prepares the log loss."""
    label, chance = rows["label"].to_numpy(), np.clip(scores, 1e-9, 1 - 1e-9)
    return _mean(rows["day"].to_numpy(), -np.log(np.where(label > 0, chance, 1 - chance)))


def calibration_error(rows: pd.DataFrame, scores: Floats) -> OfDraw:
    """Prepares the expected calibration error."""
    place = np.empty(len(scores), dtype=np.int64)
    place[np.argsort(scores, kind="stable")] = np.arange(len(scores)) * BINS // max(1, len(scores))
    day, difference = rows["day"].to_numpy(), rows["label"].to_numpy() - scores

    def of_draw(times: Floats) -> float:
        weights = times[day]
        return float(np.abs(np.bincount(place, weights * difference, minlength=BINS)).sum() / weights.sum())

    return of_draw


def subject_precision(rows: pd.DataFrame, scores: Floats) -> OfDraw:
    """Prepares the precision among the first `SUBJECTS` subjects of a day, or among all of a day with fewer."""
    scored = rows[["day", "subject", "label"]].assign(score=scores)
    per_subject = scored.groupby(["day", "subject"]).agg({"score": "max", "label": "max"})
    top = per_subject.sort_values("score", ascending=False, kind="stable").groupby("day").head(SUBJECTS)
    precision = top.groupby("day")["label"].mean()
    return _mean(precision.index.to_numpy(), precision.to_numpy())


def ndcg(rows: pd.DataFrame, scores: Floats) -> OfDraw:
    """Prepares the normalized discounted cumulative gain of the first `FIRST` rows of each list."""
    lists = (
        rows[["list_id", "day", "label"]]
        .assign(score=scores)
        .sort_values(["list_id", "score"], ascending=[True, False], kind="stable")
    )
    discount = 1 / np.log2(np.arange(2, FIRST + 2))
    place = lists.groupby("list_id").cumcount().to_numpy()
    gained = np.where(place < FIRST, lists["label"].to_numpy() * discount[np.minimum(place, FIRST - 1)], 0.0)
    grouped = lists.assign(gained=gained).groupby("list_id").agg({"gained": "sum", "label": "sum", "day": "first"})
    grouped = grouped[grouped["label"] > 0]
    best = np.cumsum(discount)[np.minimum(grouped["label"].to_numpy().astype(int), FIRST) - 1]
    return _mean(grouped["day"].to_numpy(), grouped["gained"].to_numpy() / best)


def _mean(day: npt.NDArray[np.int64], values: Floats) -> OfDraw:
    def of_draw(times: Floats) -> float:
        weights = times[day]
        return float(weights @ values / weights.sum()) if weights.any() else np.nan

    return of_draw


MEASURES: dict[str, Callable[[pd.DataFrame, Floats], OfDraw]] = {
    "average precision": average_precision,
    "recall at 1 % FPR": recall,
    "AUC": auc,
    "log loss": log_loss,
    "calibration error": calibration_error,
    "subject precision@100": subject_precision,
    "NDCG@10": ndcg,
}
