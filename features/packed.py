"""The packed values: what one read of the online store brings, as bytes.

    hash `{group}:{id}`     field `batch:{version}`             BatchValue      the batch view of the entity as of batch_end
                            field `speed:{version}`             speed value     all speed tiles, see `features.speed_value`

The version is the beginning of the declaration's fingerprint, so that an older declaration is served on while a newer one is made. batch_end, the
whole fingerprint and the partials travel together, so that one read is a consistent cut. The encoding is MessagePack (msgspec),
arrays in the order of the attributes; `FORMAT` changes when that order, a field's name,
or the form of a partial does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from features.aggregations import Partial
from features.errors import PackedValueError

FORMAT = 3
#: A tile keeps its log up to so many different milliseconds; beyond, a cut inside the tile is answered as degraded.
LOG_BOUND = 1_024
#: In the tail of an exact window every so manyth entry is a whole suffix, the others what happened at their instant alone: sets would
#: grow by the square of the events otherwise, and a merge joins fewer than so many.
STRIDE = 32
#: The tail of an exact window is kept by the instant up to so many; beyond, by the tile, and an answer that needs more is degraded.
TAIL_BOUND = 16_384


def batch_field(fingerprint: str) -> bytes:
    """The field of the batch view of a version."""
    return b"batch:" + fingerprint[:8].encode()


class FeatureView(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One feature in the batch view of one entity.

    Attributes:
        collapsed: The partial of [collapse, batch_end), which every window up to batch_end + buffer contains whole.
        hop_starts_ms: The hops of the tail that have events, ascending; of an exact window the instants that have.
        suffixes: For each of them the partial of [hop start, batch_end): one look-up gives a window, whatever its tail. Of an exact
            window the first and every `STRIDE`th is such a suffix, the others are the partials of their instants. With more than
            `TAIL_BOUND` instants the hops are tiles, each has its suffix, and one None more says so.
    """

    collapsed: Partial
    hop_starts_ms: list[int]
    suffixes: Sequence[Partial]

    @property
    def by_tile(self) -> bool:
        """Whether the tail of an exact window had too many instants."""
        return len(self.suffixes) > len(self.hop_starts_ms)


class BatchValue(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The batch view of one entity: every event with ts < batch_end_ms.

    Attributes:
        format: `FORMAT`.
        fingerprint: The version of the declaration.
        batch_end_ms: Where batch ends and speed begins.
        newest_event_ms: The entity's latest event before batch_end, or None.
        features: One `FeatureView` per feature, in the order of the declaration.
    """

    format: int
    fingerprint: str
    batch_end_ms: int
    newest_event_ms: int | None
    features: list[FeatureView]


class HistoryView(BatchValue, array_like=True, frozen=True, gc=False):
    """What a merge needs of the history of one entity (`features.history`), in the form of a batch view.

    It has the hops of whole windows, so no answer is too late for it. `batch_end_ms` is where the history ends and tiles begin.
    """


class TileValue(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One speed tile of one entity.

    Attributes:
        format: `FORMAT`.
        fingerprint: The version of the declaration.
        first_ms: The earliest event in the tile.
        last_ms: The latest.
        partials: One per feature, over all events of the tile.
        log: [[ts_ms, partials], …] per different millisecond, ascending, as raw MessagePack, for a cut inside the tile (batch_end
            or q); nil where first_ms = last_ms, or beyond `LOG_BOUND`.
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
    """The bytes of a packed value."""
    return _encoder.encode(value)


def encode_log(log: list[tuple[int, list[Partial]]]) -> msgspec.Raw:
    """The log of a tile, or nil where it would say nothing or too much."""
    return msgspec.Raw(_encoder.encode(log)) if 1 < len(log) <= LOG_BOUND else _NO_LOG


def decode_batch(data: bytes, fingerprint: str) -> BatchValue:
    """The batch view in `data`.

    Raises:
        PackedValueError: Another format or another version of the declaration, or no packed value at all.
    """
    return _checked(_batch_decoder, data, fingerprint)


def decode_tile(data: bytes, fingerprint: str) -> TileValue:
    """The speed tile in `data`. Raises as `decode_batch`."""
    return _checked(_tile_decoder, data, fingerprint)


def has_log(tile: TileValue) -> bool:
    """Whether the tile says what happened at each of its instants."""
    return tile.first_ms == tile.last_ms or bytes(tile.log) != _NIL


def decode_log(tile: TileValue) -> list[tuple[int, list[Partial]]]:
    """The tile's log, ascending.

    Raises:
        PackedValueError: The tile had more than `LOG_BOUND` different milliseconds and kept no log.
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
