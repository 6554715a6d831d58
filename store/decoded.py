"""Decoded values by the very bytes that they are of, within a bound on their size: a value that is read again is not decoded again.

The store's reader asks with what came from the server; so neither a new publication nor a tile that grew can ever meet an old decoding.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from features.declaration import FeatureGroup

#: The most that the decoded values of one kind take in memory, by estimate.
MOST_BYTES = 256 * 1_024 * 1_024
#: Python objects per byte that they were decoded from, in bytes, and what the smallest value takes.
_PER_BYTE, _LEAST = 20, 1_000
_Value = TypeVar("_Value")


class DecodedValues(Generic[_Value]):
    """A cache that forgets what was not asked for longest.

    Args:
        decode: Bytes and the version of the group → the value.
        most_bytes: The bound.
    """

    def __init__(self, decode: Callable[[bytes, FeatureGroup], _Value], most_bytes: int = MOST_BYTES) -> None:
        self._decode, self._most_bytes, self._bytes = decode, most_bytes, 0
        self._lock = threading.Lock()
        self._values: OrderedDict[tuple[bytes, str], _Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def value(self, data: bytes, group: FeatureGroup) -> _Value:
        """The decoded value. Raises what `decode` does."""
        key = data, group.fingerprint
        try:
            self._values.move_to_end(key)
            return self._values[key]
        except KeyError:
            pass
        value = self._decode(data, group)
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._bytes += _cost(data)
            while self._bytes > self._most_bytes:
                (forgotten, _), _ = self._values.popitem(last=False)
                self._bytes -= _cost(forgotten)
        return value


def _cost(data: bytes) -> int:
    return _LEAST + _PER_BYTE * len(data)
