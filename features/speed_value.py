"""The packed speed value: all speed tiles of one entity as one value, which a request reads by one look-up.

    value   head, index, tiles, folded
    head    format (1 byte), fingerprint (8), dropped_ms (6), number of tiles (4)
            dropped_ms                          the end in ms of the latest tile that is missing; the smallest number if no tile is missing. The
                                                store drops a tile when it expires or the value is too long, and may have lost a tile
    index   per tile, ascending: its number, which is its start divided by the length of a tile (5), the hour of its expiry modulo 2^16 (2), its
            length in bytes (3)
    tiles   the tiles in MessagePack
    folded  which events are in the tiles: the token of their stream and, per partition, the offset before which they are, in MessagePack; nothing if
            nobody has recorded them. And its length (2)

`features.speed_editor` reads only the head and the index to replace a tile; it decodes no tile. A tile has one of three forms:

    entry                                       one instant
    [entry, …]                                  up to `FEW` instants: its partials are the union of its entries
    [nil, first − start, whole, [entry, …]]     more instants: its partials are in `whole`; nil in place of the entries if it has no log

    entry   [instant − start, partial, …]       the partials of one instant; `whole` is an entry with the latest instant
    partial                                     of each feature that `Layout.stored` lists. Features with equal aggregations of equal inputs share
                                                a partial, whatever their windows, and a sum is read from the mean's partial. It has its short form
                                                (`Aggregation.compact`). Times in it are relative to the instant of the entry
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from features.aggregations import Aggregation, Mean, Partial, Sum
from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import TileValue, decode_log, has_log

#: Must change when the layout above or the form of a partial changes.
SPEED_FORMAT = 3
#: A tile with at most this number of instants has no partials besides those of its entries.
FEW = 8
#: The head, and an entry of the index. A time of 6 bytes, a number of 5 and a length of 3 are a high and a low part.
HEAD, INDEX = struct.Struct(">B8shII"), struct.Struct(">bIHBH")
#: The length of what is folded, at the end of a value.
LENGTH = struct.Struct(">H")
#: `dropped_ms` of a value that misses no tile.
NONE_DROPPED_MS = -(2**47)

#: The aggregation whose partial also has the sum.
MEAN = Mean()
_encoder = msgspec.msgpack.Encoder()


def speed_field(fingerprint: str) -> bytes:
    """Returns the hash field of the speed value of a version of the declaration."""
    return b"speed:" + fingerprint[:8].encode()


def speed_head(group: FeatureGroup) -> bytes:
    """Returns the format and the fingerprint, with which every speed value of a version begins."""
    return bytes([SPEED_FORMAT]) + bytes.fromhex(group.fingerprint)


class Column(NamedTuple):
    """The place of a feature's partial in an entry.

    Attributes:
        place: The index in an entry.
        sum_of_mean: Whether the partial at this place is a mean's, whose first two elements are the sum.
        aggregation: The aggregation of the feature.
    """

    place: int
    sum_of_mean: bool
    aggregation: Aggregation

    def partial(self, entry: list[Any], start_ms: int) -> Partial:
        """Returns the feature's partial in an entry of the tile that begins at `start_ms`."""
        stored = entry[self.place]
        if self.sum_of_mean:
            return None if stored is None else MEAN.expanded(stored)[:2]
        return expanded(self.aggregation, stored, start_ms + entry[0])


class Layout(NamedTuple):
    """The layout of the entries of a version of a group.

    Attributes:
        columns: For each feature, the place of its partial.
        stored: The indices of the features whose partials an entry contains, in the order of the entry.
        aggregations: The aggregations of these features.
        changed: The place in an entry of each partial that is stored in another form, and the aggregation.
    """

    columns: tuple[Column, ...]
    stored: tuple[int, ...]
    aggregations: tuple[Aggregation, ...]
    changed: tuple[tuple[int, Aggregation], ...]


_layouts: dict[str, Layout] = {}


def layout_of(group: FeatureGroup) -> Layout:
    """Returns the layout of the entries of a version of a group."""
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
        meaning = (MEAN, source) if sum_of_mean else (aggregation, source)
        if meaning not in places:
            stored.append(next(at for at, other in enumerate(meanings) if other == meaning) if sum_of_mean else index)
            places[meaning] = len(stored)
        columns.append(Column(places[meaning], sum_of_mean, aggregation))
    aggregations = tuple(meanings[index][0] for index in stored)
    changed = [(place, of) for place, of in enumerate(aggregations, 1) if of.timed or type(of).compact is not Aggregation.compact]
    return Layout(tuple(columns), tuple(stored), aggregations, tuple(changed))


def pack_tile(group: FeatureGroup, start_ms: int, tile: TileValue) -> bytes:
    """Encodes a tile for a speed value.

    Raises:
        PackedValueError: The tile belongs to another version of the declaration.
    """
    if tile.fingerprint != group.fingerprint:
        raise PackedValueError(f"The tile is of version {tile.fingerprint}, not {group.fingerprint}.")
    if tile.first_ms == tile.last_ms:
        return _encoder.encode(entry_of(group, start_ms, tile.first_ms, tile.partials))
    entries = entries_of(group, start_ms, tile)
    if entries and len(entries) <= FEW:
        return _encoder.encode(entries)
    return _encoder.encode([None, tile.first_ms - start_ms, entry_of(group, start_ms, tile.last_ms, tile.partials), entries])


def with_entries(tile: list[Any]) -> list[Any]:
    """Returns a decoded tile of one instant in the form of a tile of several; other tiles as they are.

    Raises:
        IndexError: The tile is empty.
    """
    return [tile] if type(tile[0]) is int else tile


def entries_of(group: FeatureGroup, start_ms: int, tile: TileValue) -> list[list[Any]] | None:
    """Returns an entry for each instant of a tile, ascending; None if the tile has no log."""
    if not has_log(tile):
        return None
    return [entry_of(group, start_ms, instant_ms, partials) for instant_ms, partials in decode_log(tile)]


def entry_of(group: FeatureGroup, start_ms: int, instant_ms: int, partials: Sequence[Partial]) -> list[Any]:
    """Returns the entry of partials, of which there is one per feature; `instant_ms` is their latest instant."""
    layout = layout_of(group)
    entry = [instant_ms - start_ms, *[partials[index] for index in layout.stored]]
    for place, aggregation in layout.changed:
        entry[place] = compact(aggregation, entry[place], instant_ms)
    return entry


def compact(aggregation: Aggregation, partial: Partial, instant_ms: int) -> Partial:
    """Returns a partial as the entry at an instant stores it."""
    if partial is None:
        return None
    return aggregation.compact(aggregation.moved(partial, -instant_ms) if aggregation.timed else partial)


def expanded(aggregation: Aggregation, stored: Partial, instant_ms: int) -> Partial:
    """Returns the partial that `compact` has stored in the entry at an instant."""
    if stored is None:
        return None
    partial = aggregation.expanded(stored)
    return aggregation.moved(partial, instant_ms) if aggregation.timed else partial
