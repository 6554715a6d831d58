"""The id of an entity of several columns: the same in Python and in SQL, and another for each entity."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braid.testing import features_at
from features.declaration import FeatureGroup, count
from features.declaration.versions import group_of_text, group_text, published_group
from features.errors import DeclarationError
from features.model import Model, Outcome
from features.sources import ColumnType
from features.vector import vector_of_text, vector_text
from tests.declarations import item_features, user_events, user_features
from tests.pure import evaluated

pairs = FeatureGroup("pairs", ("user_id", "item_id"), user_events, (count("events_1d", window="1d"),))
#: Texts that look like ids, separators and escapes.
TEXTS = (
    "/",
    "~",
    "~0",
    "~1",
    "~01",
    "a/b",
    "a~/~1b",
    "'",
    '"',
    "`",
    "\\",
    ",",
    "[1]",
    "|",
    ":",
    " ",
    "ü",
    "\U0001f986",
    "\uffff",
    "*",
    "1",
)
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8)
values = st.tuples(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 12), texts)


def rows(entities: list[tuple[Any, Any]]) -> list[dict[str, Any]]:
    return [{"user_id": user, "item_id": item, "ts_ms": 0} for user, item in entities]


@given(st.lists(values, min_size=1, max_size=10))
def test_python_and_sql_make_the_same_id_from_which_the_values_come_back(entities: list[tuple[int, str]]) -> None:
    ids = [pairs.id_of(entity) for entity in entities]
    assert evaluated(user_events, rows(entities), [pairs.entity_sql]) == [ids]
    assert [pairs.values_of(entity_id) for entity_id in ids] == entities
    assert len(set(ids)) == len(set(entities))


def test_an_event_without_a_value_in_one_of_the_columns_has_no_entity() -> None:
    lacking = [(None, "cup"), (1, None), (1, ""), (1, "x" * 257)]
    assert evaluated(user_events, rows([*lacking, (1, "cup")]), [pairs.has_entity_sql]) == [[False] * 4 + [True]]
    assert evaluated(user_events, rows(lacking[:2]), [pairs.entity_sql]) == [[None, None]]


@pytest.mark.parametrize("wrong", ["1", "1/a/b", "x/a", "/a"])
def test_a_text_that_is_no_id_of_the_group_has_no_values(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)|invalid literal"):
        pairs.values_of(wrong)


def test_the_id_of_a_single_column_is_its_value_whatever_is_in_it() -> None:
    assert (user_features.id_of([17]), item_features.id_of(["a/b~"])) == (17, "a/b~")
    assert (user_features.values_of(17), item_features.values_of("a/b~")) == ((17,), ("a/b~",))
    assert (item_features.entity_sql, item_features.request_id("a/b~")) == ("`item_id`", "a/b~")
    assert pairs.request_id("17/a~1b") == {"user_id": 17, "item_id": "a/b"}


def test_a_group_of_one_column_has_the_version_that_it_had_before_there_were_several() -> None:
    assert user_features.fingerprint == "e01145011f875de0"
    alone = FeatureGroup("user_features", ("user_id",), user_events, user_features.features)
    assert (alone.entity, alone.fingerprint) == ("user_id", user_features.fingerprint)


@pytest.mark.parametrize(
    ("entity", "says"),
    [
        ((), "has no column"),
        (("user_id", "user_id"), "has the column 'user_id' twice"),
        (("user_id", "card"), "'card' of g is not a text or integer column"),
        (("user_id", "amount"), "'amount' of g is not a text or integer column"),
    ],
)
def test_a_wrong_entity_is_refused_in_a_sentence(entity: tuple[str, ...], says: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        FeatureGroup("g", entity, user_events, (count("n"),))
    assert says in refused.value.cause
    assert refused.value.cure.endswith(".")


def test_the_columns_and_their_order_are_part_of_the_version_and_of_the_stored_text() -> None:
    other = FeatureGroup("pairs", ("item_id", "user_id"), user_events, pairs.features)
    assert pairs.fingerprint != other.fingerprint
    assert group_of_text(group_text(pairs), user_events) == pairs
    alone = FeatureGroup("pairs", "user_id", user_events, pairs.features)
    for published in (other, alone):
        text = group_text(published).encode()
        assert published_group(pairs, published.fingerprint.encode(), text) == pairs, (
            "the ids of one entity mean nothing to another"
        )


OUTCOME = Outcome(where="event_type = 'PURCHASE'", at="event_type = 'VIEW'")


def test_a_model_names_a_key_for_each_column() -> None:
    model = Model("m", (user_features, pairs.on("user_id", "item_id", prefix="pair_")), OUTCOME)
    assert model.vector.keys == {"user_id": ColumnType.INT64, "item_id": ColumnType.STRING}
    assert vector_of_text(vector_text(model.vector), (user_events,)) == model.vector
    assert Model("m", (pairs,), OUTCOME).vector.fingerprint == pairs.fingerprint, "without keys they are the columns"
    plain = Model("m", (pairs,), OUTCOME).vector
    assert vector_of_text(vector_text(plain), (user_events,)) == plain


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: pairs.on("user_id"), "has 1 keys, and its entity is user_id × item_id"),
        (lambda: user_features.on("user_id", "item_id"), "has 2 keys, and its entity is user_id"),
        (lambda: Model("m", (pairs.on("user_id", "user_id"),), OUTCOME), "the key 'user_id' twice"),
        (lambda: Model("m", (user_features, pairs.on("item_id", "user_id")), OUTCOME), "'user_id' has two types"),
        (lambda: Model("m", (pairs.on("user_id", "at"),), OUTCOME), "'at' of pairs is a field of the API"),
        (lambda: Model("m", (user_features, pairs), Outcome(where="event_type = 'PURCHASE'")), "need user_id, item_id"),
    ],
)  # fmt: skip
def test_wrong_keys_are_refused_in_a_sentence(declare: Any, says: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    assert says in str(refused.value)


def test_a_declaration_is_tried_out_with_the_values_of_its_columns() -> None:
    events = [
        {"event_id": str(n), "user_id": user, "session_id": "s", "event_type": "VIEW", "item_id": item, "event_timestamp": "2026-11-01T10:00:00Z"}
        for n, (user, item) in enumerate([(1, "a/b"), (1, "a/b"), (1, "a"), (1, None), (2, "a/b")])
    ]  # fmt: skip
    assert features_at(pairs, events, (1, "a/b"), at="2026-11-01T12:00:00Z") == {"events_1d": 2}
