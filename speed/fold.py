"""The fold: what Spark's state holds of a tile, the list of its events, to the packed tile. Pure, in columns.

Reads Arrow batches of `speed.stream.tiles`; gives tiles for `speed.online` and `speed.offline`. Of events with one id the first
to arrive counts, as in the batch layer.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.aggregations import Ints, Series
from features.declaration import FeatureGroup
from features.packed import TileValue
from features.tiles import fold_tile_values


def fold_batch(group: FeatureGroup, batch: pa.RecordBatch) -> list[TileValue]:
    """One packed tile per row of the batch.

    Args:
        group: The declaration.
        batch: Rows with a column `events`: a list, never empty, of structs of id, arrival_ms, place, ts_ms and the group's inputs.
    """
    lists = batch.column("events")
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    columns = lists.flatten().flatten()
    row = np.repeat(np.arange(len(lengths)), lengths)
    identity, arrival_ms, place, ts_ms = (_integers(column) for column in columns[:4])
    kept = _first_arrivals(row, identity, arrival_ms, place)
    # Within a row ascending by time; rows stay where they are.
    kept = kept[np.lexsort((ts_ms[kept], row[kept]))]
    hi = np.cumsum(np.bincount(row[kept], minlength=len(lengths)))
    lo = np.append(0, hi[:-1])
    ordered_ms = ts_ms[kept]
    inputs = [
        Series(ordered_ms, (_texts(column) if one.text else _integers(column))[kept], _present(column)[kept])
        for one, column in zip(group.inputs, columns[4:], strict=True)
    ]
    return fold_tile_values(group, inputs, lo, hi)


def _first_arrivals(row: Ints, identity: Ints, arrival_ms: Ints, place: Ints) -> Ints:
    """The indices of the events that count: of one row and id the one that arrived first."""
    order = np.lexsort((place, arrival_ms, identity, row))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (row[order][1:] != row[order][:-1]) | (identity[order][1:] != identity[order][:-1])
    return order[first]


def _integers(column: pa.Array) -> Ints:
    return column.fill_null(0).to_numpy(zero_copy_only=False) if column.null_count else column.to_numpy()


def _texts(column: pa.Array) -> np.ndarray:
    return column.fill_null("").to_numpy(zero_copy_only=False)


def _present(column: pa.Array) -> np.ndarray:
    return column.is_valid().to_numpy(zero_copy_only=False)
