"""Decoded values are kept within their bound, and never given for other bytes or another version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.declaration import FeatureGroup
from features.errors import PackedValueError
from store.decoded import DecodedValues, Fields
from tests.declarations import item_features, user_features


def test_a_value_is_decoded_once_until_others_were_asked_for_later() -> None:
    decoded: list[bytes | None] = []

    def decode(fields: Fields, group: FeatureGroup, former: tuple[Fields, bytes | None] | None) -> bytes | None:
        decoded.append(fields[0])
        return fields[0]

    values = DecodedValues[bytes | None](decode, 3 * 1_100)
    for data in (b"a", b"b", b"a", b"c", b"a"):
        assert values.value([data, None], user_features, data.decode()) == data
    assert decoded == [b"a", b"b", b"c"]
    values.value([b"d", None], user_features, "d")
    assert len(values) == 3
    values.value([b"a", None], user_features, "a")
    values.value([b"b", None], user_features, "b")
    assert decoded == [b"a", b"b", b"c", b"d", b"b"], "b was asked for longest ago"
    values.value([None, bytes(10_000)], user_features, "long")
    assert len(values) == 0, "one value beyond the bound is given and not kept"


def test_a_new_value_of_an_entity_takes_the_place_of_the_former_one_and_may_begin_with_it() -> None:
    formers: list[tuple[Fields, str] | None] = []

    def decode(fields: Fields, group: FeatureGroup, former: tuple[Fields, str] | None) -> str:
        formers.append(former)
        return str(fields)

    values = DecodedValues[str](decode, 3 * 1_100)
    first, other = [b"a", None], [b"a", b"b"]
    for fields in (first, [*first], other, first):
        assert values.value(fields, user_features, 1) == str(fields)
    assert formers == [None, (first, str(first)), (other, str(other))]
    for number in range(100):
        values.value([b"%d" % number], user_features, 1)
    assert len(values) == 1
    values.value([b"x"], user_features, 2)
    values.value([b"y"], user_features, 3)
    assert len(values) == 3, "what was replaced does not count against the bound"


def test_the_same_bytes_are_another_value_in_another_version() -> None:
    def decode(fields: Fields, group: FeatureGroup, former: tuple[Fields, str] | None) -> str:
        assert former is None
        if group.name == item_features.name:
            raise PackedValueError("of another group")
        return group.fingerprint

    values = DecodedValues[str](decode)
    other = replace(user_features, buffer="3d")
    assert values.value([b"a"], user_features, 1) != values.value([b"a"], other, 1)
    for _ in range(2):
        with pytest.raises(PackedValueError):
            values.value([b"a"], item_features, 1)
