"""The history of one entity: all its events before `until`, as partials per hop. In Kappa it replaces the batch view.

A batch view has suffixes: a merge finds the partial of a window by one look-up, but later events cannot be added to a suffix. A history has the
partials of the hops themselves, so closed tiles can join it (`roll`). A reader computes the suffixes that it needs (`decode_history`).

    value   head, body
    head    format (1 byte), fingerprint (8), until in ms (6), a multiple of the tile length
    body    MessagePack: [newest event in ms, [hops of a feature, …]]
    hops    [places, partials, blurred]     place: the number of hops before the hop of `until`; in an exact window, the milliseconds before `until`
            blurred                         of an exact window, an instant in ms: a tile before it may be stored as a single partial, at the start
                                            of the tile, because its instants are not known; nil if there is no such tile

A feature of all time has one partial, at place 0. Hops before every window at or after `until` are dropped.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from features.aggregations import Aggregation, Ints, Partial, Series
from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import FORMAT, TAIL_BOUND, FeatureView, HistoryView
from features.speed_value import layout_of, with_entries
from features.tiles import runs
from features.view import strided, suffixes
from features.windows import Window, floor_ms

#: Must change when the layout above or the form of a partial changes.
HISTORY_FORMAT = 1

_HEAD = struct.Struct(">B8shI")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int | None, list[tuple[list[int], list[Any], int | None]]])
_tile_decoder = msgspec.msgpack.Decoder(list[Any])


def history_field(fingerprint: str) -> bytes:
    """Returns the hash field of the history of a version of the declaration."""
    return b"history:" + fingerprint[:8].encode()


class Hops(NamedTuple):
    """One feature in a history.

    Attributes:
        starts_ms: The starts of the hops that have events, ascending. In an exact window they are the instants of the events; for a feature
            of all time, a single 0.
        partials: The partial of each hop.
        blurred_ms: Of an exact window, an instant: a tile before it may have a single partial, at the start of the tile, because its instants
            are not known. None if there is no such tile.
    """

    starts_ms: list[int]
    partials: list[Partial]
    blurred_ms: int | None = None


class History(NamedTuple):
    """All events of one entity before `until_ms`: the time of the newest event, and the hops of each feature."""

    until_ms: int
    newest_event_ms: int | None
    features: list[Hops]


def fold_histories(group: FeatureGroup, inputs: Sequence[Series], entity: Ints, until_ms: int) -> list[History]:
    """Returns the histories of entities, computed from all their events.

    Args:
        group: The declaration.
        inputs: One series per input of the group, ascending by entity and time, of events before `until_ms`.
        entity: The index of the entity of each event, ascending.
        until_ms: The end of the histories, a multiple of the tile length.

    Returns:
        One history per entity that has events, ascending by the index of the entity.
    """
    ts_ms = inputs[0].ts_ms
    lo, hi = runs(entity)
    features = [_fold_feature(group, index, inputs, entity, until_ms) for index in range(len(group.features))]
    return [
        History(until_ms, newest_ms, [hops.get(which, Hops([], [])) for hops in features])
        for which, newest_ms in zip(entity[lo].tolist(), ts_ms[hi - 1].tolist(), strict=True)
    ]


def _fold_feature(group: FeatureGroup, index: int, inputs: Sequence[Series], entity: Ints, until_ms: int) -> dict[int, Hops]:
    """Returns a mapping: index of an entity → its hops of a feature."""
    feature, series = group.features[index], inputs[group.input_of[index]]
    window, chosen = feature.window, series.valid
    if window is not None:
        chosen = chosen & (series.ts_ms >= window.start_ms(until_ms))
    series, entity = Series(series.ts_ms[chosen], series.v[chosen], series.valid[chosen]), entity[chosen]
    starts_ms = floor_ms(series.ts_ms, window.hop_ms) if window else np.zeros(len(entity), np.int64)
    lo, hi = runs(entity, starts_ms)
    partials, starts_ms, entity = feature.aggregation.fold(series, lo, hi), starts_ms[lo], entity[lo]
    first, last = runs(entity)
    return {
        which: _bounded(group, feature.aggregation, window, Hops(starts_ms[a:b].tolist(), partials[a:b]), until_ms)
        for which, a, b in zip(entity[first].tolist(), first.tolist(), last.tolist(), strict=True)
    }


def roll(group: FeatureGroup, history: History | None, tiles: Mapping[int, bytes], until_ms: int) -> History:
    """Returns the history extended by the events of tiles.

    Args:
        group: The declaration.
        history: The history so far; None for an entity without a history.
        tiles: Start in ms → packed tile (`features.speed_value`) of events that `history` does not contain. Each tile lies before the
            end of the new history.
        until_ms: The end of the new history, a multiple of the tile length. If `history` ends later, the new history ends there.

    Raises:
        PackedValueError: A tile cannot be read.
    """
    newest_ms = history.newest_event_ms if history else None
    if history:
        until_ms = max(until_ms, history.until_ms)
    try:
        opened = [(start_ms, with_entries(_tile_decoder.decode(data))) for start_ms, data in sorted(tiles.items())]
        latest = [start_ms + (tile[2] if tile[0] is None else tile[-1])[0] for start_ms, tile in opened]
    except (msgspec.DecodeError, IndexError, TypeError) as error:
        raise PackedValueError(f"The tile cannot be read: {error}.") from None
    features = []
    for index, (feature, column) in enumerate(zip(group.features, layout_of(group).columns, strict=True)):
        window, hops = feature.window, history.features[index] if history else Hops([], [])
        blurred_ms, new = hops.blurred_ms, []
        for start_ms, tile in opened:
            entries, hop_ms = _pieces(window, start_ms, tile)
            if entries is None:
                entries, blurred_ms = [tile[2]], max(blurred_ms or start_ms, start_ms + group.tile_ms)
            new += [(start_ms + entry[0] if hop_ms is None else hop_ms, column.partial(entry, start_ms)) for entry in entries]
        joined = _within(group, window, _joined(feature.aggregation, hops, new, blurred_ms), until_ms)
        features.append(_bounded(group, feature.aggregation, window, joined, until_ms))
    return History(until_ms, max((ms for ms in (newest_ms, *latest) if ms is not None), default=None), features)


def _pieces(window: Window | None, start_ms: int, tile: list[Any]) -> tuple[list[Any] | None, int | None]:
    """Returns the entries of a decoded tile that a window needs, and the start of the hop that contains all of them.

    The hop is None for an exact window, because each instant is a hop of its own. The entries are None if an exact window needs the log of a
    tile without a log. The whole tile then counts at its start, which is returned as the hop.
    """
    few = tile[0] is not None
    if window is not None and window.exact:
        entries = tile if few else tile[3]
        return entries, None if entries is not None else start_ms
    return tile if few else [tile[2]], 0 if window is None else floor_ms(start_ms, window.hop_ms)


def _joined(aggregation: Aggregation, hops: Hops, new: Iterable[tuple[int, Partial]], blurred_ms: int | None) -> Hops:
    starts_ms, partials = list(hops.starts_ms), list(hops.partials)
    for start_ms, partial in new:
        if partial is None:
            continue
        place = len(starts_ms) if not starts_ms or starts_ms[-1] < start_ms else bisect_left(starts_ms, start_ms)
        if place < len(starts_ms) and starts_ms[place] == start_ms:
            partials[place] = aggregation.join(partials[place], partial)
        else:
            starts_ms.insert(place, start_ms)
            partials.insert(place, partial)
    return Hops(starts_ms, partials, blurred_ms)


def _within(group: FeatureGroup, window: Window | None, hops: Hops, until_ms: int) -> Hops:
    """Returns the hops without those before every window at or after `until_ms`."""
    if window is None:
        return hops
    begin_ms, blurred_ms = window.start_ms(until_ms), hops.blurred_ms
    if blurred_ms is not None:
        blurred_ms = blurred_ms if blurred_ms > begin_ms else None
        begin_ms = floor_ms(begin_ms, group.tile_ms)
    first = bisect_left(hops.starts_ms, begin_ms)
    return Hops(hops.starts_ms[first:], hops.partials[first:], blurred_ms)


def _bounded(group: FeatureGroup, aggregation: Aggregation, window: Window | None, hops: Hops, until_ms: int) -> Hops:
    """Returns the hops, joined by tile if an exact window has more than `TAIL_BOUND` instants."""
    if window is None or not window.exact or len(hops.starts_ms) <= TAIL_BOUND:
        return hops
    by_tile = zip(floor_ms(np.array(hops.starts_ms), group.tile_ms).tolist(), hops.partials, strict=True)
    return _joined(aggregation, Hops([], []), by_tile, until_ms)


class _Suffixes(Sequence[Partial]):
    """The suffixes of hops. Each suffix is computed when it is read, and the one read last is kept.

    A window begins at the same hop for the length of a hop, so its suffix is read many times. Storing all suffixes would take much memory if the
    partials are sets.
    """

    __slots__ = ("_aggregation", "_last", "_partials")

    def __init__(self, aggregation: Aggregation, partials: list[Partial]) -> None:
        self._aggregation, self._partials = aggregation, partials
        self._last: tuple[int, Partial] = (-1, None)

    def __len__(self) -> int:
        return len(self._partials)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Suffixes) and self._partials == other._partials

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, place: Any) -> Any:
        last = self._last
        if last[0] != place:
            last = self._last = place, self._aggregation.combine_all(self._partials[place:])
        return last[1]


def history_view(group: FeatureGroup, history: History) -> HistoryView:
    """Returns the history in the form that a merge reads."""
    until_ms, views = history.until_ms, []
    for feature, hops in zip(group.features, history.features, strict=True):
        aggregation, window = feature.aggregation, feature.window
        if window is None:
            views.append(FeatureView(aggregation.combine_all(hops.partials), [], []))
            continue
        if not window.exact:
            views.append(FeatureView(None, hops.starts_ms, _Suffixes(aggregation, hops.partials)))
            continue
        by_tile = hops.blurred_ms is not None
        if by_tile:
            window = Window(window.size_ms, group.tile_ms)
        # With a buffer longer than the window, nothing is collapsed.
        view, own = suffixes(aggregation, window, until_ms, window.size_ms + window.hop_ms, hops.starts_ms, hops.partials)
        views.append(FeatureView(None, view.hop_starts_ms, [*view.suffixes, None]) if by_tile else strided(view, own))
    return HistoryView(FORMAT, group.fingerprint, until_ms, history.newest_event_ms, views)


def pack_history(group: FeatureGroup, history: History) -> bytes:
    """Encodes a history."""
    until_ms, features = history.until_ms, []
    for feature, hops in zip(group.features, history.features, strict=True):
        hop_ms = feature.window.hop_ms if feature.window else 1
        last_ms = floor_ms(until_ms, hop_ms) if feature.window else 0
        features.append(([(last_ms - start_ms) // hop_ms for start_ms in hops.starts_ms], hops.partials, hops.blurred_ms))
    head = _HEAD.pack(HISTORY_FORMAT, bytes.fromhex(group.fingerprint), until_ms >> 32, until_ms & (2**32 - 1))
    return head + _encoder.encode((history.newest_event_ms, features))


def unpack_history(data: bytes, group: FeatureGroup) -> History:
    """Decodes a history.

    Raises:
        PackedValueError: `data` has another format or another version of the declaration, or is no history.
    """
    try:
        history_format, fingerprint, high, low = _HEAD.unpack_from(data)
        if history_format != HISTORY_FORMAT or fingerprint.hex() != group.fingerprint:
            raise PackedValueError(f"The history has format {history_format} and version {fingerprint.hex()}.")
        newest_ms, packed = _decoder.decode(memoryview(data)[_HEAD.size :])
    except (struct.error, msgspec.DecodeError) as error:
        raise PackedValueError(f"The history cannot be read: {error}.") from None
    until_ms, features = high << 32 | low, []
    if len(packed) != len(group.features):
        raise PackedValueError("The history has another number of features than its group.")
    for feature, (places, partials, blurred_ms) in zip(group.features, packed, strict=True):
        hop_ms = feature.window.hop_ms if feature.window else 1
        last_ms = floor_ms(until_ms, hop_ms) if feature.window else 0
        features.append(Hops([last_ms - place * hop_ms for place in places], partials, blurred_ms))
    return History(until_ms, newest_ms, features)


def history_end_ms(data: bytes) -> int:
    """Returns the end of a packed history, in ms since 1970."""
    _, _, high, low = _HEAD.unpack_from(data)
    return int(high << 32 | low)


def decode_history(data: bytes, group: FeatureGroup) -> HistoryView:
    """Decodes a history to the form that a merge reads.

    Raises:
        PackedValueError: `data` has another format or another version of the declaration, or is no history.
    """
    return history_view(group, unpack_history(data, group))
