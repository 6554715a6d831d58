"""The packed speed value: all speed tiles of one entity as one value, which a request reads by one look-up.

    value   head, index, tiles
    head    format (1 byte), fingerprint (8), end of the latest tile that was dropped because of its age (6), number of tiles (4)
    index   per tile, ascending: its start in ms (6), the hour of its expiry modulo 2^16 (2), its length in bytes (4)
    tiles   a MessagePack array of the tiles

The script of `store.tiles` replaces a tile without reading any: it needs the head and the index alone. A tile is

    [entry, …]                                  of few instants: its partials are the union of its entries
    [nil, first − start, whole, [entry, …]]     of more: its partials are in `whole`; nil instead of entries where it kept no log

    entry   [instant − start, partial, …]       the partials of one instant; `whole` has the latest instant
    partial of each feature that no other one's tells: equal aggregations of equal inputs have equal partials in a tile, whatever their
            windows, and a mean tells the sum; times in it are counted from the entry's instant
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from features.aggregations import Aggregation, Mean, Partial, Sum
from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import TileValue, decode_log, has_log

#: Changes when anything above does, or the form of a partial.
SPEED_FORMAT = 1
#: Up to so many instants a tile has no partials of its own.
FEW = 8

_encoder = msgspec.msgpack.Encoder()


def speed_field(fingerprint: str) -> bytes:
    """The field of the speed value of a version."""
    return b"speed:" + fingerprint[:8].encode()


def folded_field(fingerprint: str) -> bytes:
    """The field that says which events are in the speed value of a version."""
    return b"folded:" + fingerprint[:8].encode()


def speed_head(group: FeatureGroup) -> bytes:
    """The format and the fingerprint, with which the values of a version begin."""
    return bytes([SPEED_FORMAT]) + bytes.fromhex(group.fingerprint)


class Column(NamedTuple):
    """Where the partials of a feature stand in an entry.

    Attributes:
        place: The index in an entry.
        sum_of_mean: Whether the partial is the sum within the mean's.
        aggregation: Of the feature.
    """

    place: int
    sum_of_mean: bool
    aggregation: Aggregation

    def partial(self, entry: list[Any], start_ms: int) -> Partial:
        """The feature's partial in an entry of the tile that begins at `start_ms`."""
        partial = entry[self.place]
        if partial is None:
            return None
        if self.sum_of_mean:
            return partial[:2]
        return self.aggregation.moved(partial, start_ms + entry[0]) if self.aggregation.timed else partial


class Layout(NamedTuple):
    """Which partials an entry has: `columns` by feature, and the features that `stored` names, in the order of the entry.

    `timed` names those of them whose partials hold times: the index in an entry, and the aggregation.
    """

    columns: tuple[Column, ...]
    stored: tuple[int, ...]
    timed: tuple[tuple[int, Aggregation], ...]


_layouts: dict[str, Layout] = {}


def layout_of(group: FeatureGroup) -> Layout:
    """The layout of a version of a group."""
    layout = _layouts.get(group.fingerprint)
    if layout is None:
        layout = _layouts[group.fingerprint] = _layout(group)
    return layout


def _layout(group: FeatureGroup) -> Layout:
    meanings = [(feature.aggregation, source) for feature, source in zip(group.features, group.input_of, strict=True)]
    means = {source for aggregation, source in meanings if type(aggregation) is Mean}
    places: dict[Any, int] = {}
    stored, columns = [], []
    for index, (aggregation, source) in enumerate(meanings):
        sum_of_mean = type(aggregation) is Sum and source in means
        meaning = (Mean(), source) if sum_of_mean else (aggregation, source)
        if meaning not in places:
            stored.append(next(at for at, other in enumerate(meanings) if other == meaning) if sum_of_mean else index)
            places[meaning] = len(stored)
        columns.append(Column(places[meaning], sum_of_mean, aggregation))
    timed = tuple((place, meanings[index][0]) for place, index in enumerate(stored, 1) if meanings[index][0].timed)
    return Layout(tuple(columns), tuple(stored), timed)


def pack_tile(group: FeatureGroup, start_ms: int, tile: TileValue) -> bytes:
    """A tile as it stands in a speed value.

    Raises:
        PackedValueError: The tile is of another version.
    """
    if tile.fingerprint != group.fingerprint:
        raise PackedValueError(f"The tile is of version {tile.fingerprint}, not {group.fingerprint}.")
    entries = entries_of(group, start_ms, tile)
    if entries and len(entries) <= FEW:
        return _encoder.encode(entries)
    return _encoder.encode([None, tile.first_ms - start_ms, entry_of(group, start_ms, tile.last_ms, tile.partials), entries])


def entries_of(group: FeatureGroup, start_ms: int, tile: TileValue) -> list[list[Any]] | None:
    """An entry per instant of a tile, ascending; None where it kept no log."""
    if not has_log(tile):
        return None
    return [entry_of(group, start_ms, instant_ms, partials) for instant_ms, partials in decode_log(tile)]


def entry_of(group: FeatureGroup, start_ms: int, instant_ms: int, partials: Sequence[Partial]) -> list[Any]:
    """The entry of partials, one per feature, whose latest instant that is."""
    _, stored, timed = layout_of(group)
    entry = [instant_ms - start_ms, *[partials[index] for index in stored]]
    for place, aggregation in timed:
        entry[place] = moved(aggregation, entry[place], -instant_ms)
    return entry


def moved(aggregation: Aggregation, partial: Partial, by_ms: int) -> Partial:
    """A partial with the times in it, if it has any, later by `by_ms`; None stays None."""
    return aggregation.moved(partial, by_ms) if aggregation.timed and partial is not None else partial
