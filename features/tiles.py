"""Tiles: the partials of one entity over one step of time, folded from events in columns.

Reads events as arrays sorted by (entity, ts); returns the partials of index ranges. Batch folds the days of the lake, speed the new events of
its micro-batches, and the training set the windows before each label, all by `Aggregation.fold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.aggregations import Ints, Partial, Series
from features.declaration import FeatureGroup
from features.packed import FORMAT, LOG_BOUND, TileValue, encode_log


def runs(*keys: npt.NDArray[Any]) -> tuple[Ints, Ints]:
    """Returns the index ranges [lo, hi) of the runs in which no key changes. All `keys` have the same length."""
    n = len(keys[0])
    if n == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    changed = np.zeros(n, dtype=bool)
    changed[0] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    lo = np.flatnonzero(changed)
    return lo, np.append(lo[1:], n)


def fold_ranges(group: FeatureGroup, inputs: Sequence[Series], lo: Ints, hi: Ints) -> list[list[Partial]]:
    """Folds the events of ranges. Returns the partials of the ranges for each feature: len(features) lists of len(lo) partials.

    Args:
        group: The declaration.
        inputs: One series per `group.inputs`, all over the same events.
        lo: First index of each range.
        hi: End of each range, exclusive.
    """
    return [
        feature.aggregation.fold(inputs[source], lo, hi) for feature, source in zip(group.features, group.input_of, strict=True)
    ]


def fold_tile_values(group: FeatureGroup, inputs: Sequence[Series], lo: Ints, hi: Ints) -> list[TileValue]:
    """Folds the events of ranges to speed tiles.

    Args:
        group: The declaration.
        inputs: One series per `group.inputs`, all over the same events.
        lo: First index of each range. A range has at least one event, and all its events belong to one entity and one tile, ascending by time.
        hi: End of each range, exclusive.

    Returns:
        One speed tile per range.
    """
    ts_ms = inputs[0].ts_ms
    range_of = np.repeat(np.arange(len(lo)), hi - lo)
    log_lo, log_hi = runs(range_of, ts_ms)
    instants = np.bincount(range_of[log_lo], minlength=len(lo))
    # Most tiles have one instant and need no log; folding a log for them as well would double the work.
    logged = (instants > 1) & (instants <= LOG_BOUND)
    kept = logged[range_of[log_lo]]
    log_lo, log_hi = log_lo[kept], log_hi[kept]
    entries = list(
        zip(ts_ms[log_lo].tolist(), map(list, zip(*fold_ranges(group, inputs, log_lo, log_hi), strict=True)), strict=True)
    )
    ends = np.cumsum(np.where(logged, instants, 0)).tolist()
    starts = [0, *ends[:-1]]
    partials = zip(*fold_ranges(group, inputs, lo, hi), strict=True)
    return [
        TileValue(FORMAT, group.fingerprint, first, last, list(whole), encode_log(entries[a:b]))
        for whole, first, last, a, b in zip(partials, ts_ms[lo].tolist(), ts_ms[hi - 1].tolist(), starts, ends, strict=True)
    ]
