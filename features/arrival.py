"""The order of arrival: of the copies of an event, which share an event id, the first to arrive counts.

An event arrives at `arrival_ms`, by the clock of whoever received it; of those of one millisecond the lower Kafka partition comes first,
within a partition the lower offset, and within a file that was loaded the earlier row. The order does not depend on how the input is cut
into files, micro-batches or partitions of a job. Every layer compares these columns, in this order: the batch layer as it appends to
`events`, the speed layer as it folds a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.aggregations import Ints

#: The columns to compare, most significant first; `offset` is the row's number in a file.
ARRIVAL_ORDER = ("arrival_ms", "partition", "offset")


def first_arrivals(identity: Sequence[Ints], arrival: Sequence[Ints]) -> Ints:
    """The indices of the events that count: of those whose `identity` columns are all equal, the one that arrived first.

    Args:
        identity: Columns of one length that say which events are copies.
        arrival: Columns of that length, ordered as `ARRIVAL_ORDER`.
    """
    order = np.lexsort((*reversed(arrival), *identity))
    first = np.zeros(len(order), dtype=bool)
    first[:1] = True
    for column in identity:
        first[1:] |= column[order][1:] != column[order][:-1]
    return order[first]
