"""A predicate is a function of the event alone: what it may use is a list, and each entry of the list is read as it is meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from features.declaration import FeatureGroup, count
from features.errors import DeclarationError
from features.predicates import FUNCTIONS, FUNCTIONS_BY_NAME, canonical_predicate, trials_of_patterns
from features.sources import Column, ColumnType, EventSource

SOURCE = EventSource(
    "s", "t", "t",
    (
        Column("event_id", required=True), Column("user_id", ColumnType.INT64, required=True), Column("text"), Column("other"),
        Column("amount", ColumnType.DECIMAL), Column("at", ColumnType.TIMESTAMP, required=True), Column("properties", ColumnType.MAP),
    ),
    time="at",
)  # fmt: skip

#: A condition for each function of the list.
EXAMPLES = {
    "lower": "lower(text) = 'a'", "upper": "upper(text) = 'A'", "trim": "trim(text) = 'a'", "length": "length(text) > 1",
    "substring": "substring(text, 1, 2) = 'a'", "left": "left(text, 1) = 'a'", "right": "right(text, 1) = 'a'", "concat": "concat(text, 'b') = 'ab'",
    "concat_ws": "concat_ws('-', text, other) = 'a-a'", "replace": "replace(text, 'a', 'b') = 'b'", "translate": "translate(text, 'a', 'b') = 'b'",
    "startswith": "startswith(text, 'a')", "endswith": "endswith(text, 'a')", "contains": "contains(text, 'a')", "locate": "locate('a', text) > 0",
    "split_part": "split_part(text, '-', 1) = 'a'", "split": "split(text, '-')[0] = 'a'", "reverse": "reverse(text) = 'a'", "lpad": "lpad(text, 2, '0') = '0a'",
    "repeat": "repeat(text, 2) = 'aa'", "ascii": "ascii(text) = 97", "levenshtein": "levenshtein(text, other) < 2", "regexp_like": "regexp_like(text, '^a')",
    "regexp_extract": "regexp_extract(text, '(a)', 1) = 'a'", "regexp_replace": "regexp_replace(text, 'a', 'b') = 'b'", "md5": "md5(text) = 'a'",
    "sha2": "sha2(text, 256) = 'a'", "get_json_object": "get_json_object(text, '$.a.b') = 'a'", "abs": "abs(amount) > 1", "ceil": "ceil(amount) > 1",
    "floor": "floor(amount) > 1", "round": "round(amount, 1) > 1", "sign": "sign(amount) > 0", "sqrt": "sqrt(amount) > 1", "power": "power(amount, 2) > 1",
    "ln": "ln(amount) > 1", "log": "log(2, amount) > 1", "exp": "exp(amount) > 1", "greatest": "greatest(amount, 1) > 1", "least": "least(amount, 1) < 1",
    "mod": "mod(user_id, 2) = 0", "isnan": "isnan(amount)", "coalesce": "coalesce(text, other) = 'a'", "nullif": "nullif(text, 'a') IS NULL",
    "nvl2": "nvl2(text, 'a', 'b') = 'a'", "if": "if(amount > 1, 'a', 'b') = 'a'", "element_at": "element_at(properties, 'a') = 'a'",
    "map_contains_key": "map_contains_key(properties, 'a')", "map_keys": "size(map_keys(properties)) > 1",
    "array_contains": "array_contains(map_keys(properties), 'a')", "size": "size(properties) > 1", "year": "year(at) = 2026", "quarter": "quarter(at) = 1",
    "month": "month(at) = 1", "day": "day(at) = 1", "dayofmonth": "dayofmonth(at) = 1", "dayofweek": "dayofweek(at) = 1", "dayofyear": "dayofyear(at) = 1",
    "weekofyear": "weekofyear(at) = 1", "hour": "hour(at) < 6", "minute": "minute(at) = 0", "second": "second(at) = 0", "extract": "extract(HOUR FROM at) < 6",
    "date_trunc": "date_trunc('HOUR', at) = at", "to_date": "to_date(at) > '2026-03-01'", "unix_millis": "unix_millis(at) > 1", "unix_seconds": "unix_seconds(at) > 1",
    "pmod": "pmod(user_id, 10) = 3", "bround": "bround(amount) = 2", "isnull": "isnull(text)", "isnotnull": "isnotnull(text)",
    "xxhash64": "pmod(xxhash64(text), 10) = 3", "crc32": "crc32(text) > 1", "btrim": "btrim(text) = 'a'", "weekday": "weekday(at) > 4",
}  # fmt: skip
OPERATORS = [
    "text = 'a' AND NOT (amount > 1.5 OR user_id <> 3)", "text IN ('a', 'b') AND amount BETWEEN 1 AND 2", "text LIKE 'a%' OR text ILIKE 'B_' OR text NOT LIKE 'a!%' ESCAPE '!'",
    "text RLIKE '^\\\\d+$'", "text IS NULL OR other IS NOT NULL", "text <=> other", "-amount * 2 + 1 - amount / 3 % 2 > 0", "user_id & 1 = 1", "user_id div 2 = 1",
    "text || 'b' = 'ab'", "CASE WHEN amount > 1 THEN 'a' ELSE text END = 'a'", "CAST(text AS INT) > 1", "TRY_CAST(text AS DECIMAL(9, 2)) > 1", "text::bigint = 1",
    "properties['a'] = 'now'", "at >= '2026-03-01'", "at < timestamp '2026-03-01 12:00:00'", "CAST(at AS DATE) = date '2026-03-01'", "text = 'now'", "true",
    "coalesce(at, '2026-03-01') > '2026-03-01T00:00:00Z'",
]  # fmt: skip


def test_every_function_of_the_list_has_an_example() -> None:
    assert set(EXAMPLES) == {*FUNCTIONS, *FUNCTIONS_BY_NAME}


@pytest.mark.parametrize("where", [*EXAMPLES.values(), *OPERATORS])
def test_what_is_in_the_list_is_allowed_and_its_canonical_form_is_stable(where: str) -> None:
    canonical = canonical_predicate(where, SOURCE, "a")
    assert canonical_predicate(f"  {canonical} /* a comment */", SOURCE, "a") == canonical


@pytest.mark.parametrize(
    "expression",
    [
        "rand()", "randn()", "random()", "uuid()", "uniform(1, 2)", "shuffle(map_keys(properties))", "now()", "current_timestamp()", "current_timestamp", "localtimestamp()",
        "current_date", "curdate()", "unix_timestamp()", "current_user()", "current_user", "user()", "session_user()", "current_timezone()", "current_catalog()",
        "current_database()", "input_file_name()", "monotonically_increasing_id()", "spark_partition_id()", "version()", "date_format(at, 'EEEE')",
        "from_utc_timestamp(at, 'Europe/Berlin')", "initcap(text)", "to_timestamp(text, 'E')", "java_method('java.lang.Math', 'random')", "reflect('a', 'b')",
        "sum(amount)", "any_value(text)", "row_number() OVER (ORDER BY text)", "(SELECT 1)", "text COLLATE UTF8_LCASE", "typeof(text)", "my_udf(text)", ":parameter",
        "at + INTERVAL 1 DAY", "format_number(amount, 2)", "sleep(1)", "window(at, '1 h')", "explode(map_keys(properties))",
    ],
)  # fmt: skip
def test_what_is_not_in_the_list_is_refused_by_name(expression: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        canonical_predicate(f"{expression} IS NOT NULL", SOURCE, "a")
    name = re.split(r"\W", expression.strip(":("))[0]
    assert "is not allowed" in caught.value.cause
    assert name.lower() in caught.value.cause.lower() or expression in ("random()", "curdate()")
    assert "lower" in caught.value.cure


@pytest.mark.parametrize(
    "where",
    [
        "at > timestamp 'now'", "at > 'today'", "CAST('now' AS TIMESTAMP) < at", "coalesce(at, 'now') < at", "at BETWEEN '2026-01-01' AND 'tomorrow'", "at IN ('now')",
        "hour('now') > 3", "at > text", "CAST(text AS TIMESTAMP) = at", "to_date(text) = to_date(at)", "at > '12:00'", "at = CASE WHEN amount > 1 THEN 'now' ELSE at END",
        "date(text) IS NULL", "text::timestamp = at",
    ],
)  # fmt: skip
def test_a_text_that_spark_would_read_by_the_clock_is_refused(where: str) -> None:
    with pytest.raises(DeclarationError, match="uses a text as a time"):
        canonical_predicate(where, SOURCE, "a")


def test_a_pattern_is_a_literal_and_is_tried() -> None:
    for where in ("text RLIKE other", "regexp_replace(text, other, 'b') = 'b'", "text LIKE concat(other, '%')"):
        with pytest.raises(DeclarationError, match="takes a pattern from the event"):
            canonical_predicate(where, SOURCE, "a")
    where = "amount > 1 AND regexp_extract(text, '(b)', 2) = properties['k']"
    assert trials_of_patterns(where) == ["REGEXP_EXTRACT('a', '|(b)', 2)"]
    assert trials_of_patterns("text LIKE 'b!' ESCAPE '!' OR amount > 1") == ["'a' LIKE 'b!' ESCAPE '!'"]


def test_the_page_on_predicates_lists_every_function() -> None:
    page = (Path(__file__).parents[2] / "docs" / "predicates.md").read_text()
    assert set(re.findall(r"`(\w+)\(\)`", page)) == {*FUNCTIONS, *FUNCTIONS_BY_NAME}


def test_an_error_names_the_feature() -> None:
    with pytest.raises(DeclarationError, match="The predicate of lucky uses RANDN"):
        FeatureGroup("g", "user_id", SOURCE, (count("lucky", where="randn() > 0"),))
