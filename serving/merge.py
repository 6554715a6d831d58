"""The merge: one entity's batch view and speed tiles, as read, to its features at time q. Pure; the heart of a request.

    features at q = collapsed + tail hops still inside the window + speed tiles with batch_end <= ts < q

After Chronon's sawtooth merge. The cut between the layers, and the head of the window, are exact to the millisecond: a tile that
batch_end or q falls into gives its log instead of its partials.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from features.aggregations import Partial, Value
from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import BatchValue, TileValue, decode_log
from features.windows import BUFFER_MS, floor_ms


@dataclass(frozen=True, slots=True)
class Merged:
    """The features of one entity at one instant.

    Attributes:
        values: One per feature, in the order of the declaration; None where there is nothing to say.
        batch_end_ms: The batch view that went in, or None.
        newest_event_ms: The latest event that went in, or None.
        tiles_merged: How many speed tiles went in.
        degraded: Why the values may not be exact; empty where they are.
    """

    values: list[Value]
    batch_end_ms: int | None
    newest_event_ms: int | None
    tiles_merged: int
    degraded: tuple[str, ...]


def merge(
    group: FeatureGroup, batch: BatchValue | None, tiles: Iterable[TileValue], q_ms: int, batch_end_ms: int | None = None
) -> Merged:
    """The features at `q_ms`.

    Args:
        group: The declaration.
        batch: The entity's batch view; None for an entity that the batch has not seen.
        tiles: The entity's speed tiles, in any order; tiles before batch_end do no harm.
        q_ms: When. Not before the batch view's end.
        batch_end_ms: The group's batch_end, for an entity without a view of its own; None where no batch was ever published.

    Raises:
        ValueError: `q_ms` lies before batch_end: the view already holds q's future.
    """
    if batch is not None:
        batch_end_ms = batch.batch_end_ms
    if batch_end_ms is not None and q_ms < batch_end_ms:
        raise ValueError(f"q {q_ms} lies before batch_end {batch_end_ms}.")
    degraded: list[str] = []
    if batch_end_ms is None:
        degraded.append("no batch view has been published")
    elif q_ms > batch_end_ms + BUFFER_MS:
        degraded.append("the batch view is older than its buffer of 2 days")

    # An entity without a view has no event before batch_end that the batch knows: all its tiles count.
    cut_ms = batch.batch_end_ms if batch is not None else None
    newest_ms = batch.newest_event_ms if batch is not None else None
    pieces: list[tuple[int, list[Partial]]] = []
    tiles_merged = 0
    for tile in tiles:
        if tile.first_ms >= q_ms or (cut_ms is not None and tile.last_ms < cut_ms):
            continue
        if tile.last_ms < q_ms and (cut_ms is None or tile.first_ms >= cut_ms):
            inside = [(tile.last_ms, tile.partials)]
        else:
            try:
                log = decode_log(tile)
            except PackedValueError:
                degraded.append("a tile with too many events for a log is cut by batch_end or q")
                log = [(tile.last_ms, tile.partials)]
            else:
                log = [entry for entry in log if entry[0] < q_ms and (cut_ms is None or entry[0] >= cut_ms)]
            inside = log
        if inside:
            tiles_merged += 1
            newest_ms = inside[-1][0] if newest_ms is None else max(newest_ms, inside[-1][0])
            start_ms = floor_ms(tile.first_ms, group.tile_ms)
            pieces.extend((start_ms, partials) for _, partials in inside)

    values: list[Value] = []
    for index, feature in enumerate(group.features):
        aggregation, window = feature.aggregation, feature.window
        window_ms = None if window is None else window.start_ms(q_ms)
        partial: Partial = None
        if batch is not None:
            view = batch.features[index]
            partial = view.collapsed
            if window_ms is not None and view.hop_starts_ms:
                hop = bisect_left(view.hop_starts_ms, window_ms)
                if hop < len(view.suffixes):
                    partial = view.suffixes[hop]
        for start_ms, partials in pieces:
            if (window_ms is None or start_ms >= window_ms) and partials[index] is not None:
                partial = aggregation.combine(partial, partials[index])
        values.append(aggregation.finalize(partial, q_ms, group.scale_of(index)))
    return Merged(values, batch_end_ms, newest_ms, tiles_merged, tuple(dict.fromkeys(degraded)))
