"""The merge: one entity's batch view and speed tiles, as read, to its features at time q. Pure; the heart of a request.

    features at q = collapsed + tail hops still inside the window + speed tiles with batch_end <= ts < q

After Chronon's sawtooth merge. The cut between the layers, and the head of the window, are exact to the millisecond: a tile that
batch_end, q, or the beginning of an exact window falls into gives its log instead of its partials.

Up to batch_end + buffer every feature is exact. Later a feature is still exact unless its window begins within what the view has
collapsed, [collapse, batch_end): features of all time, windows that begin at or after batch_end, and windows whose hop has not moved yet
need no part of it. Where nothing is collapsed, nothing is lost.

In Kappa an entity's history (`features.history`) stands in the place of the view, and its end in that of batch_end. Nothing in it is collapsed, so
no age makes it inexact. Every window needs the tiles from its own beginning on, whose events are in the history or in a tile.
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

#: Where a window of all time begins.
BEGINNING_MS = -(2**63)
#: In the place of a group's batch_end in Kappa, where the stream has every event. No tile can have been dropped before (`features.speed_value`).
EVER_MS = -(2**47)
_WITHIN_A_TILE = "an exact window begins among too many events, within a tile of the batch view"
_WITHOUT_A_LOG = "a tile with too many events for a log is cut by batch_end, q, or the beginning of an exact window"
_MISSING = "speed tiles after batch_end are missing"
_MISSING_EVENTS = "the stream has not read all events of the window"
_first_ms = attrgetter("first_ms")


class Merged(msgspec.Struct, frozen=True, gc=False):
    """The features of one entity at one instant.

    Attributes:
        values: One per feature, in the order of the declaration; None where there is nothing to say.
        batch_end_ms: The batch view that went in, or None; None in Kappa.
        newest_event_ms: The latest event that went in, or None.
        tiles_merged: How many speed tiles went in.
        reasons: Why values may not be exact, each with the indices of the features that it touches; empty where all values are exact.
    """

    values: Sequence[Value]
    batch_end_ms: int | None
    newest_event_ms: int | None
    tiles_merged: int
    reasons: Mapping[str, Sequence[int]]

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why the values may not be exact; empty where they are."""
        return tuple(self.reasons)

    @property
    def degraded_features(self) -> list[int]:
        """The indices of the features that may not be exact, ascending; every other value is exact."""
        return sorted(set().union(*self.reasons.values())) if self.reasons else []


def merge(
    group: FeatureGroup,
    batch: BatchValue | None,
    tiles: Iterable[TileValue],
    q_ms: int,
    batch_end_ms: int | None = None,
    complete_since_ms: int | None = None,
) -> Merged:
    """The features at `q_ms`.

    Args:
        group: The declaration.
        batch: The entity's batch view, or its history; None for an entity that the batch has not seen.
        tiles: The entity's speed tiles, in any order; tiles before batch_end do no harm.
        q_ms: When. Not before the batch view's end.
        batch_end_ms: The group's batch_end, for an entity without a view of its own; None where no batch was ever published, `EVER_MS` in Kappa.
        complete_since_ms: Since when no event is missing in the speed tiles; None where none ever is.

    Raises:
        ValueError: `q_ms` lies before batch_end: the view already holds q's future.
    """
    kappa = batch_end_ms == EVER_MS or isinstance(batch, HistoryView)
    if batch is not None:
        batch_end_ms = batch.batch_end_ms
    if batch_end_ms is not None and q_ms < batch_end_ms:
        raise ValueError(f"q {q_ms} lies before batch_end {batch_end_ms}.")
    reasons: dict[str, list[int]] = {}
    if batch_end_ms is None:
        reasons["no batch view has been published"] = list(range(len(group.features)))

    # An entity without a view has no event before batch_end that the batch knows: all its tiles count.
    cut_ms = batch.batch_end_ms if batch is not None else BEGINNING_MS
    speed_ms = (
        EVER_MS if kappa else q_ms if batch_end_ms is None else batch_end_ms
    )  # without a batch every feature is marked already
    beyond = q_ms > cut_ms + group.buffer_ms
    newest_ms = batch.newest_event_ms if batch is not None else None
    # A sawtooth window begins with a tile; only an exact one may begin within.
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

    # By feature: one look-up for the window's first piece, then nothing is compared any more.
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
    """Whether a tile that went in whole, for want of a log, holds events of the window and others, or events at or after q."""
    return tile.last_ms >= q_ms or (tile.last_ms >= window_ms and tile.first_ms < max(cut_ms, window_ms))


def beyond_the_buffer(group: FeatureGroup) -> str:
    """The reason of the features whose windows begin within what a view has collapsed."""
    return f"the batch view is older than its buffer of {group.buffer}"


def missing_tiles(windows_ms: Sequence[int], speed_ms: int, complete_since_ms: int, q_ms: int) -> dict[str, list[int]]:
    """The reason of the features, by the beginnings of their windows, that need speed tiles from before `complete_since_ms`.

    Args:
        windows_ms: Where each feature's window begins.
        speed_ms: From where on the features need speed tiles: batch_end, or `EVER_MS`.
        complete_since_ms: Since when no event is missing in the speed tiles.
        q_ms: When.
    """
    until_ms = min(complete_since_ms, q_ms)
    touched = [index for index, window_ms in enumerate(windows_ms) if max(window_ms, speed_ms) < until_ms]
    return {_MISSING_EVENTS if speed_ms == EVER_MS else _MISSING: touched} if touched else {}
