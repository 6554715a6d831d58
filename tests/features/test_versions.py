"""A declaration survives as text, and two versions are told apart by what their features mean."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from features.declaration import (  # fmt: skip
    FeatureGroup,
    approx_distinct,
    count,
    distinct,
    last,
    last_k,
    maximum,
    mean,
    minimum,
    since_last,
    stddev,
    top_k,
    total,
    variance,
)
from features.declaration.versions import change, group_of_text, group_text, same_meaning
from features.errors import DeclarationError
from tests.declarations import GROUPS, user_events, user_features

OPTIONS = {"where": "event_type = 'PURCHASE' AND amount > 3", "window": "7d"}
EVERYTHING = FeatureGroup(
    "everything", "user_id", user_events,
    (
        count("c", **OPTIONS), count("e", window="1h", tail="exact"), total("t", of="amount", window="1d", hop="2h"), mean("m", of="amount", default=-1.5),
        variance("v", of="amount"), stddev("s", of="amount"), minimum("lo", of="amount"), maximum("hi", of="amount"), last("l", of="amount"),
        last_k("lk", of="session_id", k=3), top_k("tk", of="item_id", k=2, bound=64), distinct("d", of="session_id", bound=100),
        approx_distinct("a", of="session_id", precision=12), since_last("since", unit="hours", description="Ünï."),
    ),
    buffer="36h",
)  # fmt: skip


@pytest.mark.parametrize("group", [*GROUPS.values(), EVERYTHING], ids=lambda group: group.name)
def test_a_declaration_comes_back_whole_from_its_text(group: FeatureGroup) -> None:
    back = group_of_text(group_text(group), group.source)
    assert back == group
    assert back.fingerprint == group.fingerprint


def test_a_text_that_means_something_else_today_is_refused() -> None:
    text = json.loads(group_text(user_features))
    text["features"][0]["window"]["size_ms"] *= 2
    with pytest.raises(DeclarationError, match="has another meaning today"):
        group_of_text(json.dumps(text), user_events)
    before_there_were_buffers = json.dumps({name: value for name, value in text.items() if name != "buffer"})
    for broken in (
        "",
        "[]",
        "{}",
        before_there_were_buffers,
        json.dumps({**text, "features": [{"name": "x", "aggregation": {"kind": "none"}}]}),
    ):
        with pytest.raises(DeclarationError, match="cannot be read"):
            group_of_text(broken, user_events)


def test_what_a_new_version_changes_is_told_by_feature() -> None:
    unchanged, altered, removed = user_features.features[0], user_features.features[3], user_features.features[5]
    new = replace(
        user_features,
        features=(
            count("views_1d", where="event_type = 'VIEW'", window="1d"), replace(unchanged, description="Told otherwise."),
            *(feature for feature in user_features.features[1:] if feature not in (altered, removed)), count(altered.name, where=altered.where, window="14d"),
        ),
    )  # fmt: skip
    difference = change(user_features, new)
    assert difference.added == ("views_1d",)
    assert difference.removed == ("days_since_last",)
    [(name, how)] = difference.altered
    assert name == "purchase_count_7d"
    assert how == "window 7d → 14d, hop 1h → 1d"
    assert same_meaning(new, user_features) == {
        name: new.feature_names.index(name) for name in (*user_features.feature_names[:3], "avg_purchase_30d")
    }
    assert not change(user_features, replace(user_features, description="Other words."))


def test_another_default_or_buffer_is_another_version_with_the_same_values() -> None:
    first, *others = user_features.features
    for new, how in (
        (replace(user_features, features=(replace(first, default=7.0), *others)), {first.name: "default 0.0 → 7.0"}),
        (replace(user_features, buffer="7d"), dict.fromkeys(user_features.feature_names, "buffer 2d → 7d")),
    ):
        assert dict(change(user_features, new).altered) == how
        assert set(same_meaning(new, user_features)) == set(user_features.feature_names)
        assert new.fingerprint != user_features.fingerprint


def test_another_entity_leaves_no_feature_what_it_was() -> None:
    other = replace(user_features, entity="session_id")
    assert same_meaning(other, user_features) == {}
    assert {how for _, how in change(user_features, other).altered} == {"the entity, the source, or the type of a column"}
