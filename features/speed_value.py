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

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import msgspec

from features.aggregations import Aggregation, Mean, Partial, Sum
from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import FORMAT, BatchValue, TileValue, decode_log, encode_log, has_log

#: Changes when anything above does, or the form of a partial.
SPEED_FORMAT = 1
#: Up to so many instants a tile has no partials of its own.
FEW = 8

_HEAD, _INDEX = struct.Struct(">B8shII"), struct.Struct(">hIHI")
_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(list[list[Any]])


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
    """Which partials an entry has: `columns` by feature, and the features that `stored` names, in the order of the entry."""

    columns: tuple[Column, ...]
    stored: tuple[int, ...]


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
    return Layout(tuple(columns), tuple(stored))


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
    stored = layout_of(group).stored
    return [instant_ms - start_ms, *(moved(group.features[index].aggregation, partials[index], -instant_ms) for index in stored)]


def moved(aggregation: Aggregation, partial: Partial, by_ms: int) -> Partial:
    """A partial with the times in it, if it has any, later by `by_ms`; None stays None."""
    return aggregation.moved(partial, by_ms) if aggregation.timed and partial is not None else partial


def decode_speed(data: bytes, group: FeatureGroup) -> SpeedTiles:
    """The tiles in a speed value.

    Raises:
        PackedValueError: Another format or another version of the declaration, or no speed value at all.
    """
    try:
        speed_format, fingerprint, high, low, count = _HEAD.unpack_from(data)
        if speed_format != SPEED_FORMAT or fingerprint.hex() != group.fingerprint:
            raise PackedValueError(f"The speed value has format {speed_format} and version {fingerprint.hex()}.")
        end = _HEAD.size + count * _INDEX.size
        starts_ms = [high << 32 | low for high, low, _, _ in _INDEX.iter_unpack(data[_HEAD.size : end])]
        packed = _decoder.decode(memoryview(data)[end:])
    except (struct.error, msgspec.DecodeError) as error:
        raise PackedValueError(f"The speed value cannot be read: {error}.") from None
    if len(packed) != count or not count or len(starts_ms) != count:
        raise PackedValueError("The speed value has another number of tiles than its index.")
    return SpeedTiles(group, starts_ms, packed, high << 32 | low)


class Pieces:
    """What of a speed value lies from `cut_ms` on, the end of a batch view, and before an instant, in pieces that no sawtooth window splits.

    Attributes:
        cut_ms: Where the pieces begin.
        instants_ms: The first instant of each piece, ascending.
        starts_ms: The start of each piece's tile.
        entries: Each piece's entry.
        tiles: How many tiles they are of.
        batch, windows_ms, partials: What was merged last: with which view, from which instants, and what came of it.
    """

    __slots__ = ("batch", "cut_ms", "entries", "instants_ms", "partials", "starts_ms", "tiles", "windows_ms")

    def __init__(self, cut_ms: int) -> None:
        self.cut_ms, self.tiles = cut_ms, 0
        self.instants_ms: list[int] = []
        self.starts_ms: list[int] = []
        self.entries: list[list[Any]] = []
        self.batch: BatchValue | None = None
        self.windows_ms: tuple[int, ...] = ()
        self.partials: list[Partial] = []

    @property
    def last_ms(self) -> int:
        """The latest event of the pieces, of which there must be one."""
        return self.starts_ms[-1] + int(self.entries[-1][0])

    def since(self, column: Column, window_ms: int) -> Partial:
        """The partial of a feature over the pieces from `window_ms` on."""
        first = bisect_left(self.instants_ms, window_ms)
        entries, place = self.entries[first:] if first else self.entries, column.place
        aggregation = column.aggregation
        if aggregation.timed:
            starts_ms = self.starts_ms[first:]
            return aggregation.combine_all(
                aggregation.moved(entry[place], start_ms + entry[0])
                for entry, start_ms in zip(entries, starts_ms, strict=True)
                if entry[place] is not None
            )
        return aggregation.combine_all([entry[place] for entry in entries if entry[place] is not None])


