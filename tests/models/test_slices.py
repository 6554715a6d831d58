"""The slices of the gate for each objective: a part on which the candidate is worse is found, and chance is not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from braid import Labels, Model
from features.objective import Objective
from models.evaluation import evaluate, of_labels
from models.ranking import MeanError, difference, measured
from models.slices import slices_of
from tests.declarations import user_features

ROWS = 4_000


def rows_of(source: np.random.Generator) -> pd.DataFrame:
    rows = pd.DataFrame({name: source.integers(0, 20, ROWS).astype(float) for name in user_features.feature_names})
    rows["entity"], rows["q_ms"] = source.integers(0, 800, ROWS), np.arange(ROWS) * 300_000
    return rows


def answers(
    objective: Objective, source: np.random.Generator, rows: pd.DataFrame, noise: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The predictions of a model whose error is larger where the noise is; of classes the probability of the label."""
    error = source.normal(0, 1, ROWS) * noise
    if objective is Objective.REGRESSION:
        return rows["label"].to_numpy() + error
    if objective is Objective.BINARY:
        return rows["label"].to_numpy() + error
    return np.exp(-np.abs(error))


@pytest.mark.parametrize("objective", list(Objective))
def test_a_candidate_that_is_worse_on_a_part_is_found(objective: Objective) -> None:
    source = np.random.default_rng(3)
    model, rows = Model("sliced", (user_features,), Labels(), objective=objective), rows_of(source)
    labels = {
        Objective.BINARY: source.integers(0, 2, ROWS),
        Objective.REGRESSION: source.normal(0, 5, ROWS),
        Objective.MULTICLASS: source.choice(["few", "many"], ROWS),
    }
    rows["label"] = labels[objective]
    low = (rows["events_last_hour"] <= rows["events_last_hour"].median()).to_numpy()
    champion = answers(objective, source, rows, np.ones(ROWS))
    candidate = answers(objective, source, rows, np.where(low, 1.3, 0.3))
    slices = list(slices_of(model, rows, candidate, champion))
    worse = {part.name for part in slices if part.worse}
    assert {name.split(" <= ")[0] for name in worse} == {"events_last_hour"}
    assert len(slices) > 10
    again = answers(objective, source, rows, np.ones(ROWS))
    assert not [part for part in slices_of(model, rows, again, champion) if part.worse], "an equal model"


def test_the_measure_of_an_objective_is_that_of_the_evaluation() -> None:
    source = np.random.default_rng(4)
    entities, classes = source.integers(0, 40, 300), ("a", "b", "c")
    numbers = source.normal(0, 2, 300)
    guesses = numbers + source.normal(0, 1, 300)
    rmse = evaluate(Objective.REGRESSION, numbers, guesses)["rmse"]
    assert measured(Objective.REGRESSION, entities, numbers, guesses).value() == pytest.approx(rmse)
    labels = source.choice([*classes, "unknown"], 300)
    probabilities = source.dirichlet([1, 1, 1], 300)
    loss = evaluate(Objective.MULTICLASS, labels, probabilities, classes)["log_loss"]
    of_label = of_labels(labels, probabilities, classes)
    assert measured(Objective.MULTICLASS, entities, labels, of_label).value() == pytest.approx(loss)
    assert np.isnan(MeanError(np.array([]), np.array([])).value())


def test_errors_of_one_entity_are_drawn_together() -> None:
    source = np.random.default_rng(6)
    entities = np.repeat(np.arange(50), 40)
    shared = source.normal(0, 1, 50)[entities] ** 2
    first, second = MeanError(entities, shared), MeanError(entities, shared + 1)
    paired = difference(first, second, paired=True, confidence=0.95)
    assert paired is not None
    assert (paired.low, paired.high) == pytest.approx((1, 1))
    apart = difference(first, second, paired=False, confidence=0.95)
    assert apart is not None
    assert apart.high - apart.low > 0.5, "fifty entities are not two thousand answers"


def test_rows_of_a_single_entity_end_no_gate() -> None:
    source = np.random.default_rng(8)
    model, rows = Model("sliced", (user_features,), Labels()), rows_of(source).assign(entity=1)
    rows["label"] = source.integers(0, 2, ROWS)
    champion, candidate = rows["label"].to_numpy() + source.normal(0, 0.1, ROWS), source.random(ROWS)
    slices = list(slices_of(model, rows, candidate, champion))
    assert len(slices) > 10
    assert not [part for part in slices if part.worse], "one entity shows nothing of the others"
