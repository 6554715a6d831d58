"""A cache of the decoded values of entities, of bounded size: a value that is read again is not decoded again.

The cache returns a decoded value only if the bytes that were read (the fields of the entity) are the bytes of that value. So a new publication or a
tile that grew never gets an outdated value. The value of new bytes replaces the former value of the entity, and its decoding may start from it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from features.declaration import FeatureGroup

#: The estimated memory that the decoded values of one cache may take.
MOST_BYTES = 256 * 1_024 * 1_024
#: The estimated memory of a decoded value, in bytes: per byte of its fields, and in addition per value.
_PER_BYTE, _LEAST = 20, 1_000
_Value = TypeVar("_Value")
#: The fields of an entity; None for a field that does not exist.
Fields = Sequence[bytes | None]


class DecodedValues(Generic[_Value]):
    """A cache that removes the least recently used value first.

    Args:
        decode: The function that decodes a value. Its arguments are the fields, the version of the group, and the former fields of the entity in this
            version with their value, or None.
        most_bytes: The bound on the estimated memory of all values.
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
        """Returns the decoded value of the fields of an entity. Raises the errors of `decode`."""
        key = group.fingerprint, entity_id
        known = self._values.get(key)
        if known is not None and known[0] == fields:
            try:  # `contextlib.suppress` would take longer than the rest of this method
                self._values.move_to_end(key)
            except KeyError:  # another thread has removed it meanwhile
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
