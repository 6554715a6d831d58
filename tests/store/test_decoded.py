"""Decoded values are kept within their bound, and never given for other bytes or another version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.declaration import FeatureGroup
from features.errors import PackedValueError
from store.decoded import DecodedValues
from tests.declarations import item_features, user_features


def test_a_value_is_decoded_once_until_others_were_asked_for_later() -> None:
    decoded: list[bytes] = []

    def decode(data: bytes, group: FeatureGroup) -> bytes:
        decoded.append(data)
        return data

    values = DecodedValues(decode, 3 * 1_100)
    for data in (b"a", b"b", b"a", b"c", b"a"):
        assert values.value(data, user_features) == data
    assert decoded == [b"a", b"b", b"c"]
    values.value(b"d", user_features)
    assert len(values) == 3
    values.value(b"a", user_features)
    values.value(b"b", user_features)
    assert decoded == [b"a", b"b", b"c", b"d", b"b"], "b was asked for longest ago"
    values.value(bytes(10_000), user_features)
    assert len(values) == 0, "one value beyond the bound is given and not kept"


def test_the_same_bytes_are_another_value_in_another_version() -> None:
    def decode(data: bytes, group: FeatureGroup) -> str:
        if group.name == item_features.name:
            raise PackedValueError("of another group")
        return group.fingerprint

    values = DecodedValues(decode)
    other = replace(user_features, buffer="3d")
    assert values.value(b"a", user_features) != values.value(b"a", other)
    for _ in range(2):
        with pytest.raises(PackedValueError):
            values.value(b"a", item_features)
