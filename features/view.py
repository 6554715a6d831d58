"""The batch view of one entity: from its tiles to the packed value that is published."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations import Partial
from features.declaration import Feature, FeatureGroup
from features.packed import FORMAT, BatchValue, FeatureView
from features.windows import floor_ms


def build_view(
    group: FeatureGroup,
    batch_end_ms: int,
    tile_starts_ms: Sequence[int],
    partials: Sequence[Sequence[Partial]],
    newest_event_ms: int | None,
) -> BatchValue:
    """The view as of `batch_end_ms` of an entity.

    Args:
        group: The declaration.
        batch_end_ms: Where the view ends.
        tile_starts_ms: The starts of the entity's tiles, ascending; no tile has an event at or after `batch_end_ms`.
        partials: For each feature, the partial of each tile.
        newest_event_ms: The entity's latest event before `batch_end_ms`.
    """
    views = [
        _feature_view(feature, batch_end_ms, tile_starts_ms, column)
        for feature, column in zip(group.features, partials, strict=True)
    ]
    return BatchValue(FORMAT, group.fingerprint, batch_end_ms, newest_event_ms, views)


def _feature_view(feature: Feature, batch_end_ms: int, starts_ms: Sequence[int], partials: Sequence[Partial]) -> FeatureView:
    combine = feature.aggregation.combine
    if feature.window is None:
        return FeatureView(feature.aggregation.combine_all(partials), [], [])
    collapse_ms, tail_ms = feature.window.collapse_ms(batch_end_ms), feature.window.start_ms(batch_end_ms)
    collapsed: Partial = None
    suffix: Partial = None
    hop_starts_ms: list[int] = []
    suffixes: list[Partial] = []
    for start_ms, partial in zip(reversed(starts_ms), reversed(partials), strict=True):
        if start_ms < tail_ms:
            break
        if partial is None:
            continue
        suffix = combine(suffix, partial)
        if start_ms >= collapse_ms:
            collapsed = suffix
            continue
        hop_ms = floor_ms(start_ms, feature.window.hop_ms)
        if hop_starts_ms and hop_starts_ms[-1] == hop_ms:
            suffixes[-1] = suffix
        else:
            hop_starts_ms.append(hop_ms)
            suffixes.append(suffix)
    return FeatureView(collapsed, hop_starts_ms[::-1], suffixes[::-1])
