"""The batch view of one entity: from its tiles to the packed value that is published.

The tail of an exact window is kept by the instant, which takes the events of its span: `exact_span_ms`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from features.aggregations import Aggregation, Partial
from features.declaration import FeatureGroup
from features.packed import FORMAT, STRIDE, TAIL_BOUND, BatchValue, FeatureView
from features.windows import Window, floor_ms


def exact_span_ms(group: FeatureGroup, window: Window, batch_end_ms: int) -> tuple[int, int]:
    """The span [from, to) before `batch_end_ms` whose events a view needs one by one: where the windows up to batch_end + buffer begin.

    It ends with a tile; from there on tiles say the same.
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
    """The view as of `batch_end_ms` of an entity.

    Args:
        group: The declaration.
        batch_end_ms: Where the view ends.
        tile_starts_ms: The starts of the entity's tiles, ascending; no tile has an event at or after `batch_end_ms`.
        partials: For each feature, the partial of each tile.
        newest_event_ms: The entity's latest event before `batch_end_ms`.
        instants_ms: Where the group has exact windows, the different times of the entity's events in their spans, ascending.
        instant_partials: For each feature, the partial of each of those instants; those of features without an exact window are not read.
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
    """Of a feature with an exact window the partial of [from_ms, batch_end); from the tile's start on where `view.by_tile`."""
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
    """The view of an exact window, from one with a whole suffix at each instant and the partials of the instants alone."""
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
    """The view of a feature with a whole suffix at each hop, and the partials at the hops' starts by themselves."""
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
