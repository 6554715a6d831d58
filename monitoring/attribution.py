"""Why a served value is not the right one: which of the entity's events the answer could not have seen. Pure.

Of the events before its time q an answer sees two kinds, cut by the batch_end that it names:

    ts <  batch_end     by the view: what had arrived shortly before the view was made
    ts >= batch_end     by the stream: what had arrived shortly before the answer, but for what came too late for the watermark

An explanation is a choice of those cuts for which the visible events give what was served, the whole vector of it: of one read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, product

import numpy as np
import numpy.typing as npt

from features.aggregations import Ints, Series, Value
from features.declaration import FeatureGroup

#: Choices of cuts that are tried for one answer.
_TRIES = 10_000
_ALWAYS, _NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Reason(StrEnum):
    """Why a value differs; DEFECT where nothing explains it."""

    LAG = "lag"
    LATE_DATA = "late data"
    DEGRADED = "degraded"
    DEFECT = "defect"


@dataclass(frozen=True)
class Arrivals:
    """The events of one entity, ascending by time.

    Attributes:
        inputs: One series per input of the group.
        arrival_ms: When each arrived.
        behind_ms: How far the newest event that the stream had seen by then was ahead of the end of the event's tile.
        streamed: Whether each came by the stream; the others were loaded, and are seen by the batch alone.
    """

    inputs: list[Series]
    arrival_ms: Ints
    behind_ms: Ints
    streamed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answer:
    """What was served.

    Attributes:
        at_ms: The instant that the values are of.
        served_at_ms: When it was served.
        batch_end_ms: Where batch ended and speed began; None without a batch.
        view_ms: Between which instants the view was made: what arrived before the first is in it, after the second is not.
        values: One per feature of the group.
    """

    at_ms: int
    served_at_ms: int
    batch_end_ms: int | None
    view_ms: tuple[int, int]
    values: list[Value]


def explain(group: FeatureGroup, events: Arrivals, answer: Answer, lag_ms: int, watermark_ms: int) -> Reason:
    """The reason for an answer that is not the right one.

    Args:
        group: The declaration.
        events: All that is known of the entity by now.
        answer: What was served.
        lag_ms: How long an event that has arrived may take to be visible.
        watermark_ms: How late the stream accepts.

    Returns:
        LATE_DATA where it is explained by events that arrived after the answer, or that waited for the next batch; LAG where also
        events are needed that had arrived by then, at most `lag_ms` before.
    """
    ts_ms, arrival_ms = events.inputs[0].ts_ms, events.arrival_ms
    old = ts_ms < (_ALWAYS if answer.batch_end_ms is None else answer.batch_end_ms)
    late = events.streamed & (events.behind_ms >= watermark_ms)
    in_stream_by = _cuts(arrival_ms, answer.served_at_ms - lag_ms, answer.served_at_ms)
    in_view_by = _cuts(arrival_ms[old], *answer.view_ms)
    late_from = [_NEVER, *sorted(set(events.behind_ms[late].tolist()))]
    for stream_cut, view_cut, lateness in islice(product(in_stream_by, in_view_by, late_from), _TRIES):
        in_view = old & (arrival_ms < view_cut)
        in_stream = events.streamed & (arrival_ms < stream_cut) & (events.behind_ms < lateness)
        # Of an entity without a view all tiles count.
        visible = in_view | (in_stream & ~old) if in_view.any() else in_stream
        if values_at(group, events.inputs, visible, answer.at_ms) == answer.values:
            return Reason.LATE_DATA if stream_cut == in_stream_by[0] else Reason.LAG
    return Reason.DEFECT


def values_at(group: FeatureGroup, inputs: list[Series], visible: npt.NDArray[np.bool_], at_ms: int) -> list[Value]:
    """The features at an instant, of the visible events alone."""
    ts_ms, end = inputs[0].ts_ms, int(np.searchsorted(inputs[0].ts_ms, at_ms))
    found: list[Value] = []
    for index, (feature, source) in enumerate(zip(group.features, group.input_of, strict=True)):
        begin = 0 if feature.window is None else int(np.searchsorted(ts_ms, feature.window.start_ms(at_ms)))
        one, part = inputs[source], slice(begin, max(begin, end))
        series = Series(one.ts_ms[part], one.v[part], one.valid[part] & visible[part])
        [partial] = feature.aggregation.fold(series, np.array([0]), np.array([len(series.ts_ms)]))
        found.append(feature.aggregation.finalize(partial, at_ms, group.scale_of(index)))
    return found


def _cuts(arrival_ms: Ints, first_ms: int, last_ms: int) -> list[int]:
    """The instants before which an event must have arrived to be visible: from all by `last_ms` down to none since `first_ms`."""
    between = arrival_ms[(arrival_ms >= first_ms) & (arrival_ms <= last_ms)]
    return [last_ms + 1, *sorted(set(between.tolist()), reverse=True)]
