"""Areas under ROC curves and their differences: the area is sklearn's, the interval tells the truth about chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.ranking import Ranking, difference

SEEDS = 120


def answers(source: np.random.Generator, users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(user, label, what a perfect model could know), several answers a user, which are alike."""
    user = np.repeat(np.arange(users), source.geometric(0.3, users))
    known = source.normal(0, 1, users)[user] + source.normal(0, 0.5, len(user))
    return user, (known + source.normal(0, 1, len(user)) > 0.5).astype(int), known


def test_the_area_is_that_of_sklearn_with_ties_and_weights() -> None:
    source = np.random.default_rng(1)
    for _ in range(20):
        user, label, score = source.integers(0, 50, 300), source.integers(0, 2, 300), source.integers(0, 20, 300) / 20
        ranking = Ranking(user, label, score)
        assert np.isclose(ranking.value(), roc_auc_score(label, score))
        place, drawn = np.unique(user, return_inverse=True)[1], source.integers(0, ranking.entities, (5, ranking.entities))
        expected = [roc_auc_score(label, score, sample_weight=np.bincount(some, minlength=50)[place]) for some in drawn]
        assert np.allclose(ranking.redrawn(drawn), expected)


def test_of_one_kind_of_label_there_is_no_area() -> None:
    single = Ranking(np.arange(3), np.ones(3), np.arange(3))
    assert np.isnan(single.value())
    assert np.isnan(Ranking(np.array([]), np.array([]), np.array([])).value())
    assert difference(single, single, paired=True, confidence=0.95) is None


def test_equal_models_differ_in_about_one_of_twenty_cases_also_where_users_answer_often() -> None:
    unpaired = paired = 0
    for seed in range(SEEDS):
        source = np.random.default_rng(seed)
        first, second = (
            Ranking(user, label, known + source.normal(0, 1, len(user)))
            for user, label, known in (answers(source, 100) for _ in range(2))
        )
        unpaired += difference(first, second, paired=False, confidence=0.95).shown
        user, label, known = answers(source, 100)
        first, second = (Ranking(user, label, known + source.normal(0, 1, len(user))) for _ in range(2))
        paired += difference(first, second, paired=True, confidence=0.95).shown
    # Five of a hundred, give or take three standard errors.
    assert 0.005 * SEEDS <= unpaired <= 0.1 * SEEDS
    assert 0.005 * SEEDS <= paired <= 0.1 * SEEDS


def test_pairs_show_a_difference_that_two_halves_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(5)
    user, label, known = answers(source, 300)
    good, poor = known + source.normal(0, 0.3, len(user)), known + source.normal(0, 0.9, len(user))
    pairs = difference(Ranking(user, label, poor), Ranking(user, label, good), paired=True, confidence=0.95)
    assert pairs.shown and pairs.value > 0
    half = user % 2 == 0
    first, second = (Ranking(user[mask], label[mask], score[mask]) for mask, score in ((half, poor), (~half, good)))
    apart = difference(first, second, paired=False, confidence=0.95)
    assert apart.high - apart.low > pairs.high - pairs.low
    for at_once in (1_000_000, 5_000, 1):  # all samples, some, and one
        monkeypatch.setattr("models.ranking._AT_ONCE", at_once)
        again = difference(first, second, paired=False, confidence=0.95)
        assert again == apart, "the same data give the same words"


def test_of_answers_about_a_single_entity_or_with_few_labels_of_a_class_there_is_no_interval() -> None:
    source = np.random.default_rng(7)
    label, good = np.arange(500) % 2, np.arange(500) % 2 + source.random(500)
    single = [Ranking(np.zeros(500), label, scores) for scores in (good, 1 - good)]
    assert single[1].value() - single[0].value() < -0.9
    assert difference(*single, paired=True, confidence=0.99) is None
    assert difference(single[0], Ranking(np.arange(500), label, good), paired=False, confidence=0.99) is None
    few = [Ranking(np.arange(500), np.arange(500) < 2, scores) for scores in (good, 1 - good)]
    assert difference(*few, paired=True, confidence=0.99) is None
