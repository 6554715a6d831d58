"""The merge: computes the features of one entity at time q from its batch view and speed tiles. Pure; the core of a request.

    features at q = collapsed + tail hops still inside the window + speed tiles with batch_end <= ts < q

It follows Chronon's sawtooth merge. The cut between the layers and the head of the window are exact to the millisecond: if batch_end, q, or the
beginning of an exact window lies inside a tile, the merge reads the log of the tile instead of its partials.

Up to batch_end + buffer every feature is exact. Later a feature is inexact only if its window begins inside the collapsed part of the view, in
(collapse, batch_end), and events are collapsed there: the window needs a part of the collapsed partial. A feature of all time and a window that
still begins at `collapse` need all of it, and a window that begins at or after batch_end needs nothing of it.

In Kappa the entity's history (`features.history`) replaces the view, and the end of the history replaces batch_end. Nothing in a history is
collapsed, so its age makes no feature inexact. Every window needs all events from its own beginning on, each in the history or in a tile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import msgspec

from features.aggregations import Partial, Value
from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import BatchValue, HistoryView, TileValue, decode_log
from features.view import exact_partial
from features.windows import EXACT_HOP_MS

#: The beginning of a window of all time.
BEGINNING_MS = -(2**63)
#: The batch_end of a group in Kappa, where every event comes from the stream. It is the smallest time that a speed value can store (6 bytes), so no
#: tile can have been dropped before it.
EVER_MS = -(2**47)
#: Reason if the group has no batch_end.
NOT_PUBLISHED = "no batch view has been published"
_WITHIN_A_TILE = "an exact window begins among too many events, within a tile of the batch view"
_WITHOUT_A_LOG = "a tile with too many events for a log is cut by batch_end, q, or the beginning of an exact window"
_MISSING = "speed tiles after batch_end are missing"
_MISSING_EVENTS = "the stream has not read all events of the window"
_first_ms = attrgetter("first_ms")


class Merged(msgspec.Struct, frozen=True, gc=False):
    """The features of one entity at one instant.

    Attributes:
        values: The value of each feature, in the order of the declaration; None if a feature has no value.
        batch_end_ms: The batch_end of the entity's view, or of the group if the entity has no view; None before the first batch, and in Kappa.
        newest_event_ms: The time of the latest event that is included; None if no event is included.
        tiles_merged: The number of speed tiles that are included.
        reasons: Reason why values may be inexact → the indices of the features that it affects. Empty if all values are exact.
    """

    values: Sequence[Value]
    batch_end_ms: int | None
    newest_event_ms: int | None
    tiles_merged: int
    reasons: Mapping[str, Sequence[int]]

    @property
    def degraded(self) -> tuple[str, ...]:
        """The reasons why values may be inexact; empty if all values are exact."""
        return tuple(self.reasons)

    @property
    def degraded_features(self) -> list[int]:
        """The indices of the features that may be inexact, ascending. Every other value is exact."""
        return sorted(set().union(*self.reasons.values())) if self.reasons else []


def merge(
    group: FeatureGroup,
    batch: BatchValue | None,
    tiles: Iterable[TileValue],
    q_ms: int,
    batch_end_ms: int | None = None,
    complete_since_ms: int | None = None,
) -> Merged:
    """Computes the features of an entity at `q_ms`.

    Args:
        group: The declaration.
        batch: The entity's batch view, or its history; None if the entity has neither.
        tiles: The entity's speed tiles, in any order. Tiles before the end of the entity's view are ignored.
        q_ms: The time of the request, in ms since 1970; at or after the end of the batch view.
        batch_end_ms: The group's batch_end in ms, for an entity without a view; None if no batch has been published, `EVER_MS` in Kappa.
        complete_since_ms: The instant from which on the speed tiles contain every event; None if no event is missing.

    Raises:
        ValueError: `q_ms` lies before batch_end, so the view contains events after q.
    """
    kappa = batch_end_ms == EVER_MS or isinstance(batch, HistoryView)
    if batch is not None:
        batch_end_ms = batch.batch_end_ms
    if batch_end_ms is not None and q_ms < batch_end_ms:
        raise ValueError(f"q {q_ms} lies before batch_end {batch_end_ms}.")
    reasons: dict[str, list[int]] = {}
    if batch_end_ms is None:
        reasons[NOT_PUBLISHED] = list(range(len(group.features)))

    # The batch has no event before batch_end of an entity without a view, so all its tiles count.
    cut_ms = batch.batch_end_ms if batch is not None else BEGINNING_MS
    speed_ms = (
        EVER_MS if kappa else q_ms if batch_end_ms is None else batch_end_ms
    )  # without a batch every feature has a reason already
    beyond = q_ms > cut_ms + group.buffer_ms
    newest_ms = batch.newest_event_ms if batch is not None else None
    # A sawtooth window begins at the start of a tile; only an exact window may begin inside a tile.
    begins_ms = [window.start_ms(q_ms) for window in group.exact_windows]
    firsts_ms: list[int] = []
    pieces: list[list[Partial]] = []
    uncut: list[TileValue] = []
    tiles_merged = 0
    for tile in sorted(tiles, key=_first_ms):
        if tile.first_ms >= q_ms or tile.last_ms < cut_ms:
            continue
        last_ms = tile.last_ms
        begun = begins_ms and any(tile.first_ms < begin_ms <= last_ms for begin_ms in begins_ms)
        if last_ms < q_ms and tile.first_ms >= cut_ms and not begun:
            firsts_ms.append(tile.first_ms)
            pieces.append(tile.partials)
        else:
            try:
                log = [entry for entry in decode_log(tile) if cut_ms <= entry[0] < q_ms]
            except PackedValueError:
                uncut.append(tile)
                log = [(last_ms, tile.partials)]
            if not log:
                continue
            last_ms = log[-1][0]
            firsts_ms.extend(ts_ms for ts_ms, _ in log)
            pieces.extend(partials for _, partials in log)
        tiles_merged += 1
        newest_ms = last_ms if newest_ms is None else max(newest_ms, last_ms)

    # Per feature, one look-up finds the first piece of the window; all later pieces count.
    columns = list(zip(*pieces, strict=True)) or [()] * len(group.features)
    values: list[Value] = []
    windows_ms: list[int] = []
    for index, feature in enumerate(group.features):
        aggregation, window = feature.aggregation, feature.window
        column: Sequence[Partial] = columns[index]
        window_ms = BEGINNING_MS
        if window is not None:
            window_ms = window.start_ms(q_ms)
            column = column[bisect_left(firsts_ms, window_ms) :]
        partial: Partial = None
        if batch is not None and window_ms < cut_ms:
            view = batch.features[index]
            if window is None:
                partial = view.collapsed
            else:
                if window.hop_ms == EXACT_HOP_MS:
                    partial = exact_partial(view, aggregation, window_ms, group.tile_ms)
                    if view.by_tile and window_ms % group.tile_ms:
                        reasons.setdefault(_WITHIN_A_TILE, []).append(index)
                else:
                    hop = bisect_left(view.hop_starts_ms, window_ms)
                    partial = view.suffixes[hop] if hop < len(view.hop_starts_ms) else view.collapsed
                if beyond and view.collapsed is not None and window_ms > window.collapse_ms(cut_ms, group.buffer_ms):
                    reasons.setdefault(beyond_the_buffer(group), []).append(index)
        if uncut and any(_is_blurred(tile, window_ms, cut_ms, q_ms) for tile in uncut):
            reasons.setdefault(_WITHOUT_A_LOG, []).append(index)
        for piece in column:
            if piece is not None:
                partial = piece if partial is None else aggregation.join(partial, piece)
        values.append(aggregation.finalize(partial, q_ms, group.scale_of(index)))
        windows_ms.append(window_ms)
    if complete_since_ms is not None:
        reasons |= missing_tiles(windows_ms, speed_ms, complete_since_ms, q_ms)
    return Merged(values, None if kappa else batch_end_ms, newest_ms, tiles_merged, reasons)


def _is_blurred(tile: TileValue, window_ms: int, cut_ms: int, q_ms: int) -> bool:
    """Whether a tile without a log, which was merged whole, has added events to a window that lie before it, before batch_end, or at or after q."""
    return tile.last_ms >= q_ms or (tile.last_ms >= window_ms and tile.first_ms < max(cut_ms, window_ms))


def beyond_the_buffer(group: FeatureGroup) -> str:
    """Returns the reason for the features whose windows begin inside the collapsed part of a view."""
    return f"the batch view is older than its buffer of {group.buffer}"


def missing_tiles(windows_ms: Sequence[int], speed_ms: int, complete_since_ms: int, q_ms: int) -> dict[str, list[int]]:
    """Returns the reason for the features that need speed tiles from before `complete_since_ms`, with their indices; empty if no feature does.

    Args:
        windows_ms: The beginning of each feature's window, in ms since 1970.
        speed_ms: The instant from which on the features need speed tiles: batch_end, or `EVER_MS`.
        complete_since_ms: The instant from which on the speed tiles contain every event.
        q_ms: The time of the request, in ms since 1970.
    """
    until_ms = min(complete_since_ms, q_ms)
    touched = [index for index, window_ms in enumerate(windows_ms) if max(window_ms, speed_ms) < until_ms]
    return {_MISSING_EVENTS if speed_ms == EVER_MS else _MISSING: touched} if touched else {}
