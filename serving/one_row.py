"""Predicts one row with a LightGBM model, by LightGBM's C function for single rows.

`Booster.predict` prepares a matrix for each call, which takes ten times as long as the evaluation of the trees for one row.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

_DOUBLE, _NORMAL, _ALL_TREES = 1, 0, -1
_log = logging.getLogger("serving")


def one_row_scorer(booster: Any) -> Callable[[Sequence[float]], float] | None:
    """Returns a function from a row to the booster's prediction, which several threads may call at the same time.

    The result is None if the model is not a LightGBM model with one output, or if LightGBM's library has no such function. The function is compared
    with `Booster.predict` on one row first; if the predictions differ, the result is None, too.
    """
    import lightgbm

    if not isinstance(booster, lightgbm.Booster) or booster.num_model_per_iteration() != 1:
        return None
    try:
        scorer = _OneRow(booster)
        row = [0.5] * booster.num_feature()
        if scorer(row) == booster.predict([row], num_threads=1)[0]:
            return scorer
    except (ImportError, AttributeError, OSError) as error:
        _log.warning("rows are predicted as matrices (%s)", error)
    return None


class _OneRow:
    """A copy of a model in LightGBM's library, with the prepared settings of the function for single rows."""

    def __init__(self, booster: Any) -> None:
        from lightgbm.basic import _LIB  # type: ignore[attr-defined]  # the library as the package has loaded it

        self._model, self._call, iterations = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
        text, columns = booster.model_to_string().encode(), booster.num_feature()
        _check(_LIB.LGBM_BoosterLoadModelFromString(text, ctypes.byref(iterations), ctypes.byref(self._model)))
        weakref.finalize(self, _LIB.LGBM_BoosterFree, self._model).atexit = False
        _check(
            _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._model, _NORMAL, 0, _ALL_TREES, _DOUBLE, columns, b"num_threads=1", ctypes.byref(self._call)
            )
        )
        weakref.finalize(self, _LIB.LGBM_FastConfigFree, self._call).atexit = False  # the last finalizer runs first
        self._predict, self._row = _LIB.LGBM_BoosterPredictForMatSingleRowFast, ctypes.c_double * columns

    def __call__(self, row: Sequence[float]) -> float:
        score, count = ctypes.c_double(), ctypes.c_int64()
        # LightGBM does not check the length, and would read beyond the end of a shorter row.
        if len(row) != self._row._length_:
            raise ValueError(f"The model takes {self._row._length_} values, not {len(row)}.")
        _check(self._predict(self._call, self._row(*row), ctypes.byref(count), ctypes.byref(score)))
        return score.value


def _check(status: int) -> None:
    if status:
        raise OSError(f"LightGBM's library gives the status {status}")
