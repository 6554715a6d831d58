"""The packed values: the bytes that one read of the online store returns for an entity.

    hash `{group}:{id}`     field `batch:{version}`     BatchValue      the batch view of the entity as of batch_end
                            field `speed:{version}`     speed value     all speed tiles, see `features.speed_value`
                            field `history:{version}`   history         in Kappa, all events before the tiles, see `features.history`

The version is the beginning of the declaration's fingerprint, so that an older declaration is served while a newer one is computed. A batch view
contains batch_end, the whole fingerprint and the partials, so that one read is a consistent cut. It is encoded in MessagePack (msgspec), as arrays
in the order of the attributes. `FORMAT` must change when that order, the name of a hash field, or the form of a partial changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from features.aggregations import Partial
from features.errors import PackedValueError

FORMAT = 3
#: A tile has a log if its events have at most this number of different milliseconds. An answer that cuts a tile without a log is degraded.
LOG_BOUND = 1_024
#: In the tail of an exact window the entries at the multiples of this number, from 0 on, are whole suffixes; each other entry is the partial of its
#: instant alone. With a suffix in each entry, sets would grow by the square of the events. A merge joins fewer than this number of single partials.
STRIDE = 32
#: The tail of an exact window has an entry per instant up to this number of instants. With more instants it has an entry per tile, and an answer
#: whose window begins inside a tile is degraded.
TAIL_BOUND = 16_384


def batch_field(fingerprint: str) -> bytes:
    """Returns the hash field of the batch view of a version of the declaration."""
    return b"batch:" + fingerprint[:8].encode()


class FeatureView(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One feature in the batch view of one entity.

    Attributes:
        collapsed: The partial of [collapse, batch_end). Every window with q up to batch_end + buffer contains this whole interval.
        hop_starts_ms: The starts of the hops of the tail that have events, ascending; in an exact window, the instants that have events.
        suffixes: For each start, the partial of [start, batch_end), so that one look-up finds the partial of a window. In an exact window
            only every `STRIDE`th element, from the first on, is such a suffix; the others are the partials of their instants. With more
            than `TAIL_BOUND` instants the hops of an exact window are tiles, each with its suffix, and one more element, None, marks that.
    """

    collapsed: Partial
    hop_starts_ms: list[int]
    suffixes: Sequence[Partial]

    @property
    def by_tile(self) -> bool:
        """Whether the tail of an exact window is stored by tile, because it has too many instants."""
        return len(self.suffixes) > len(self.hop_starts_ms)


class BatchValue(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The batch view of one entity: every event with ts < batch_end_ms.

    Attributes:
        format: `FORMAT`.
        fingerprint: The version of the declaration.
        batch_end_ms: The end of the view, from which on the speed tiles count, in ms since 1970.
        newest_event_ms: The time of the entity's latest event before batch_end; None if there is none.
        features: One `FeatureView` per feature, in the order of the declaration.
    """

    format: int
    fingerprint: str
    batch_end_ms: int
    newest_event_ms: int | None
    features: list[FeatureView]


class HistoryView(BatchValue, array_like=True, frozen=True, gc=False):
    """The history of one entity (`features.history`) in the form of a batch view, which a merge reads.

    It has the hops of whole windows and collapses none of them, so its age makes no feature inexact. `batch_end_ms` is the end of the history.
    """


class TileValue(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One speed tile of one entity.

    Attributes:
        format: `FORMAT`.
        fingerprint: The version of the declaration.
        first_ms: The time of the earliest event in the tile, in ms since 1970.
        last_ms: The time of the latest event in the tile.
        partials: The partial of each feature over all events of the tile.
        log: [[ts_ms, partials], …] with an element per different millisecond, ascending, as raw MessagePack. A merge reads the log to cut the
            tile at batch_end, q, or the beginning of an exact window. Nil if first_ms = last_ms, or with more than `LOG_BOUND` milliseconds.
    """

    format: int
    fingerprint: str
    first_ms: int
    last_ms: int
    partials: list[Partial]
    log: msgspec.Raw


_Packed = TypeVar("_Packed", BatchValue, TileValue)

_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(BatchValue)
_tile_decoder = msgspec.msgpack.Decoder(TileValue)
_NIL = _encoder.encode(None)
_NO_LOG = msgspec.Raw(_NIL)
_log_decoder = msgspec.msgpack.Decoder(list[tuple[int, list[Any]]] | None)


def encode(value: BatchValue | TileValue) -> bytes:
    """Encodes a packed value."""
    return _encoder.encode(value)


def encode_log(log: list[tuple[int, list[Partial]]]) -> msgspec.Raw:
    """Encodes the log of a tile; as nil if it has at most one entry or more than `LOG_BOUND` entries."""
    return msgspec.Raw(_encoder.encode(log)) if 1 < len(log) <= LOG_BOUND else _NO_LOG


def decode_batch(data: bytes, fingerprint: str) -> BatchValue:
    """Decodes a batch view.

    Raises:
        PackedValueError: `data` has another format or another version of the declaration, or is no packed value.
    """
    return _checked(_batch_decoder, data, fingerprint)


def decode_tile(data: bytes, fingerprint: str) -> TileValue:
    """Decodes a speed tile.

    Raises:
        PackedValueError: `data` has another format or another version of the declaration, or is no packed value.
    """
    return _checked(_tile_decoder, data, fingerprint)


def has_log(tile: TileValue) -> bool:
    """Whether the partials at each instant of the tile are known."""
    return tile.first_ms == tile.last_ms or bytes(tile.log) != _NIL


def decode_log(tile: TileValue) -> list[tuple[int, list[Partial]]]:
    """Decodes the log of a tile: (ts_ms, partials) of each instant, ascending.

    Raises:
        PackedValueError: The tile has no log, because it has more than `LOG_BOUND` different milliseconds.
    """
    if tile.first_ms == tile.last_ms:
        return [(tile.first_ms, tile.partials)]
    log: list[tuple[int, list[Partial]]] | None = _log_decoder.decode(tile.log)
    if log is None:
        raise PackedValueError("The tile kept no log.")
    return log


def _checked(decoder: msgspec.msgpack.Decoder[_Packed], data: bytes, fingerprint: str) -> _Packed:
    try:
        value = decoder.decode(data)
    except msgspec.DecodeError as error:
        raise PackedValueError(f"The packed value cannot be read: {error}.") from None
    if value.format != FORMAT or value.fingerprint != fingerprint:
        raise PackedValueError(
            f"The packed value has format {value.format} and version {value.fingerprint}, not {FORMAT} and {fingerprint}."
        )
    return value
