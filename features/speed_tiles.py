"""The decoded speed value: the speed tiles of one entity, which many requests read while they grow.

Reads the packed value that `features.speed_value` describes. Returns its tiles, and for the merge its pieces, which no sawtooth window splits. The
value of a hot entity changes with each micro-batch, but only in its last tiles. So the decoded tiles, the pieces and their sums are taken over from
the entity's former value as far as the two values agree.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import msgspec

from features.aggregations import Partial, Value
from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.merge import BEGINNING_MS
from features.packed import FORMAT, BatchValue, TileValue, encode_log
from features.speed_value import HEAD, INDEX, LENGTH, NONE_DROPPED_MS, SPEED_FORMAT, Column, layout_of, with_entries

_decoder = msgspec.msgpack.Decoder(list[list[Any]])
#: The beginning of a MessagePack array whose length has 4 bytes: 0xDD and the length.
_ARRAY = struct.Struct(">BI")
#: A value with at most this number of tiles is decoded and cut from scratch; nothing is taken over from the former value.
_FEW_TILES = 16
#: The smallest number of pieces, shared with the former value, whose sum is remembered; and the largest number of remembered sums.
_FEW_PIECES, _MOST_SUMS = 64, 500


def decode_speed(data: bytes, group: FeatureGroup, former: tuple[bytes, SpeedTiles] | None = None) -> SpeedTiles:
    """Decodes the tiles of a speed value.

    Args:
        data: The value.
        group: The version of the declaration to which the value belongs.
        former: Another value of the same entity and version, usually an earlier value, with its tiles. The first tiles of `data` are not
            decoded again if the other value has them in a row.

    Raises:
        PackedValueError: `data` has another format or another version of the declaration, or is no speed value.
    """
    try:
        speed_format, fingerprint, high, low, count = HEAD.unpack_from(data)
        if speed_format != SPEED_FORMAT or fingerprint.hex() != group.fingerprint:
            raise PackedValueError(f"The speed value has format {speed_format} and version {fingerprint.hex()}.")
        end, [folded] = HEAD.size + count * INDEX.size, LENGTH.unpack(data[-LENGTH.size :])
        tiles_end = len(data) - LENGTH.size - folded
        first, shared, length = _in_common(data, count, tiles_end, former[0]) if former and count > _FEW_TILES else (0, 0, 0)
        index, tile_ms = INDEX.iter_unpack(data[HEAD.size + shared * INDEX.size : end]), group.tile_ms
        starts_ms = [(high << 32 | low) * tile_ms for high, low, *_ in index]
        decoded = _decoder.decode(_ARRAY.pack(0xDD, count - shared) + data[end + length : tiles_end])
        packed = list(map(with_entries, decoded))
    except (struct.error, msgspec.DecodeError, IndexError) as error:
        raise PackedValueError(f"The speed value cannot be read: {error}.") from None
    if len(packed) != count - shared or len(starts_ms) != count - shared:
        raise PackedValueError("The speed value has another number of tiles than its index.")
    dropped_ms = high << 32 | low
    return (
        former[1].grown(first, shared, starts_ms, packed, dropped_ms)
        if former and shared
        else SpeedTiles(group, starts_ms, packed, dropped_ms)
    )


def _in_common(data: bytes, count: int, tiles_end: int, former: bytes) -> tuple[int, int, int]:
    """Returns the place in the former value of the first tile of `data`, the number of equal tiles from there on, and their length in bytes."""
    former_count = HEAD.unpack_from(former)[-1]
    index, former_index = (value[HEAD.size : HEAD.size + n * INDEX.size] for value, n in ((data, count), (former, former_count)))
    begin, former_begin = (HEAD.size + len(its_index) for its_index in (index, former_index))
    at = former_index.find(start := index[:5])
    while at > 0 and at % INDEX.size:
        at = former_index.find(start, at + 1)
    if at < 0:
        return 0, 0, 0
    former_begin += _length(former_index[:at])
    most, changed = min(len(index), len(former_index) - at), INDEX.size
    while (same := most - changed) > 0:
        if index[:same] == former_index[at : at + same]:
            length = tiles_end - begin - _length(index[same:])
            if length > 0 and data[begin : begin + length] == former[former_begin : former_begin + length]:
                return at // INDEX.size, same // INDEX.size, length
        changed *= 2
    return 0, 0, 0


def _length(index: bytes) -> int:
    """Returns the length in bytes of the tiles of a part of an index."""
    return sum(high << 16 | low for *_, high, low in INDEX.iter_unpack(index))


#: (place of a feature's partial in an entry, whether it is the sum of a mean, start of the window in ms) → (place of the first piece after the sum,
#: the sum: the partial of the pieces from the start of the window up to that place).
_Sums = dict[tuple[int, bool, int], tuple[int, Partial]]


class PiecesMerged(NamedTuple):
    """The result of merging pieces with a view. It is one value, because several threads read and replace it.

    Attributes:
        batch: The view.
        windows_ms: The start of each feature's window, in ms since 1970.
        partials: The partial of each feature.
        values: The value of each feature. The values of aggregations that age (`Aggregation.ages`) hold for the time of that merge only.
    """

    batch: BatchValue | None
    windows_ms: tuple[int, ...]
    partials: Sequence[Partial]
    values: Sequence[Value]


class Pieces:
    """The events of a speed value from `cut_ms`, the end of a batch view, up to an instant, as pieces that no sawtooth window splits.

    A piece is a whole tile, or one instant of a tile.

    Attributes:
        cut_ms: The first instant of the pieces.
        instants_ms: The first instant of each piece, ascending.
        starts_ms: The start of the tile of each piece.
        entries: The entry of each piece (`features.speed_value`).
        tiles: The number of tiles that the pieces belong to.
        last_ms: The time of the latest event; 0 without pieces.
        merged: The result of the last merge; None before the first merge.
    """

    __slots__ = ("_settled", "_sums", "cut_ms", "entries", "instants_ms", "last_ms", "merged", "starts_ms", "tiles")

    def __init__(self, cut_ms: int, settled: int = 0, sums: _Sums | None = None) -> None:
        self.cut_ms, self.tiles, self.last_ms = cut_ms, 0, 0
        # The number of pieces that a former value had as well, and sums over these pieces.
        self._settled, self._sums = settled, {} if sums is None else sums
        self.instants_ms: list[int] = []
        self.starts_ms: list[int] = []
        self.entries: list[list[Any]] = []
        self.merged: PiecesMerged | None = None

    def of_later(self, first_ms: int, end_ms: int) -> Pieces:
        """Returns the pieces that a later value shares: those of the tiles that start in [first_ms, end_ms)."""
        first, end = bisect_left(self.starts_ms, first_ms), bisect_left(self.starts_ms, end_ms)
        sums: _Sums = {}
        if not first and self._settled <= end:
            # A sum that ends before the last settled piece was not read for this value, because its window has moved on.
            sums = {key: known for key, known in list(self._sums.items()) if known[0] == self._settled}
        return self._part(first, end, end - first, sums)

    def before(self, end_ms: int) -> Pieces:
        """Returns the pieces of the tiles that start before `end_ms`."""
        end = bisect_left(self.starts_ms, end_ms)
        return self._part(0, end, self._settled, self._sums) if self._settled <= end else self._part(0, end, 0, {})

    def _part(self, first: int, end: int, settled: int, sums: _Sums) -> Pieces:
        pieces = Pieces(self.cut_ms, settled, sums)
        pieces.instants_ms, pieces.starts_ms = self.instants_ms[first:end], self.starts_ms[first:end]
        pieces.entries = self.entries[first:end]
        pieces.tiles = self.tiles - len(set(self.starts_ms[:first])) - len(set(self.starts_ms[end:]))
        return pieces

    def since(self, column: Column, window_ms: int) -> Partial:
        """Returns the partial of a feature over the pieces from `window_ms` on."""
        first, settled = bisect_left(self.instants_ms, window_ms), self._settled
        if settled - first < _FEW_PIECES:
            return self._between(column, first, None)
        key = column.place, column.sum_of_mean, window_ms
        end, partial = self._sums.get(key, (first, None))
        if end < settled:
            partial = column.aggregation.combine_all([partial, self._between(column, end, settled)])
            if len(self._sums) >= _MOST_SUMS:
                self._sums.clear()
            self._sums[key] = settled, partial
        return column.aggregation.combine_all([partial, self._between(column, settled, None)])

    def _between(self, column: Column, first: int, end: int | None) -> Partial:
        """Returns the partial of a feature over the pieces [first, end)."""
        entries, place, aggregation = self.entries[first:end] if first or end else self.entries, column.place, column.aggregation
        if aggregation.timed:
            starts_ms = self.starts_ms[first:end]
            return aggregation.combine_all(
                aggregation.moved(entry[place], start_ms + entry[0])
                for entry, start_ms in zip(entries, starts_ms, strict=True)
                if entry[place] is not None
            )
        return aggregation.combine_all([entry[place] for entry in entries if entry[place] is not None])


class SpeedTiles(Sequence[TileValue]):
    """The speed tiles of one entity, ascending. A `TileValue` is made when it is read.

    Attributes:
        dropped_ms: Tiles that start before this instant may be missing: the store has dropped or lost them.
        last_ms: The time of the latest event; `BEGINNING_MS` without tiles.
    """

    __slots__ = ("_former", "_group", "_packed", "_pieces", "_starts_ms", "dropped_ms", "last_ms")

    def __init__(self, group: FeatureGroup, starts_ms: list[int], packed: list[list[Any]], dropped_ms: int) -> None:
        self._group, self._starts_ms, self._packed, self.dropped_ms = group, starts_ms, packed, dropped_ms
        self._pieces: Pieces | None = None
        # The pieces of a former value, and the number of tiles that the two values share.
        self._former: tuple[Pieces, int] | None = None
        self.last_ms = BEGINNING_MS
        if packed:
            newest = packed[-1]
            self.last_ms = starts_ms[-1] + (newest[2] if newest[0] is None else newest[-1])[0]

    def grown(self, first: int, shared: int, starts_ms: list[int], packed: list[list[Any]], dropped_ms: int) -> SpeedTiles:
        """Returns the tiles of a later value: `shared` tiles of this value, from place `first` on, and then the tiles in `packed`."""
        later = SpeedTiles(
            self._group,
            self._starts_ms[first : first + shared] + starts_ms,
            self._packed[first : first + shared] + packed,
            dropped_ms,
        )
        later._former = (self._pieces, shared) if self._pieces else None
        return later

    def __len__(self) -> int:
        return len(self._packed)

    def __bool__(self) -> bool:
        """Whether there are tiles, or some are missing."""
        return bool(self._packed) or self.dropped_ms > NONE_DROPPED_MS

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
        """Returns the pieces in [cut_ms, until_ms); None if a tile that must be cut has no log.

        The pieces of all events from `cut_ms` on are kept for later calls, which cut them for an earlier `until_ms`.
        """
        if until_ms <= self.last_ms and len(self._packed) <= _FEW_TILES:
            return self._cut(Pieces(cut_ms), 0, until_ms)
        pieces = self._pieces  # another thread may replace it
        if pieces is None or pieces.cut_ms != cut_ms:
            pieces = self._pieces = self._whole(cut_ms)
            self._former = None
        if until_ms > self.last_ms:
            return pieces
        if pieces is None:
            return self._cut(Pieces(cut_ms), 0, until_ms)
        place = max(bisect_left(self._starts_ms, until_ms) - 1, 0)
        return self._cut(pieces.before(self._starts_ms[place]), place, until_ms)

    def _whole(self, cut_ms: int) -> Pieces | None:
        former, shared = self._former or (None, 0)
        if former is not None and former.cut_ms == cut_ms:
            return self._cut(former.of_later(self._starts_ms[0], self._starts_ms[shared]), shared, self.last_ms + 1)
        return self._cut(Pieces(cut_ms), 0, self.last_ms + 1)

    def _cut(self, pieces: Pieces, done: int, until_ms: int) -> Pieces | None:
        """Adds the pieces of the tiles after the first `done` tiles, before `until_ms`; returns None if a tile that must be cut has no log."""
        cut_ms = pieces.cut_ms
        instants_ms, starts_ms, merged, exact = (
            pieces.instants_ms,
            pieces.starts_ms,
            pieces.entries,
            bool(self._group.exact_windows),
        )
        for start_ms, packed in zip(self._starts_ms[done:], self._packed[done:], strict=True):
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
        if merged:
            pieces.last_ms = starts_ms[-1] + merged[-1][0]
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
