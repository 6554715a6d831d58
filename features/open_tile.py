"""The join of new events to an open tile, in its packed form (`features.speed_value`), whose entries stay bytes unless a new one has their instant.

A hot tile has a thousand entries, of which a micro-batch adds a few: reading all of them would cost more than all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from features.aggregations import Partial
from features.declaration import FeatureGroup
from features.errors import PackedValueError
from features.packed import LOG_BOUND, TileValue, decode_log, has_log
from features.speed_value import FEW, entry_of, layout_of

_encoder = msgspec.msgpack.Encoder()
_parts_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_entries_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw] | None)
_entry_decoder = msgspec.msgpack.Decoder(list[Any])
_instant_decoder = msgspec.msgpack.Decoder(int)
_NIL = _encoder.encode(None)

Entry = list[Any]


def join_tile(group: FeatureGroup, start_ms: int, known: bytes, new: TileValue) -> bytes:
    """The packed tile of the events of two tiles that have no event in common: as folding all of them at once and packing gives it.

    Args:
        group: The declaration.
        start_ms: Where both tiles begin.
        known: The tile that is there, packed.
        new: The tile of the new events.

    Raises:
        PackedValueError: `known` is no tile.
    """
    try:
        parts = _parts_decoder.decode(known)
        few = bytes(parts[0]) != _NIL
        entries = parts if few else _entries_decoder.decode(parts[3])
        added = (
            [entry_of(group, start_ms, instant_ms, partials) for instant_ms, partials in decode_log(new)] if has_log(new) else None
        )
        merged = None if entries is None or added is None else _merged(group, start_ms, entries, added)
        if merged is not None and len(merged) <= FEW:
            return _encoder.encode(merged)
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
    """Entries of both, ascending; those of one instant are one."""
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
    """The partials of the events of two entries, at the later instant."""
    instant = max(left[0], right[0])
    entry: Entry = [instant]
    for place, index in enumerate(layout_of(group).stored, 1):
        aggregation = group.features[index].aggregation
        ours, theirs = left[place], right[place]
        if aggregation.timed:
            pair = (_moved(aggregation, ours, start_ms + left[0]), _moved(aggregation, theirs, start_ms + right[0]))
            entry.append(_moved(aggregation, aggregation.combine(*pair), -(start_ms + instant)))
        else:
            entry.append(aggregation.combine(ours, theirs))
    return entry


def _moved(aggregation: Any, partial: Partial, by_ms: int) -> Partial:
    return None if partial is None else aggregation.moved(partial, by_ms)
