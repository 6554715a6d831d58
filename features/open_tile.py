"""The join of new events to an open tile. Reads and returns the packed tile (`features.speed_value`).

An entry of the tile is decoded only if a new event may have its instant; all other entries are copied as bytes. The tile of a hot entity has a
thousand entries, and a micro-batch adds a few: decoding all entries would take longer than the rest of the join.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import LOG_BOUND, TileValue
from features.speed_value import FEW, compact, entries_of, entry_of, expanded, layout_of

_encoder = msgspec.msgpack.Encoder()
_parts_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_entries_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw] | None)
_entry_decoder = msgspec.msgpack.Decoder(list[Any])
_instant_decoder = msgspec.msgpack.Decoder(int)
_NIL = _encoder.encode(None)
#: The first bytes of MessagePack's arrays. An integer begins with none of them.
_ARRAYS = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])

Entry = list[Any]


def join_tile(group: FeatureGroup, start_ms: int, known: bytes, new: TileValue) -> bytes:
    """Returns the packed tile of the events of two tiles, which have no event in common.

    The result is equal to the tile that folding all events at once and packing would return.

    Args:
        group: The declaration.
        start_ms: The start of both tiles, in ms since 1970.
        known: The packed tile of the earlier events.
        new: The tile of the new events.

    Raises:
        PackedValueError: `known` cannot be read as a tile.
    """
    try:
        parts = _parts_decoder.decode(known)
        begin = bytes(parts[0])
        few = begin != _NIL
        if few and begin[0] not in _ARRAYS:  # one entry
            parts = [msgspec.Raw(known)]
        entries = parts if few else _entries_decoder.decode(parts[3])
        added = entries_of(group, start_ms, new)
        merged = None if entries is None or added is None else _merged(group, start_ms, entries, added)
        if merged is not None and len(merged) <= FEW:
            return _encoder.encode(merged if len(merged) > 1 else merged[0])
        before = [_entry_decoder.decode(part) for part in (parts if few else parts[2:3])]
        first = before[0][0] if few else _instant_decoder.decode(parts[1])
    except (msgspec.DecodeError, IndexError) as error:
        raise PackedValueError(f"The tile cannot be read: {error}.") from None
    whole = entry_of(group, start_ms, new.last_ms, new.partials)
    for entry in before:
        whole = _joined(group, start_ms, entry, whole)
    log = merged if merged is not None and len(merged) <= LOG_BOUND else None
    return _encoder.encode([None, min(first, new.first_ms - start_ms), whole, log])


def _merged(group: FeatureGroup, start_ms: int, entries: Sequence[msgspec.Raw], added: Sequence[Entry]) -> list[Any]:
    """Returns the entries of both, ascending. Two entries of one instant are joined."""
    merged: list[Any] = list(entries)
    place = len(merged)
    for entry in reversed(added):
        while place and (other := _entry_decoder.decode(merged[place - 1]))[0] > entry[0]:
            place -= 1
        if place and other[0] == entry[0]:
            place -= 1
            merged[place] = _joined(group, start_ms, other, entry)
        else:
            merged.insert(place, entry)
    return merged


def _joined(group: FeatureGroup, start_ms: int, left: Entry, right: Entry) -> Entry:
    """Returns an entry with the partials of the events of two entries, at the later instant of the two."""
    instant = max(left[0], right[0])
    entry: Entry = [instant]
    for place, aggregation in enumerate(layout_of(group).aggregations, 1):
        ours = expanded(aggregation, left[place], start_ms + left[0])
        theirs = expanded(aggregation, right[place], start_ms + right[0])
        entry.append(compact(aggregation, aggregation.combine(ours, theirs), start_ms + instant))
    return entry
