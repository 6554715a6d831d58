"""A wrong declaration fails when its module loads, with a sentence; a right one has one fingerprint."""

from __future__ import annotations

from typing import Any

import pytest

from features.declaration import (
    Feature,
    FeatureGroup,
    approx_distinct,
    count,
    distinct,
    last,
    last_k,
    mean,
    since_last,
    stddev,
    top_k,
    total,
    variance,
)  # fmt: skip
from features.errors import DeclarationError
from features.sources import Column, ColumnType, EventSource
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from tests.declarations import item_features, user_events, user_features


def group(*features: Feature, **overrides: Any) -> FeatureGroup:
    return FeatureGroup(**{"name": "g", "entity": "user_id", "source": user_events, "features": features, **overrides})


#: Columns that the table of events or the verdict on an event has for itself, and names that Spark's SQL reads as something else.
REFUSED_COLUMNS = ("origin", "day", "Day", "ts_ms", "arrival_ms", "kafka_partition", "_reason", "_typed_amount", "_order", "user-agent", "user.id",
                   "größe", "a b", "")  # fmt: skip


def source_with(*names: str) -> EventSource:
    columns = (*(column for column in user_events.columns if column.required), Column("amount", ColumnType.DECIMAL))
    return EventSource("s", "t", "t", (*columns, *map(Column, names)))


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: group(count("a", where="colour = 'red'")), "unknown column 'colour'"),
        (lambda: group(count("a", where="amount >")), "does not parse"),
        (lambda: group(count("a", where="amount")), "is not a condition"),
        (lambda: group(count("a", where="amount > 'much'")), "compares a number with a text"),
        (lambda: group(count("a", where="event_type = 7")), "compares a number with a text"),
        (lambda: group(count("a", where="rand() > 0.5")), "in a condition on one event"),
        (lambda: group(count("a", where="current_timestamp() > event_timestamp")), "in a condition on one event"),
        (lambda: group(count("a", where="sum(amount) > 1")), "in a condition on one event"),
        (lambda: group(count("a", where="shady(amount) > 1")), "SHADY(amount), which is not allowed"),
        (lambda: group(count("a", where="amount > (SELECT 1)")), "in a condition on one event"),
        (lambda: group(total("a", of="price")), "unknown column 'price'"),
        (lambda: group(mean("a", of="session_id")), "cannot aggregate"),
        (lambda: group(count("a", window="1min")), "shorter than its hop"),
        (lambda: group(count("a", window="1h", hop="2h")), "shorter than its hop"),
        (lambda: group(count("a", window="1h", hop="500ms")), "shorter than a second"),
        (lambda: group(count("a", window="soon")), "cannot be read"),
        (lambda: group(count("a", window="0h")), "cannot be read"),
        (lambda: group(count("a", hop="1h")), "a hop but no window"),
        (lambda: group(count("a", window="1h", hop="7min"), count("b", window="7d")), "do not fit together"),
        (lambda: group(count("a"), count("a", window="1h")), "two features named 'a'"),
        (group, "has no features"),
        (lambda: group(count("A b")), "cannot be used"),
        (lambda: group(count("label")), "cannot be used"),
        *(
            (lambda name=name: group(count(name)), "cannot be used")
            for name in ("is_instant", "folded_from", "until", "built_from")
        ),
        (lambda: group(count("a"), entity="card"), "is not a text or integer column"),
        (lambda: group(count("a"), entity="amount"), "is not a text or integer column"),
        (lambda: group(since_last("a", unit="fortnights")), "is unknown"),
        (lambda: group(distinct("a", of="item_id", bound=3)), "too small"),
        (lambda: group(count("a", window="1h", tail="smooth")), "tail of a, 'smooth', is unknown"),
        (lambda: group(count("a", window="1h", hop="5min", tail="exact")), "a hop and an exact tail"),
        (lambda: group(count("a", tail="exact")), "an exact tail but no window"),
        (lambda: group(last_k("a", of="item_id", k=0)), "k of a, 0, cannot be used"),
        (lambda: group(top_k("a", of="item_id", k=101)), "k of a, 101, cannot be used"),
        (lambda: group(top_k("a", of="item_id", k=9, bound=8)), "smaller than its k"),
        (lambda: group(top_k("a", of="event_timestamp", k=1)), "cannot aggregate"),
        (lambda: group(approx_distinct("a", of="item_id", precision=3)), "precision of a, 3, cannot be used"),
        (lambda: group(variance("a", of="item_id")), "cannot aggregate"),
        (lambda: group(distinct("a", of="properties")), "cannot aggregate"),
        (lambda: group(count("events")), "cannot be used"),
        (lambda: group(count("a"), name="braid"), "cannot be used"),
        (lambda: group(count("a"), buffer="soon"), "cannot be read"),
        (lambda: group(count("a"), name="speed"), "cannot be used"),
        (lambda: EventSource("s", "t", "t", (Column("event_id", required=True),)), "no required column 'event_timestamp'"),
        *((lambda name=name: source_with(name), f"The column {name!r} of s cannot be used") for name in REFUSED_COLUMNS),
        (lambda: source_with("Amount"), "two columns named 'amount'"),
        (lambda: group(count("n", window="999999d")), "'999999d' is longer than a century"),
    ],
)
def test_a_wrong_declaration_is_refused_in_a_sentence(declare: Any, says: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        declare()
    assert says in str(caught.value)
    assert caught.value.cure.endswith((".", '"'))


def test_a_column_may_have_any_other_name() -> None:
    names = ("Origin_Airport", "_id", "value", "key", "offset", "partition", "timestamp", "entity", "label", "order", "2fa")
    assert [column.name for column in source_with(*names).columns[-len(names) :]] == list(names)


def test_the_type_of_a_column_that_only_a_predicate_reads_is_part_of_the_version() -> None:
    points, decimals = (a_source(Column("limit", kind)) for kind in (ColumnType.INT64, ColumnType.DECIMAL))
    versions = {FeatureGroup("g", "card", source, (count("n", where="limit > 1"),)).fingerprint for source in (points, decimals)}
    assert len(versions) == 2


def test_the_version_follows_the_meaning_not_the_spelling() -> None:
    declared = group(count("a", where="event_type='PURCHASE'", window="1h"))
    assert (
        declared.fingerprint == group(count("a", where=" event_type =  'PURCHASE' ", window="60min", description="x")).fingerprint
    )
    for other in (
        group(count("b", where="event_type='PURCHASE'", window="1h")),
        group(count("a", where="event_type='VIEW'", window="1h")),
        group(count("a", where="event_type='PURCHASE'", window="2h")),
        group(count("a", where="event_type='PURCHASE'", window="1h", hop="10min")),
        group(count("a", where="event_type='PURCHASE'", window="1h", tail="exact")),
        group(last("a", of="amount", window="1h")),
    ):
        assert other.fingerprint != declared.fingerprint


def a_source(*columns: Column, **overrides: Any) -> EventSource:
    """A source of cards, with the columns and what they replace."""
    own = {
        change.name: change
        for change in (
            Column("event_id", required=True), Column("card", required=True), Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
            Column("points", ColumnType.INT64), Column("shop"), *columns,
        )
    }  # fmt: skip
    return EventSource(**{"name": "s", "topic": "t", "table": "t", "columns": tuple(own.values()), "key": "card", **overrides})


def test_the_version_holds_all_that_changes_a_value_or_what_a_model_is_given_and_nothing_else() -> None:
    def version(source: EventSource, default: float = 0, **overrides: Any) -> str:
        features = (count("n", where="shop = '1'"), total("points_1h", of="points", window="1h", default=default))
        return FeatureGroup("cards", "card", source, features, **overrides).fingerprint

    same, other_time = version(a_source()), Column("at", ColumnType.TIMESTAMP, required=True)
    others = [
        version(a_source(), default=1.0),
        version(a_source(), buffer="3d"),
        version(a_source(name="s2")),
        version(a_source(other_time, time="at")),
        version(a_source(Column("id2", required=True), event_id="id2")),
        version(a_source(Column("points", ColumnType.DECIMAL))),
        version(a_source(Column("card", ColumnType.INT64, required=True))),
    ]
    assert len({same, *others}) == 1 + len(others)
    for alike in (
        version(a_source(topic="t2", table="t3")),
        version(a_source(Column("more"), other_time)),
        version(a_source(key="event_id")),
        version(a_source(), buffer="48h", description="x"),
        version(a_source(), default=0.0),
    ):
        assert alike == same


def test_an_exact_window_snaps_to_nothing_and_leaves_the_tiles_as_they_are() -> None:
    [window] = item_features.exact_windows
    assert window.start_ms(7 * HOUR_MS + 1) == 6 * HOUR_MS + 1
    assert item_features.tile_ms == 5 * MINUTE_MS
    assert group(count("a", window="10ms", tail="exact"), count("b", window="7d")).tile_ms == HOUR_MS
    assert group(count("a", window="10ms", tail="exact")).tile_ms == 5 * MINUTE_MS


def test_hops_follow_the_length_of_the_window() -> None:
    hops = {f.name: f.window.hop_ms for f in user_features.features if f.window}
    assert hops["events_last_hour"] == 5 * MINUTE_MS
    assert hops["purchase_count_7d"] == HOUR_MS
    assert hops["avg_purchase_30d"] == DAY_MS
    assert user_features.tile_ms == 5 * MINUTE_MS


def test_features_that_need_the_same_of_an_event_share_one_input() -> None:
    assert user_features.input_of[1] == user_features.input_of[4]
    assert user_features.input_of[3] == user_features.input_of[5]
    assert len(user_features.inputs) == 4


def test_a_model_is_given_the_declared_default_where_there_is_no_value() -> None:
    declared = group(mean("a", of="amount", default=7.5), count("b"))
    assert declared.model_input({"a": None, "b": 3}) == [7.5, 3.0]
    assert declared.model_input({}) == [7.5, 0.0]


def test_a_list_is_a_feature_but_given_to_no_model() -> None:
    declared = group(last_k("items", of="item_id", k=3), count("n"), top_k("amounts", of="amount", k=2), stddev("s", of="amount"))
    assert declared.feature_names == ("items", "n", "amounts", "s")
    assert declared.model_names == ("n", "s")
    assert declared.model_input({"items": ["a"], "n": 2, "amounts": None, "s": 0.5}) == [2.0, 0.5]
    assert [declared.value_sql_type(i) for i in range(4)] == ["ARRAY<STRING>", "BIGINT", "ARRAY<DOUBLE>", "DOUBLE"]
    assert [declared.partial_sql_type(i) for i in (0, 2)] == [
        "ARRAY<STRUCT<ts_ms: BIGINT, v: STRING>>", "ARRAY<STRUCT<v: BIGINT, n: BIGINT>>",
    ]  # fmt: skip


def test_an_integer_column_stays_whole() -> None:
    source = a_source()
    declared = FeatureGroup(
        "cards", "card", source, (total("points_1h", of="points", window="1h"), mean("mean_points", of="points"))
    )
    assert [declared.value_sql_type(0), declared.value_sql_type(1)] == ["BIGINT", "DOUBLE"]
    assert declared.scale_of(0) == 1
