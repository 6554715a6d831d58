"""The merge of many entities at one instant, equal to `features.merge.merge` of each entity. Work that the entities share is done once.

Reads decoded batch views and speed values; returns the features. This module computes the ordinary case: a batch has been published, no speed
tile after batch_end is missing, and every tile and every tail has the instants at which it must be cut. For all other cases it calls `merge`,
which defines the results.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from features.aggregations import Partial, Value
from features.declaration import FeatureGroup
from features.merge import BEGINNING_MS, EVER_MS, Merged, beyond_the_buffer, merge, missing_tiles
from features.packed import BatchValue, FeatureView, HistoryView, TileValue
from features.speed_tiles import Pieces, PiecesMerged, SpeedTiles
from features.speed_value import Column, layout_of
from features.view import exact_partial
from features.windows import Window

_NO_PIECES = Pieces(BEGINNING_MS)
_NO_REASONS: Mapping[str, Sequence[int]] = {}


class _Feature(NamedTuple):
    """The data to finish the values of a feature: `value` and `empty` of its aggregation, and the scale of its input."""

    value: Any
    empty: Any
    scale: int


class _Plan(NamedTuple):
    """The data that all merges of a version of a group share.

    Attributes:
        columns: For each feature, the place of its partial in the entry of a speed tile.
        windows: The window of each feature.
        features: For each feature, the data to finish its values.
        ageing: The indices of the features whose value changes with q (`Aggregation.ages`).
        exact: The indices of the features with an exact window.
    """

    columns: Sequence[Column]
    windows: Sequence[Window | None]
    features: Sequence[_Feature]
    ageing: Sequence[int]
    exact: Sequence[int]


_plans: dict[str, _Plan] = {}


def _plan_of(group: FeatureGroup) -> _Plan:
    plan = _plans.get(group.fingerprint)
    if plan is None:
        windows, aggregations = [feature.window for feature in group.features], [feature.aggregation for feature in group.features]
        plan = _plans[group.fingerprint] = _Plan(
            layout_of(group).columns,
            windows,
            [_Feature(of.value, of.empty, group.scale_of(index)) for index, of in enumerate(aggregations)],
            [index for index, of in enumerate(aggregations) if of.ages],
            [index for index, window in enumerate(windows) if window is not None and window.exact],
        )
    return plan


class ManyMerge:
    """Merges any number of entities at one instant.

    Args:
        group: The declaration.
        q_ms: The time of the request, in ms since 1970.
        batch_end_ms: The group's batch_end in ms, for an entity without a view; None if no batch has been published, `EVER_MS` in Kappa.
        complete_since_ms: The instant from which on the speed tiles contain every event; None if no event is missing.
    """

    def __init__(
        self, group: FeatureGroup, q_ms: int, batch_end_ms: int | None = None, complete_since_ms: int | None = None
    ) -> None:
        self._group, self._q_ms, self._batch_end_ms, self._complete_since_ms = group, q_ms, batch_end_ms, complete_since_ms
        self._columns, self._windows, self._features, self._ageing, self._exact = _plan_of(group)
        self._windows_ms = tuple([BEGINNING_MS if window is None else window.start_ms(q_ms) for window in self._windows])
        self._reasons: dict[int, Mapping[str, Sequence[int]]] = {}
        self._beyond_of: dict[int, list[int]] = {}

    def __call__(self, batch: BatchValue | None, tiles: Iterable[TileValue]) -> Merged:
        """Computes the features of an entity. Arguments and errors are those of `merge`."""
        merged = self._ordinary(batch, tiles)
        if merged is not None:
            return merged
        since_ms = self._complete_since_ms
        if isinstance(tiles, SpeedTiles):
            since_ms = tiles.dropped_ms if since_ms is None else max(since_ms, tiles.dropped_ms)
        return merge(self._group, batch, tiles, self._q_ms, self._batch_end_ms, since_ms)

    def _ordinary(self, batch: BatchValue | None, tiles: Iterable[TileValue]) -> Merged | None:
        q_ms, newest_ms = self._q_ms, None
        end_ms, cut_ms = self._batch_end_ms, BEGINNING_MS
        if batch is not None:
            end_ms = cut_ms = batch.batch_end_ms
            newest_ms = batch.newest_event_ms
            if isinstance(batch, HistoryView):
                end_ms = EVER_MS
            if self._exact and any(batch.features[index].by_tile for index in self._exact):
                return None
        if end_ms is None or q_ms < end_ms or q_ms < cut_ms:
            return None
        pieces = _NO_PIECES
        if isinstance(tiles, SpeedTiles):
            if tiles.dropped_ms > end_ms:
                return None
            cut = tiles.pieces(cut_ms, q_ms)
            if cut is None:
                return None
            pieces = cut
            if pieces.tiles:
                newest_ms = pieces.last_ms
        elif tiles:
            return None
        values = self._values(batch, cut_ms, pieces)
        reasons = self._reasons.get(end_ms)
        if reasons is None:
            reasons = self._reasons[end_ms] = self._missing(end_ms)
        if batch is not None and q_ms > cut_ms + self._group.buffer_ms:
            lost = [index for index in self._beyond(cut_ms) if batch.features[index].collapsed is not None]
            reasons = {beyond_the_buffer(self._group): lost, **reasons} if lost else reasons
        return Merged(values, None if end_ms == EVER_MS else end_ms, newest_ms, pieces.tiles, reasons)

    def _values(self, batch: BatchValue | None, cut_ms: int, pieces: Pieces) -> Sequence[Value]:
        """Returns the value of each feature. The last merge of the pieces is reused if it has the same view and the same window starts."""
        last = pieces.merged
        if last is None or last.batch is not batch or last.windows_ms != self._windows_ms:
            partials = self._partials(batch, cut_ms, pieces, last)
            values = [self._value(index, partial) for index, partial in enumerate(partials)]
            if pieces.entries:
                pieces.merged = PiecesMerged(batch, self._windows_ms, partials, values)
            return values
        if not self._ageing:
            return last.values
        values = [*last.values]
        for index in self._ageing:
            values[index] = self._value(index, last.partials[index])
        return values

    def _value(self, index: int, partial: Partial) -> Value:
        value, empty, scale = self._features[index]
        return empty if partial is None else value(partial, self._q_ms, scale)

    def _partials(self, batch: BatchValue | None, cut_ms: int, pieces: Pieces, last: PiecesMerged | None) -> list[Partial]:
        windows_ms = self._windows_ms
        known = last if last is not None and last.batch is batch else None
        views: Sequence[FeatureView | None] = batch.features if batch is not None else (None,) * len(windows_ms)
        partials: list[Partial] = []
        for index, (window_ms, view, column) in enumerate(zip(windows_ms, views, self._columns, strict=True)):
            if known and known.windows_ms[index] == window_ms:
                partials.append(known.partials[index])
                continue
            partial = pieces.since(column, window_ms) if pieces.entries else None
            if view is not None and window_ms < cut_ms:
                partial = column.aggregation.combine(self._of_view(view, index, window_ms), partial)
            partials.append(partial)
        return partials

    def _of_view(self, view: FeatureView, index: int, window_ms: int) -> Partial:
        window, hops_ms = self._windows[index], view.hop_starts_ms
        if window is not None and window.exact:
            return exact_partial(view, self._columns[index].aggregation, window_ms, self._group.tile_ms)
        if not hops_ms or hops_ms[-1] < window_ms:  # also for a window of all time, which has no tail
            return view.collapsed
        return view.suffixes[bisect_left(hops_ms, window_ms)]

    def _beyond(self, cut_ms: int) -> list[int]:
        """Returns the features whose windows begin inside the collapsed part of a view that ends at `cut_ms`."""
        if cut_ms not in self._beyond_of:
            self._beyond_of[cut_ms] = [
                index
                for index, (window, window_ms) in enumerate(zip(self._windows, self._windows_ms, strict=True))
                if window is not None and window.collapse_ms(cut_ms, self._group.buffer_ms) < window_ms < cut_ms
            ]
        return self._beyond_of[cut_ms]

    def _missing(self, end_ms: int) -> Mapping[str, Sequence[int]]:
        since_ms = self._complete_since_ms
        if since_ms is None:
            return _NO_REASONS
        return missing_tiles(self._windows_ms, end_ms, since_ms, self._q_ms)
