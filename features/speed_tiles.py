"""The decoded speed value: the speed tiles of one entity, which a request reads again and again while they grow.

Reads the packed value that `features.speed_value` describes; gives its tiles, and for the merge the pieces that no window splits. A hot entity's value
changes with each micro-batch, but for its last tiles it stays as it was: what was decoded, cut and merged of it is taken over from its former value.
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
from features.packed import FORMAT, BatchValue, TileValue, encode_log
from features.speed_value import SPEED_FORMAT, Column, layout_of

_HEAD, _INDEX, _COUNT = struct.Struct(">B8shII"), struct.Struct(">hIHI"), struct.Struct(">I")
_ARRAY = b"\xdd"
#: The length of the beginning of a MessagePack array.
_ARRAY_BEGINS = len(_ARRAY) + _COUNT.size
_decoder = msgspec.msgpack.Decoder(list[list[Any]])
#: So many tiles are decoded and cut anew rather than taken over.
_FEW_TILES = 16
#: Fewer pieces are combined anew rather than remembered; and how many sums are remembered at most.
_FEW_PIECES, _MOST_SUMS = 64, 500


def decode_speed(data: bytes, group: FeatureGroup, former: tuple[bytes, SpeedTiles] | None = None) -> SpeedTiles:
    """The tiles in a speed value.

    Args:
        data: The value.
        group: The version of which it is.
        former: Another value of the same version with its tiles. Those that the two begin with are not decoded again.

    Raises:
        PackedValueError: Another format or another version of the declaration, or no speed value at all.
    """
    try:
        speed_format, fingerprint, high, low, count = _HEAD.unpack_from(data)
        if speed_format != SPEED_FORMAT or fingerprint.hex() != group.fingerprint:
            raise PackedValueError(f"The speed value has format {speed_format} and version {fingerprint.hex()}.")
        end = _HEAD.size + count * _INDEX.size
        first, shared, length = _in_common(data, count, former[0]) if former and count > _FEW_TILES else (0, 0, 0)
        starts_ms = [high << 32 | low for high, low, _, _ in _INDEX.iter_unpack(data[_HEAD.size + shared * _INDEX.size : end])]
        if former and shared:
            packed = _decoder.decode(_ARRAY + _COUNT.pack(count - shared) + data[end + _ARRAY_BEGINS + length :])
        else:
            packed = _decoder.decode(memoryview(data)[end:])
    except (struct.error, msgspec.DecodeError) as error:
        raise PackedValueError(f"The speed value cannot be read: {error}.") from None
    if len(packed) != count - shared or not count or len(starts_ms) != count - shared:
        raise PackedValueError("The speed value has another number of tiles than its index.")
    dropped_ms = high << 32 | low
    return (
        former[1].grown(first, shared, starts_ms, packed, dropped_ms)
        if former and shared
        else SpeedTiles(group, starts_ms, packed, dropped_ms)
    )


def _in_common(data: bytes, count: int, former: bytes) -> tuple[int, int, int]:
    """Which tile of a former value is the first of this one, how many from there on are the same, and the length of their bytes."""
    former_count = _HEAD.unpack_from(former)[-1]
    index, former_index = (value[_HEAD.size : _HEAD.size + n * _INDEX.size] for value, n in ((data, count), (former, former_count)))
    begin, former_begin = (_HEAD.size + len(its_index) + _ARRAY_BEGINS for its_index in (index, former_index))
    if data[begin - _ARRAY_BEGINS : begin] != _ARRAY + _COUNT.pack(count):
        return 0, 0, 0
    at = former_index.find(start := index[:6])
    while at > 0 and at % _INDEX.size:
        at = former_index.find(start, at + 1)
    if at < 0:
        return 0, 0, 0
    former_begin += sum(size for *_, size in _INDEX.iter_unpack(former_index[:at]))
    most, changed = min(len(index), len(former_index) - at), _INDEX.size
    while (same := most - changed) > 0:
        if index[:same] == former_index[at : at + same]:
            length = len(data) - begin - sum(size for *_, size in _INDEX.iter_unpack(index[same:]))
            if length > 0 and data[begin : begin + length] == former[former_begin : former_begin + length]:
                return at // _INDEX.size, same // _INDEX.size, length
        changed *= 2
    return 0, 0, 0


#: The place of a feature's partial, whether it is a mean's sum, and the first instant → the place before which pieces are in the partial, and the partial.
_Sums = dict[tuple[int, bool, int], tuple[int, Partial]]


class PiecesMerged(NamedTuple):
    """Pieces merged with a view, one value because several threads read and replace it.

    Attributes:
        batch: The view.
        windows_ms: Per feature the instant from which pieces are in it.
        partials: One per feature.
        values: One per feature; those of aggregations that age are of the time of that merge.
    """

    batch: BatchValue | None
    windows_ms: tuple[int, ...]
    partials: Sequence[Partial]
    values: Sequence[Value]


class Pieces:
    """What of a speed value lies from `cut_ms` on, the end of a batch view, and before an instant, in pieces that no sawtooth window splits.

    Attributes:
        cut_ms: Where the pieces begin.
        instants_ms: The first instant of each piece, ascending.
        starts_ms: The start of each piece's tile.
        entries: Each piece's entry.
        tiles: How many tiles they are of.
        last_ms: The latest event; 0 without pieces.
        merged: What was merged last.
    """

    __slots__ = ("_settled", "_sums", "cut_ms", "entries", "instants_ms", "last_ms", "merged", "starts_ms", "tiles")

    def __init__(self, cut_ms: int, settled: int = 0, sums: _Sums | None = None) -> None:
        self.cut_ms, self.tiles, self.last_ms = cut_ms, 0, 0
        # How many pieces were in a former value already, and sums of those.
        self._settled, self._sums = settled, {} if sums is None else sums
        self.instants_ms: list[int] = []
        self.starts_ms: list[int] = []
        self.entries: list[list[Any]] = []
        self.merged: PiecesMerged | None = None

    def of_later(self, first_ms: int, end_ms: int) -> Pieces:
        """What the pieces of a later value begin with: those of tiles from `first_ms` on and before `end_ms`."""
        first, end = bisect_left(self.starts_ms, first_ms), bisect_left(self.starts_ms, end_ms)
        sums: _Sums = {}
        if not first and self._settled <= end:
            # A sum that was not needed any more, because a window has moved on, ends earlier.
            sums = {key: known for key, known in list(self._sums.items()) if known[0] == self._settled}
        return self._part(first, end, end - first, sums)

    def before(self, end_ms: int) -> Pieces:
        """The pieces of tiles before `end_ms`."""
        end = bisect_left(self.starts_ms, end_ms)
        return self._part(0, end, self._settled, self._sums) if self._settled <= end else self._part(0, end, 0, {})

    def _part(self, first: int, end: int, settled: int, sums: _Sums) -> Pieces:
        pieces = Pieces(self.cut_ms, settled, sums)
        pieces.instants_ms, pieces.starts_ms = self.instants_ms[first:end], self.starts_ms[first:end]
        pieces.entries = self.entries[first:end]
        pieces.tiles = self.tiles - len(set(self.starts_ms[:first])) - len(set(self.starts_ms[end:]))
        return pieces

    def since(self, column: Column, window_ms: int) -> Partial:
        """The partial of a feature over the pieces from `window_ms` on."""
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
        """The partial of a feature over the pieces from one place to another."""
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
    """The speed tiles of one entity, ascending; a tile is made when it is looked at.

    Attributes:
        dropped_ms: Tiles that began before may have been dropped because of their age.
        last_ms: The latest event.
    """

    __slots__ = ("_former", "_group", "_packed", "_pieces", "_starts_ms", "dropped_ms", "last_ms")

    def __init__(self, group: FeatureGroup, starts_ms: list[int], packed: list[list[Any]], dropped_ms: int) -> None:
        self._group, self._starts_ms, self._packed, self.dropped_ms = group, starts_ms, packed, dropped_ms
        self._pieces: Pieces | None = None
        # The pieces of a former value, and how many tiles of this one they have.
        self._former: tuple[Pieces, int] | None = None
        newest = packed[-1]
        self.last_ms: int = starts_ms[-1] + (newest[2] if newest[0] is None else newest[-1])[0]

    def grown(self, first: int, shared: int, starts_ms: list[int], packed: list[list[Any]], dropped_ms: int) -> SpeedTiles:
        """The tiles of a later value: `shared` of these, from `first` on, and then others."""
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

        The last answer about all events from `cut_ms` on is kept, and cut for an earlier `until_ms`.
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
        """The pieces with those of the tiles behind the first `done` ones, before an instant."""
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