class SpeedTiles(Sequence[TileValue]):
    """The speed tiles of one entity, ascending; a tile is made when it is looked at.

    Attributes:
        dropped_ms: Tiles that began before may have been dropped because of their age.
        last_ms: The latest event.
    """

    __slots__ = ("_group", "_packed", "_pieces", "_starts_ms", "dropped_ms", "last_ms")

    def __init__(self, group: FeatureGroup, starts_ms: list[int], packed: list[list[Any]], dropped_ms: int) -> None:
        self._group, self._starts_ms, self._packed, self.dropped_ms = group, starts_ms, packed, dropped_ms
        self._pieces: Pieces | None = None
        newest = packed[-1]
        self.last_ms: int = starts_ms[-1] + (newest[2] if newest[0] is None else newest[-1])[0]

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> TileValue: ...
    @overload
    def __getitem__(self, index: slice) -> list[TileValue]: ...
    def __getitem__(self, index: int | slice) -> TileValue | list[TileValue]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return _tile(self._group, self._starts_ms[index], self._packed[index])

    def __iter__(self) -> Iterator[TileValue]:
        return (_tile(self._group, start_ms, packed) for start_ms, packed in zip(self._starts_ms, self._packed, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpeedTiles):
            return NotImplemented
        return (self._starts_ms, self._packed, self.dropped_ms) == (other._starts_ms, other._packed, other.dropped_ms)

    __hash__ = None  # type: ignore[assignment]

    def pieces(self, cut_ms: int, until_ms: int) -> Pieces | None:
        """The pieces from `cut_ms` on and before `until_ms`; None where a tile that has to be cut kept no log.

        The last answer about all events from `cut_ms` on is kept.
        """
        if until_ms <= self.last_ms:
            return self._cut(cut_ms, until_ms)
        if self._pieces is None or self._pieces.cut_ms != cut_ms:
            self._pieces = self._cut(cut_ms, until_ms)
        return self._pieces

    def _cut(self, cut_ms: int, until_ms: int) -> Pieces | None:
        pieces = Pieces(cut_ms)
        instants_ms, starts_ms, merged, exact = (
            pieces.instants_ms,
            pieces.starts_ms,
            pieces.entries,
            bool(self._group.exact_windows),
        )
        for start_ms, packed in zip(self._starts_ms, self._packed, strict=True):
            if start_ms >= until_ms:
                break
            entries = packed
            if packed[0] is None:
                first_ms, last_ms = start_ms + packed[1], start_ms + packed[2][0]
                if last_ms < cut_ms or first_ms >= until_ms:
                    continue
                if cut_ms <= first_ms and last_ms < until_ms and not exact:
                    pieces.tiles += 1
                    instants_ms.append(first_ms)
                    starts_ms.append(start_ms)
                    merged.append(packed[2])
                    continue
                entries = packed[3]
                if entries is None:
                    return None
            if start_ms < cut_ms or start_ms + entries[-1][0] >= until_ms:
                entries = [entry for entry in entries if cut_ms <= start_ms + entry[0] < until_ms]
                if not entries:
                    continue
            pieces.tiles += 1
            for entry in entries:
                instants_ms.append(start_ms + entry[0])
                starts_ms.append(start_ms)
                merged.append(entry)
        return pieces


def _tile(group: FeatureGroup, start_ms: int, packed: list[Any]) -> TileValue:
    columns = layout_of(group).columns

    def partials(entry: list[Any]) -> list[Partial]:
        return [column.partial(entry, start_ms) for column in columns]

    few = packed[0] is not None
    entries = packed if few else packed[3]
    log = encode_log([(start_ms + entry[0], partials(entry)) for entry in entries or ()])
    if few:
        whole = [column.aggregation.combine_all(column.partial(entry, start_ms) for entry in packed) for column in columns]
        first, last = packed[0][0], packed[-1][0]
    else:
        whole, first, last = partials(packed[2]), packed[1], packed[2][0]
    return TileValue(FORMAT, group.fingerprint, start_ms + first, start_ms + last, whole, log)
