"""The editor of speed values: writes tiles into the packed value of an entity, drops what has expired, and returns single tiles.

Reads and returns the value that `features.speed_value` describes. It reads the head and the index only, and copies tiles as bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from features.declaration import FeatureGroup
from features.speed_value import HEAD, INDEX, LENGTH, NONE_DROPPED_MS, speed_head

#: The longest speed value, in bytes. A longer one loses its oldest tiles, and its head records the end of the latest lost tile. A tile has to fit.
LONGEST_VALUE = 4 * 1_024 * 1_024
#: A time after all tiles.
_LAST_MS = 2**47 - 1
#: The range of the hour in the index. An hour is compared with those of half the range before and after it.
_HOURS, _NEVER_HOURS = 2**16, 2**15 - 1
_REST_OF_HEAD = struct.Struct(">hII")  # after the format and the fingerprint


class Editor:
    """Reads and writes single tiles of the speed values of a version.

    Args:
        group: The version of the declaration.
        now_hour: The hours since 1970.
        ttl_seconds: How long a tile is kept after it was written; 0 for ever.
        longest: The longest value, in bytes.
    """

    def __init__(self, group: FeatureGroup, now_hour: int = 0, ttl_seconds: int = 0, longest: int = LONGEST_VALUE) -> None:
        self._head, self._tile_ms, self._hour, self._longest = speed_head(group), group.tile_ms, now_hour, longest
        # The latest of the hours that come after now stands for none.
        self._expiry = (now_hour + (math.ceil(ttl_seconds / 3_600) + 1 if ttl_seconds else _NEVER_HOURS)) % _HOURS

    def folded_and_tiles(self, value: bytes | None, first_ms: int, closed_ms: int | None = None) -> tuple[bytes, dict[int, bytes]]:
        """Returns the record of what is folded in a value, and its tiles that start at or after `first_ms`, or before `closed_ms`.

        The tiles are: start in ms → packed tile. Both results are empty if the value is of another version.
        """
        tiles = dict[int, bytes]()
        _, left, end, folded = self._read(value)
        if not value or not left:
            return folded, tiles
        begin = HEAD.size + left * INDEX.size
        while left:
            start_ms, _, size = self._entry(value, left - 1)
            if start_ms < first_ms:
                break
            left, end = left - 1, end - size
            tiles[start_ms] = value[end : end + size]
        if closed_ms is None:
            return folded, tiles
        for place in range(left):
            start_ms, _, size = self._entry(value, place)
            if start_ms >= closed_ms:
                break
            tiles[start_ms], begin = value[begin : begin + size], begin + size
        return folded, tiles

    def folded(self, value: bytes | None) -> bytes:
        """Returns the record of what is folded in a value; empty if there is none."""
        return self._read(value)[-1]

    def put(
        self, value: bytes | None, new: Sequence[tuple[int, bytes]], folded: bytes | None = None, closed_ms: int = NONE_DROPPED_MS
    ) -> bytes | None:
        """Writes tiles into a value, and drops what has expired. Returns the new value; None if it would be empty.

        Of a tile that is too long, a value without the tile remains, which no reader takes for one of an entity without events.

        Args:
            value: The value; None for none. It counts as none if it is of another version or cannot be read.
            new: The tiles, ascending: start in ms, packed tile. They replace those that have the same start.
            folded: The record of what is folded; None if it does not change.
            closed_ms: Tiles that start before this time are removed, because they are in a history.
        """
        dropped_ms, count, end, known = self._read(value)
        data, folded = value if value and end else b"", known if folded is None else folded
        if (new_length := sum([len(tile) for _, tile in new])) > self._longest:
            too_long = [start_ms for start_ms, tile in new if len(tile) > self._longest]
            dropped_ms = max([dropped_ms, *[start_ms + self._tile_ms for start_ms in too_long]])
            new = [(start_ms, tile) for start_ms, tile in new if start_ms not in too_long]
            new_length = sum([len(tile) for _, tile in new])
        # The tiles from the first new one on: usually none, or the one that is replaced.
        first_new_ms, stay, tiles_end = new[0][0] if new else _LAST_MS, count, end
        after: dict[int, tuple[int, bytes]] = {}
        while stay:
            start_ms, expiry, size = self._entry(data, stay - 1)
            if start_ms < first_new_ms:
                break
            stay, end = stay - 1, end - size
            after[start_ms] = expiry, data[end : end + size]
        # The oldest go: those of the history, the expired ones, and as many as make the value too long.
        begin = tiles_begin = HEAD.size + count * INDEX.size
        skip, total = 0, tiles_end - tiles_begin + new_length
        while skip < stay:
            start_ms, expiry, size = self._entry(data, skip)
            if start_ms >= closed_ms:
                if (expiry - self._hour) % _HOURS <= _NEVER_HOURS and total <= self._longest:
                    break
                dropped_ms = max(dropped_ms, start_ms + self._tile_ms)
            skip, begin, total = skip + 1, begin + size, total - size
        last: list[tuple[int, int, bytes]] = [(start_ms, self._expiry, tile) for start_ms, tile in new]
        if after:
            after |= {start_ms: (self._expiry, tile) for start_ms, tile in new}
            last = [(start_ms, *after[start_ms]) for start_ms in sorted(after)]
        left = stay - skip + len(last)
        if not (left or folded or dropped_ms > NONE_DROPPED_MS):
            return None
        return b"".join(
            [
                self._head,
                _REST_OF_HEAD.pack(dropped_ms >> 32, dropped_ms & 0xFFFFFFFF, left),
                data[HEAD.size + skip * INDEX.size : HEAD.size + stay * INDEX.size],
                *[self._packed_entry(start_ms, expiry, len(tile)) for start_ms, expiry, tile in last],
                data[begin:end],
                *[tile for _, _, tile in last],
                folded,
                LENGTH.pack(len(folded)),
            ]
        )

    def _read(self, value: bytes | None) -> tuple[int, int, int, bytes]:
        """Returns `dropped_ms`, the number of tiles, the place where they end, and the record of what is folded.

        The place is 0, and there is no tile and no record, if the value is of another version or damaged.
        """
        if value is not None and len(value) >= HEAD.size + LENGTH.size and value.startswith(self._head):
            high, low, count = _REST_OF_HEAD.unpack_from(value, len(self._head))
            end = len(value) - LENGTH.size - (value[-2] << 8 | value[-1])
            if end >= HEAD.size + count * INDEX.size:
                return high << 32 | low, count, end, value[end : -LENGTH.size]
        return NONE_DROPPED_MS, 0, 0, b""

    def _entry(self, value: bytes, place: int) -> tuple[int, int, int]:
        """Returns the start in ms, the hour of expiry and the length in bytes of the tile at `place` of a value."""
        high, low, expiry, long, size = INDEX.unpack_from(value, HEAD.size + place * INDEX.size)
        return (high << 32 | low) * self._tile_ms, expiry, long << 16 | size

    def _packed_entry(self, start_ms: int, expiry: int, size: int) -> bytes:
        number = start_ms // self._tile_ms
        return INDEX.pack(number >> 32, number & 0xFFFFFFFF, expiry, size >> 16, size & 0xFFFF)
