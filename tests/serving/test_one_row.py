"""A row has the prediction that the booster gives for it in a matrix."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightgbm
import numpy as np
import pytest

from serving.one_row import one_row_scorer


def trained(objective: str, seed: int = 1, **more: Any) -> lightgbm.Booster:
    source = np.random.default_rng(seed)
    rows = source.normal(0, 10, (500, 4))
    rows[source.random(rows.shape) < 0.1] = np.nan
    labels = source.integers(0, more.get("num_class", 2), 500)
    parameters = {"objective": objective, "verbosity": -1, "num_threads": 1, "seed": seed, **more}
    return lightgbm.train(parameters, lightgbm.Dataset(rows, labels), 30)


@pytest.mark.parametrize("objective", ["binary", "regression"])
def test_the_prediction_of_a_row_is_equal_to_the_bit_in_every_thread(objective: str) -> None:
    booster = trained(objective)
    scorer = one_row_scorer(booster)
    assert scorer is not None
    rows = np.random.default_rng(2).normal(0, 20, (400, 4))
    rows[::7, 1], rows[::11, 2], rows[5, 3] = np.nan, 0.0, np.inf
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(scorer, rows.tolist())) == booster.predict(rows, num_threads=1).tolist()
    with pytest.raises(ValueError, match="takes 4 values, not 3"):
        scorer([1.0, 2.0, 3.0])


def test_models_come_and_go() -> None:
    for seed in range(20):
        booster = trained("binary", seed)
        scorer = one_row_scorer(booster)
        assert scorer is not None
        assert scorer([1, 2, 3, 4]) == booster.predict([[1, 2, 3, 4]])[0]
        del scorer
        gc.collect()


def test_a_model_of_several_scores_is_not_for_this_call() -> None:
    assert one_row_scorer(trained("multiclass", num_class=3)) is None
    assert one_row_scorer(object()) is None
