"""The SQL of a job: which expressions are translated, which are refused, and what names a job."""

from __future__ import annotations

import pytest

from braid import FeatureGroup, count, distinct, total
from examples.ads.definitions import project as ads
from examples.fraud.definitions import project as fraud
from examples.moderation.definitions import project as moderation
from examples.recommendation.definitions import project as recommendation
from examples.search.definitions import project as search
from examples.shop.definitions import project as shop
from features.project import Project
from speed.flink.contract import Reading
from speed.flink.expressions import UntranslatableError, condition_sql
from speed.flink.job_sql import check_translations, job_of
from tests.declarations import item_features, user_events, user_features

READING = Reading(user_events, keys={"properties": ["channel"]})


@pytest.mark.parametrize(
    ("condition", "translated"),
    [
        ("event_type = 'PURCHASE'", "(s_3 = CAST('PURCHASE' AS STRING))"),
        (r"event_type = 'it\'s'", "(s_3 = CAST('it''s' AS STRING))"),
        ("user_id IN (1, -2)", "(t_1 = CAST(1 AS BIGINT) OR t_1 = CAST(-2 AS BIGINT))"),
        ("amount >= 10.5", "(t_4 >= CAST(10500000 AS BIGINT))"),
        ("NOT item_id IS NULL", "(NOT (s_6 IS NULL))"),
        ("amount BETWEEN 1 AND 2 AND item_id LIKE 'a%'", "((t_4 >= CAST(1000000 AS BIGINT) AND t_4 <= CAST(2000000 AS BIGINT)) AND (s_6 LIKE 'a%'))"),
        ("properties['channel'] <=> item_id", "(k_7_0 IS NOT DISTINCT FROM s_6)"),
        ("CASE WHEN user_id > 1 THEN item_id END = 'x'", "(CASE WHEN (t_1 > CAST(1 AS BIGINT)) THEN s_6 END = CAST('x' AS STRING))"),
        ("coalesce(item_id, session_id) <> ''", "(COALESCE(s_6, s_2) <> CAST('' AS STRING))"),
    ],
)  # fmt: skip
def test_a_condition_is_translated(condition: str, translated: str) -> None:
    assert condition_sql(condition, READING, "A feature") == translated


@pytest.mark.parametrize(
    "condition",
    [
        "lower(event_type) = 'purchase'", "item_id RLIKE 'a+'", "hour(event_timestamp) = 3", "amount * 2 > 3", "amount > 1e2", "amount > 0.0000001",
        "user_id > 1.5", "user_id = amount", "user_id IN (1, NULL)", "item_id LIKE 'a\\\\_b'", "event_timestamp > '2026-01-01'", "properties IS NULL",
        "user_id > 9223372036854775808", "item_id ILIKE 'A'", "item_id || 'x' = 'ax'", "map_contains_key(properties, 'channel')", "user_id % 2 = 0",
    ],
)  # fmt: skip
def test_what_may_differ_is_refused_with_its_owner_and_the_cure(condition: str) -> None:
    with pytest.raises(UntranslatableError, match=r"The feature odd of users uses .*engine spark") as refused:
        job_of([FeatureGroup("users", "user_id", user_events, (count("odd", where=condition),))], "")
    assert "\n" not in str(refused.value).strip()


def test_a_distinct_count_of_times_is_refused() -> None:
    with pytest.raises(UntranslatableError, match="The feature times of users uses XXHASH64"):
        job_of([FeatureGroup("users", "user_id", user_events, (distinct("times", of="event_timestamp", window="1h"),))], "")


@pytest.mark.parametrize("project", [shop, ads, fraud, moderation, recommendation, search])
def test_every_example_has_jobs(project: Project) -> None:
    check_translations(project)


def test_a_job_is_named_by_all_that_its_rows_depend_on() -> None:
    job = job_of([user_features, item_features], "generation")
    assert job.name == job_of([user_features, item_features], "generation").name
    spend = FeatureGroup("user_features", "user_id", user_events, (total("spend", of="amount", where="amount > 1", window="1h"),))
    others = [
        job_of([user_features], "generation"),
        job_of([user_features, item_features], "another"),
        job_of([spend], "generation"),
    ]
    assert len({job.name, *(other.name for other in others)}) == 4
    assert job.name.startswith("user_events.contributions.")


def test_the_statements_read_from_the_offsets_and_quote_the_options() -> None:
    job = job_of([user_features], "")
    text = job.statements(user_events, {"properties.bootstrap.servers": "b:1", "properties.x": "it's"}, {0: 7, 2: 9}, [0, 1, 2])
    assert "'scan.startup.specific-offsets' = 'partition:0,offset:7;partition:1,offset:0;partition:2,offset:9'" in text
    assert "'properties.x' = 'it''s'" in text
    assert text.count("INSERT INTO contributions SELECT") == 1
