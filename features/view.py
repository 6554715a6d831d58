"""The batch view of one entity, computed from the entity's tiles. `features.packed` encodes it for the online store.

The tail of an exact window has an entry per instant. It is computed from the events of a span of time, `exact_span_ms`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from features.aggregations import Aggregation, Partial
from features.declaration import FeatureGroup
from features.packed import FORMAT, STRIDE, TAIL_BOUND, BatchValue, FeatureView
from features.windows import Window, floor_ms


def exact_span_ms(group: FeatureGroup, window: Window, batch_end_ms: int) -> tuple[int, int]:
    """Returns the span [from, to) before `batch_end_ms` in which a view needs the partials of single instants, in ms since 1970.

    The windows with q up to batch_end + buffer begin in this span. It ends at the end of a tile, or at batch_end; from there on the partials of the
    tiles suffice.
    """
    end_ms = -floor_ms(-window.collapse_ms(batch_end_ms, group.buffer_ms), group.tile_ms)
    return window.start_ms(batch_end_ms), min(end_ms, batch_end_ms)


def build_view(
    group: FeatureGroup,
    batch_end_ms: int,
    tile_starts_ms: Sequence[int],
    partials: Sequence[Sequence[Partial]],
    newest_event_ms: int | None,
    instants_ms: Sequence[int] = (),
    instant_partials: Sequence[Sequence[Partial]] = (),
) -> BatchValue:
    """Builds the batch view of an entity as of `batch_end_ms`.

    Args:
        group: The declaration.
        batch_end_ms: The end of the view, in ms since 1970.
        tile_starts_ms: The starts of the entity's tiles, ascending. No tile has an event at or after `batch_end_ms`.
        partials: For each feature, the partial of each tile.
        newest_event_ms: The time of the entity's latest event before `batch_end_ms`.
        instants_ms: If the group has exact windows, the different times of the entity's events in their spans (`exact_span_ms`), ascending.
        instant_partials: For each feature, the partial of each of those instants. Only the partials of features with an exact window are read.
    """
    views = []
    for index, feature in enumerate(group.features):
        aggregation, window, column = feature.aggregation, feature.window, partials[index]
        if window is None:
            views.append(FeatureView(aggregation.combine_all(column), [], []))
        elif window.exact:
            own = instant_partials[index] if instants_ms else ()
            views.append(_exact_view(group, aggregation, window, batch_end_ms, tile_starts_ms, column, instants_ms, own))
        else:
            views.append(suffixes(aggregation, window, batch_end_ms, group.buffer_ms, tile_starts_ms, column)[0])
    return BatchValue(FORMAT, group.fingerprint, batch_end_ms, newest_event_ms, views)


def exact_partial(view: FeatureView, aggregation: Aggregation, from_ms: int, tile_ms: int) -> Partial:
    """Returns the partial of [from_ms, batch_end) of a feature with an exact window; if `view.by_tile`, `from_ms` snaps down to a tile."""
    tail = view.hop_starts_ms
    first = head = bisect_left(tail, floor_ms(from_ms, tile_ms) if view.by_tile else from_ms)
    if not view.by_tile:
        head = -(-first // STRIDE) * STRIDE
    whole = view.suffixes[head] if head < len(tail) else view.collapsed
    return aggregation.combine(aggregation.combine_all(view.suffixes[first:head]), whole)


def _exact_view(
    group: FeatureGroup, aggregation: Aggregation, window: Window, batch_end_ms: int, tile_starts_ms: Sequence[int],
    partials: Sequence[Partial], instants_ms: Sequence[int], instant_partials: Sequence[Partial],
) -> FeatureView:  # fmt: skip
    from_ms, to_ms = exact_span_ms(group, window, batch_end_ms)
    first, last, after = bisect_left(instants_ms, from_ms), bisect_left(instants_ms, to_ms), bisect_left(tile_starts_ms, to_ms)
    inside = instant_partials[first:last]
    if len(inside) > TAIL_BOUND and sum(partial is not None for partial in inside) > TAIL_BOUND:
        view, _ = suffixes(
            aggregation, Window(window.size_ms, group.tile_ms), batch_end_ms, group.buffer_ms, tile_starts_ms, partials
        )
        return FeatureView(view.collapsed, view.hop_starts_ms, [*view.suffixes, None])
    starts_ms = [*instants_ms[first:last], *tile_starts_ms[after:]]
    view, own = suffixes(aggregation, window, batch_end_ms, group.buffer_ms, starts_ms, [*inside, *partials[after:]])
    return strided(view, own)


def strided(view: FeatureView, own: Sequence[Partial]) -> FeatureView:
    """Returns the view of an exact window with whole suffixes at multiples of `STRIDE` and single partials between them.

    Args:
        view: The view with a whole suffix at each instant.
        own: The partial of each instant alone.
    """
    chosen = [one if place % STRIDE else suffix for place, (one, suffix) in enumerate(zip(own, view.suffixes, strict=True))]
    return FeatureView(view.collapsed, view.hop_starts_ms, chosen)


def suffixes(
    aggregation: Aggregation,
    window: Window,
    batch_end_ms: int,
    buffer_ms: int,
    starts_ms: Sequence[int],
    partials: Sequence[Partial],
) -> tuple[FeatureView, list[Partial]]:
    """Returns the view of a feature with a whole suffix at each hop, and a single partial of each hop.

    The single partial is that of the hop's latest start. So for an exact window, where each hop has one start, it is the partial of the hop.
    """
    combine = aggregation.combine
    collapse_ms, tail_ms = window.collapse_ms(batch_end_ms, buffer_ms), window.start_ms(batch_end_ms)
    collapsed: Partial = None
    suffix: Partial = None
    hop_starts_ms: list[int] = []
    suffixes: list[Partial] = []
    own: list[Partial] = []
    for start_ms, partial in zip(reversed(starts_ms), reversed(partials), strict=True):
        if start_ms < tail_ms:
            break
        if partial is None:
            continue
        suffix = combine(suffix, partial)
        if start_ms >= collapse_ms:
            collapsed = suffix
            continue
        hop_ms = floor_ms(start_ms, window.hop_ms)
        if hop_starts_ms and hop_starts_ms[-1] == hop_ms:
            suffixes[-1] = suffix
        else:
            hop_starts_ms.append(hop_ms)
            suffixes.append(suffix)
            own.append(partial)
    return FeatureView(collapsed, hop_starts_ms[::-1], suffixes[::-1]), own[::-1]
