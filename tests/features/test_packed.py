"""A packed value is read as it was written, or refused by name; never read wrongly."""

from __future__ import annotations

import msgspec
import pytest

from features.errors import PackedValueError
from features.packed import (
    FORMAT,
    LOG_BOUND,
    BatchValue,
    FeatureView,
    TileValue,
    decode_batch,
    decode_log,
    decode_tile,
    encode,
    encode_log,
)  # fmt: skip

BATCH = BatchValue(FORMAT, "f" * 16, 1_000, 999, [FeatureView([3, 1], [5], [[7, 2]]), FeatureView(None, [], [])])


def test_round_trip() -> None:
    assert decode_batch(encode(BATCH), "f" * 16) == BATCH
    log = [(1, [1, None]), (2, [1, [-(2**63), 2**63 - 1]])]
    tile = decode_tile(encode(TileValue(FORMAT, "f" * 16, 1, 2, [2, None], encode_log(log))), "f" * 16)
    assert [tuple(entry) for entry in decode_log(tile)] == log


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"not msgpack", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode({"format": 1}),
        encode(BATCH)[:-3], encode(msgspec.structs.replace(BATCH, format=FORMAT + 1)), encode(msgspec.structs.replace(BATCH, fingerprint="0" * 16)),
    ],
)  # fmt: skip
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(PackedValueError):
        decode_batch(data, "f" * 16)


def test_a_tile_of_too_many_instants_keeps_no_log() -> None:
    log = [(ts, [1]) for ts in range(LOG_BOUND + 1)]
    tile = TileValue(FORMAT, "f" * 16, 0, LOG_BOUND, [LOG_BOUND + 1], encode_log(log))
    with pytest.raises(PackedValueError):
        decode_log(decode_tile(encode(tile), "f" * 16))
