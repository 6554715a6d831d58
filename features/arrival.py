"""The order of arrival: of the copies of an event, which share an event id, the first to arrive counts.

`arrival_ms` is the time of arrival by the clock of the receiver: the Kafka broker, or the process that loads a file. Within one millisecond
the lower Kafka partition comes first, then the lower offset; for a loaded file the offset is the number of the row. So the order is the
same for every division of the input into files, micro-batches or partitions of a job. Every layer compares these columns in this order:
the batch layer when it appends to `events`, the speed layer when it folds a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.aggregations import Ints

#: The columns to compare, most significant first; `offset` is the row's number in a file.
ARRIVAL_ORDER = ("arrival_ms", "partition", "offset")


def first_arrivals(identity: Sequence[Ints], arrival: Sequence[Ints]) -> Ints:
    """The indices of the events that count: the first arrival of each set of events whose `identity` columns are all equal.

    Args:
        identity: Columns of equal length; events that agree in all of them are copies.
        arrival: Columns of the same length, ordered as `ARRIVAL_ORDER`.
    """
    order = np.lexsort((*reversed(arrival), *identity))
    first = np.zeros(len(order), dtype=bool)
    first[:1] = True
    for column in identity:
        first[1:] |= column[order][1:] != column[order][:-1]
    return order[first]
