"""Decoded values by their entities, within a bound on their size: a value that is read again is not decoded again.

A value is given only for the very bytes that it is of (the fields of the entity that were read), so neither a new publication nor a tile that grew can ever meet an old decoding. What is new of an
entity takes the place of the former value, from which its decoding may begin.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from features.declaration import FeatureGroup

#: The most that the decoded values of one kind take in memory, by estimate.
MOST_BYTES = 256 * 1_024 * 1_024
#: Python objects per byte that they were decoded from, in bytes, and what the smallest value takes.
_PER_BYTE, _LEAST = 20, 1_000
_Value = TypeVar("_Value")
#: The fields of an entity; None for one that is not there.
Fields = Sequence[bytes | None]


class DecodedValues(Generic[_Value]):
    """A cache that forgets what was not asked for longest.

    Args:
        decode: Fields, the version of the group, and what is known of the entity in this version, if anything → the value.
        most_bytes: The bound.
    """

    def __init__(
        self, decode: Callable[[Fields, FeatureGroup, tuple[Fields, _Value] | None], _Value], most_bytes: int = MOST_BYTES
    ) -> None:
        self._decode, self._most_bytes, self._bytes = decode, most_bytes, 0
        self._lock = threading.Lock()
        self._values: OrderedDict[tuple[str, int | str], tuple[Fields, _Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def value(self, fields: Fields, group: FeatureGroup, entity_id: int | str) -> _Value:
        """The decoded value of an entity. Raises what `decode` does."""
        key = group.fingerprint, entity_id
        known = self._values.get(key)
        if known is not None and known[0] == fields:
            try:  # `suppress` would take longer than all the rest
                self._values.move_to_end(key)
            except KeyError:  # forgotten meanwhile
                pass
            return known[1]
        value = self._decode(fields, group, known)
        with self._lock:
            former = self._values.pop(key, None)
            self._bytes += _cost(fields) - (_cost(former[0]) if former else 0)
            self._values[key] = fields, value
            while self._bytes > self._most_bytes:
                _, (forgotten, _) = self._values.popitem(last=False)
                self._bytes -= _cost(forgotten)
        return value


def _cost(fields: Fields) -> int:
    return _LEAST + _PER_BYTE * sum([len(field) for field in fields if field is not None])
