"""Finds the reason why a served value differs from the recomputed value: lag, late data, or a defect. Pure.

An answer at time q is made of two kinds of events, split by the batch_end in the answer:

    ts <  batch_end     events in the batch view: those that arrived before some instant, which lies before the view was built
    ts >= batch_end     events from the stream: those that arrived before some instant, which lies before the answer, except late events

Only bounds of these two instants are known, and of the lateness from which the stream dropped events. So every choice of instants and lateness is
tried, the usual ones first, up to a maximum number. A choice explains the answer if its visible events yield all served values that are not degraded,
not only the value that differs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, product

import numpy as np
import numpy.typing as npt

from features.aggregations import Ints, Series, Value
from features.declaration import FeatureGroup

#: The largest number of choices that are tried for one answer. If there are more and none of these explains the answer, its reason is not decided.
_TRIES = 10_000
_ALWAYS, _NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Reason(StrEnum):
    """The reason why a value differs; DEFECT if no choice of visible events explains the value, UNDECIDED if there are too many choices to try all."""

    LAG = "lag"
    LATE_DATA = "late data"
    DEGRADED = "degraded"
    UNDECIDED = "not decided"
    DEFECT = "defect"


@dataclass(frozen=True)
class Arrivals:
    """The events of one entity, ascending by event time. Each array has one element per event.

    Attributes:
        inputs: One series per input of the group.
        arrival_ms: The time at which the event arrived, in ms since 1970.
        behind_ms: The time of the newest event that had arrived on the stream before this event, minus the time of this event.
        streamed: Whether the event came from the stream. The other events were loaded from files; in Lambda only the batch layer has them.
    """

    inputs: list[Series]
    arrival_ms: Ints
    behind_ms: Ints
    streamed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answer:
    """A served answer.

    Attributes:
        at_ms: The instant as of which the features were computed.
        served_at_ms: The time of the answer.
        batch_end_ms: The batch_end in the answer; None if the group had no batch view.
        view_ms: Two instants between which the view was built. The view has every event that arrived before the first instant, and no
            event that arrived after the second.
        values: One value per feature of the group.
        degraded: The indices of the features that the answer names as degraded. Their values need no explanation.
    """

    at_ms: int
    served_at_ms: int
    batch_end_ms: int | None
    view_ms: tuple[int, int]
    values: list[Value]
    degraded: frozenset[int] = frozenset()


def explain(group: FeatureGroup, events: Arrivals, answer: Answer, lag_ms: int, watermark_ms: int) -> Reason:
    """Returns the reason why an answer differs from the recomputed features.

    Args:
        group: The declaration of the group.
        events: All events of the entity that are known now.
        answer: The answer.
        lag_ms: The longest allowed time from an event's arrival until the event is visible in answers.
        watermark_ms: The lateness up to which the stream accepts events.

    Returns:
        LATE_DATA if the answer lacks only events that arrived after the answer or that the next batch adds. LAG if the answer also
        lacks events that had arrived at most `lag_ms` before the answer. UNDECIDED if neither was found among the choices that were tried, and not all
        were. DEFECT otherwise.
    """
    ts_ms, arrival_ms = events.inputs[0].ts_ms, events.arrival_ms
    old = ts_ms < (_ALWAYS if answer.batch_end_ms is None else answer.batch_end_ms)
    late = events.streamed & (events.behind_ms >= watermark_ms)
    in_stream_by = _cuts(arrival_ms, answer.served_at_ms - lag_ms, answer.served_at_ms)
    in_view_by = _cuts(arrival_ms[old], *answer.view_ms)
    late_from = [_NEVER, *sorted(set(events.behind_ms[late].tolist()))]
    for stream_cut, view_cut, lateness in islice(_choices(in_stream_by, in_view_by, late_from), _TRIES):
        in_view = old & (arrival_ms < view_cut)
        in_stream = events.streamed & (arrival_ms < stream_cut) & (events.behind_ms < lateness)
        if answer.batch_end_ms is None:  # Kappa, whose histories contain the events that were loaded from files
            in_stream |= ~events.streamed & (arrival_ms < stream_cut)
        # If an entity has no view, the merge uses all tiles, also those before batch_end.
        visible = in_view | (in_stream & ~old) if in_view.any() else in_stream
        if agree(values_at(group, events.inputs, visible, answer.at_ms), answer.values, answer.degraded):
            return Reason.LATE_DATA if stream_cut == in_stream_by[0] else Reason.LAG
    return Reason.DEFECT if len(in_stream_by) * len(in_view_by) * len(late_from) <= _TRIES else Reason.UNDECIDED


def _choices(in_stream_by: list[int], in_view_by: list[int], late_from: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yields every choice. Choices by which the view lacks nothing come first, because an entity with many events has many choices by which it does."""
    yield from product(in_stream_by, in_view_by[:1], late_from)
    yield from product(in_stream_by, in_view_by[1:], late_from)


def agree(values: Sequence[Value], served: Sequence[Value], degraded: Collection[int]) -> bool:
    """Returns whether all values are equal, except those of the degraded features.

    Args:
        values: The recomputed values, one per feature.
        served: The served values, one per feature.
        degraded: The indices of the degraded features.
    """
    return all(index in degraded or pair[0] == pair[1] for index, pair in enumerate(zip(values, served, strict=True)))


def values_at(group: FeatureGroup, inputs: list[Series], visible: npt.NDArray[np.bool_], at_ms: int) -> list[Value]:
    """Returns the features as of an instant, computed from the visible events only."""
    ts_ms, end = inputs[0].ts_ms, int(np.searchsorted(inputs[0].ts_ms, at_ms))
    values: list[Value] = []
    for index, (feature, source) in enumerate(zip(group.features, group.input_of, strict=True)):
        begin = 0 if feature.window is None else int(np.searchsorted(ts_ms, feature.window.start_ms(at_ms)))
        whole, part = inputs[source], slice(begin, max(begin, end))
        series = Series(whole.ts_ms[part], whole.v[part], whole.valid[part] & visible[part])
        [partial] = feature.aggregation.fold(series, np.array([0]), np.array([len(series.ts_ms)]))
        values.append(feature.aggregation.finalize(partial, at_ms, group.scale_of(index)))
    return values


def _cuts(arrival_ms: Ints, first_ms: int, last_ms: int) -> list[int]:
    """Returns the instants to try as the end of arrival, descending: an event is visible if it arrived before that instant.

    With the first instant, every event that arrived by `last_ms` is visible. With the last instant, no event that arrived since `first_ms` is
    visible.
    """
    between = arrival_ms[(arrival_ms >= first_ms) & (arrival_ms <= last_ms)]
    return [last_ms + 1, *sorted(set(between.tolist()), reverse=True)]
