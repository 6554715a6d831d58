"""The two forms of a derived feature are equal to the bit, agree with DuckDB, and refuse what they cannot compute."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features.errors import DeclarationError
from features.expression_compiler import FUNCTIONS
from features.expressions import Compiled, ValueKind, compiled, expression

ROOT = Path(__file__).parents[2]
KINDS = {
    "a": ValueKind.NUMBER, "b": ValueKind.NUMBER, "c": ValueKind.NUMBER, "s": ValueKind.TEXT, "u": ValueKind.TEXT, "t": ValueKind.TIME,
    "request_time": ValueKind.TIME,
}  # fmt: skip
MONDAY_MS = 1_767_571_200_000  # 2026-01-05 00:00 UTC
NULLS: dict[str, Any] = dict.fromkeys(KINDS)


def compiled_sql(sql: str) -> Compiled:
    return compiled(expression("risk", sql), KINDS)


def value_of(sql: str, **values: Any) -> float | None:
    """The value of both forms, which are equal."""
    row = NULLS | values
    program = compiled_sql(sql)
    value = program.of_row(row)
    assert bits_of_column(program.of_columns({name: [row[name]] * 2 for name in row}, 2)) == [bits(value)] * 2
    return value


def bits(value: float | None) -> bytes | None:
    assert value is None or (type(value) is float and math.isfinite(value))
    return None if value is None else struct.pack("<d", value)


def bits_of_column(values: np.ndarray) -> list[bytes | None]:
    assert values.dtype == np.float64
    return [None if math.isnan(value) else bits(value) for value in values.tolist()]


# Random expressions, as SQL.

LITERALS = ["0", "1", "-1", "0.5", "-0.0", "2.675", "3", "1e308", "-1e-320", "1e16", "NULL"]
ARITHMETIC = [
    "({} + {})",
    "({} - {})",
    "({} * {})",
    "({} / {})",
    "({} % {})",
    "power({}, {})",
    "nullif({}, {})",
    "coalesce({}, {})",
    "greatest({}, {})",
]
FUNCTIONS_OF_A_NUMBER = [
    "(- {})", "abs({})", "floor({})", "ceil({})", "round({})", "round({}, 2)", "round({}, -3)", "round({}, 15)", "sqrt({})", "ln({})", "log1p({})", "exp({})",
    "sign({})", "bucket({}, -1, 0, 0.5, 1e10)", "hash_bucket({}, 1000)", "power({}, 0.5)", "({} % 7)",
]  # fmt: skip
CONDITIONS = [
    "({0} {2} {1})",
    "({0} IN ({1}, 1, NULL))",
    "({0} NOT IN ({1}, 2))",
    "({0} BETWEEN {1} AND 3)",
    "({0} NOT BETWEEN -1 AND {1})",
]
COMPARISONS = ["=", "<>", "<", "<=", ">", ">="]


def built(pattern: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda chosen: pattern.format(*chosen))


def any_of(patterns: list[str], *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(patterns).flatmap(lambda pattern: built(pattern, *parts))


def text_expressions(numbers: st.SearchStrategy[str], conditions: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    leaves = st.sampled_from(["s", "u", "'é'", "''", "'ß'", "NULL"])
    patterns = ["lower({})", "upper({0})", "concat({}, {})", "({} || {})", "coalesce({}, {})", "nullif({}, {})", "least({}, {})"]
    return leaves | any_of(patterns, leaves, leaves) | built("CASE WHEN {} THEN {} ELSE {} END", conditions, leaves, leaves)


def expressions(depth: int) -> tuple[st.SearchStrategy[str], st.SearchStrategy[str]]:
    """Strategies for numbers and for conditions."""
    numbers: st.SearchStrategy[str] = st.sampled_from(["a", "b", "c"]) | st.sampled_from(LITERALS)
    conditions: st.SearchStrategy[str] = st.sampled_from(
        ["(a > b)", "(s = u)", "(t < request_time)", "(s IS NULL)", "TRUE", "FALSE", "(NULL = 1)"]
    )
    for _ in range(depth):
        texts = text_expressions(numbers, conditions)
        times = st.sampled_from(["t", "request_time", "least(t, request_time)", "if(a > 0, t, NULL)", "NULL"])
        compare = st.sampled_from(COMPARISONS)
        numbers, conditions = (
            st.one_of(
                numbers,
                any_of(ARITHMETIC, numbers, numbers),
                any_of(FUNCTIONS_OF_A_NUMBER, numbers),
                built("least({}, {}, {})", numbers, numbers, numbers),
                built("CASE WHEN {} THEN {} WHEN {} THEN {} ELSE {} END", conditions, numbers, conditions, numbers, numbers),
                built("CASE {} WHEN {} THEN {} END", numbers, numbers, numbers),
                built("if({}, {}, {})", conditions, numbers, numbers),
                any_of(["length({})", "hash_bucket({}, 2147483647)"], texts),
                any_of(["hour_of_day({})", "day_of_week({})", "seconds_between({}, request_time)"], times),
            ),
            st.one_of(
                conditions,
                any_of(CONDITIONS, numbers, numbers, compare),
                any_of(CONDITIONS[:1], texts, texts, compare),
                any_of(CONDITIONS[:1], times, times, compare),
                any_of(["({} AND {})", "({} OR {})", "(NOT {})", "({} = {})", "({} IS NULL)"], conditions, conditions),
                any_of(["({} IS NULL)", "({} IS NOT NULL)"], numbers | texts),
            ),
        )
    return numbers, conditions


NUMBERS = st.one_of(
    st.none(),
    st.sampled_from(
        [
            0.0,
            -0.0,
            0.5,
            -0.5,
            1.5,
            2.5,
            0.49999999999999994,
            2.675,
            1e308,
            -1.7976931348623157e308,
            5e-324,
            math.nan,
            math.inf,
            0,
            1,
            -7,
        ]
    ),
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.just(10**400),
)
TEXTS = st.one_of(
    st.none(), st.sampled_from(["", "a", "A", "\0", "a\0", "Straße", "ſ", "İ", "é", "e\u0301", "😀", "\ud800"]), st.text(max_size=5)
)
TIMES = st.one_of(st.none(), st.sampled_from([0, -1, MONDAY_MS, 2**53, -(2**53) - 2, 2**60]), st.integers(-(10**15), 10**15))
ROWS = st.lists(
    st.fixed_dictionaries({"a": NUMBERS, "b": NUMBERS, "c": NUMBERS, "s": TEXTS, "u": TEXTS, "t": TIMES, "request_time": TIMES}),
    min_size=1,
    max_size=6,
)


def float64_array(values: list[Any]) -> Any:
    """The values as NumPy has numbers and times; texts, and integers that are no float64, stay as they are."""
    if any(isinstance(value, str) for value in values):  # also one that reads as a number, such as "0"
        return values
    try:
        return np.array([math.nan if value is None else float(value) for value in values])
    except OverflowError:
        return values


CONTAINERS: dict[str, Any] = {
    "list": list,
    "float64": float64_array,
    "array": lambda values: np.array([*values, None], object)[:-1],
    "series": lambda values: pd.Series(values, index=range(5, 5 + len(values)), dtype=object),
}


@settings(max_examples=600, deadline=None)
@given(st.one_of(*expressions(3)), ROWS, st.sampled_from(list(CONTAINERS)))
@example("round(a)", [NULLS | {"a": value} for value in (0.49999999999999994, -0.5, 0.5, 2.5, -0.0, 4503599627370497.5)], "list")
@example("least(a, b)", [NULLS | {"a": 0.0, "b": -0.0}, NULLS | {"a": -0.0, "b": 0.0}], "list")
@example("floor(a)", [NULLS | {"a": -0.0}], "list")
@example("ceil(a)", [NULLS | {"a": -0.5}], "list")
@example("length(s)", [NULLS | {"s": "a\0"}], "list")
@example("hash_bucket(s, 10)", [NULLS | {"s": "\ud800"}], "list")
def test_a_row_and_a_column_are_equal_to_the_bit(sql: str, rows: list[dict[str, Any]], container: str) -> None:
    try:
        program = compiled_sql(sql)
    except DeclarationError as error:
        assert "is always null" in error.cause  # noqa: PT017  # the only error of these expressions
        return
    columns = {name: CONTAINERS[container]([row[name] for row in rows]) for name in KINDS}
    assert bits_of_column(program.of_columns(columns, len(rows))) == [bits(program.of_row(row)) for row in rows]


@pytest.mark.parametrize(
    "sql", ["exp(a)", "ln(abs(b))", "log1p(abs(b))", "power(abs(b), a)", "sqrt(abs(b))", "a % b", "a / b", "round(b, 3)"]
)
def test_many_rows_are_equal_to_the_bit(sql: str) -> None:
    """NumPy has vectorized loops for long columns. On a processor with AVX-512, those of exp and log differ from the C library."""
    generator = np.random.default_rng(7)
    a, b = generator.normal(0, 20, 20_000), generator.normal(0, 1_000, 20_000)
    program = compiled_sql(sql)
    expected = [bits(program.of_row({"a": x, "b": y})) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert bits_of_column(program.of_columns({"a": a, "b": b}, len(a))) == expected


def test_no_operation_uses_a_function_of_numpy_that_differs_between_processors() -> None:
    source = (ROOT / "features" / "expression_kernels.py").read_text()
    assert not re.findall(r"\bnp\.(?:exp|expm1|log|log1p|power|float_power|sin|cos|tanh)\b", source)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=64), min_size=1, max_size=20), st.lists(st.booleans(), min_size=20, max_size=20))
def test_every_kind_of_numeric_column_has_the_values_of_its_rows(numbers: list[float], masked: list[bool]) -> None:
    program = compiled_sql("a * 1.1 + ln(abs(a))")
    expected = [bits(program.of_row({"a": number})) for number in numbers]
    assert bits_of_column(program.of_columns({"a": np.array(numbers)}, len(numbers))) == expected
    assert bits_of_column(program.of_columns({"a": pd.Series(numbers, dtype="Float64")}, len(numbers))) == expected
    hidden = masked[: len(numbers)]
    column = np.ma.MaskedArray(np.array(numbers), hidden)
    assert bits_of_column(program.of_columns({"a": column}, len(numbers))) == [
        None if mask else value for mask, value in zip(hidden, expected, strict=True)
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_an_integer_is_converted_to_float64_in_both_forms(integers: list[int]) -> None:
    program = compiled_sql("a + 0.5")
    expected = [bits(program.of_row({"a": integer})) for integer in integers]
    for column in (
        np.array(integers),
        pd.Series(integers),
        pd.Series([*integers, None], dtype="Int64")[:-1],
        integers,
        list(map(np.int64, integers)),
    ):
        assert bits_of_column(program.of_columns({"a": column}, len(integers))) == expected


# DuckDB as an independent oracle, on the common subset. A literal with an exponent is a DOUBLE in DuckDB.


def common_expressions(depth: int) -> tuple[st.SearchStrategy[str], st.SearchStrategy[str]]:
    numbers: st.SearchStrategy[str] = st.sampled_from(["a", "b", "c"]) | st.sampled_from(
        ["0e0", "1e0", "-2e0", "0.5e0", "1e3", "CAST_NULL"]
    )
    conditions: st.SearchStrategy[str] = st.sampled_from(
        ["(a > b)", "(a = c)", "(s < u)", "(s = 'é')", "(b IS NULL)", "TRUE", "(a = NULL)"]
    )
    for _ in range(depth):
        numbers, conditions = (
            st.one_of(
                numbers,
                any_of(
                    [
                        "({} + {})",
                        "({} - {})",
                        "({} * {})",
                        "({} / {})",
                        "({} % {})",
                        "nullif({}, {})",
                        "coalesce({}, {})",
                        "least({}, {})",
                        "greatest({}, {})",
                    ],
                    numbers,
                    numbers,
                ),
                any_of(["(- {})", "abs({})", "floor({})", "ceil({})", "round({})", "sqrt(abs({}))", "sign({})"], numbers),
                built("CASE WHEN {} THEN {} WHEN {} THEN {} ELSE {} END", conditions, numbers, conditions, numbers, numbers),
                built("CASE {} WHEN {} THEN {} END", numbers, numbers, numbers),
                st.sampled_from(["length(s)", "length(s || 'xé')", "length(s || u)", "length(lower(u))"]),
            ),
            st.one_of(
                conditions,
                any_of(CONDITIONS, numbers, numbers, st.sampled_from(COMPARISONS)),
                any_of(["({} AND {})", "({} OR {})", "(NOT {})", "({} = {})"], conditions, conditions),
                any_of(["({} IS NULL)", "({} IS NOT NULL)"], numbers | conditions),
            ),
        )
    return numbers, conditions


COMMON_NUMBERS = st.none() | st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 2.5, 3.0, 1000.0]) | st.floats(-1000, 1000)
COMMON_TEXTS = st.none() | st.sampled_from(["", "a", "B", "é", "zz", "😀"])
COMMON_ROWS = st.lists(
    st.tuples(COMMON_NUMBERS, COMMON_NUMBERS, COMMON_NUMBERS, COMMON_TEXTS, COMMON_TEXTS), min_size=1, max_size=6
)


@pytest.fixture(scope="module")
def oracle() -> Any:
    connection = duckdb.connect()
    connection.execute(
        "SET threads = 1; SET ieee_floating_point_ops = false; SET error_on_division_by_zero = false; SET integer_division = false"
    )
    return connection


@settings(max_examples=400, deadline=None)
@given(sql=st.one_of(*common_expressions(3)), rows=COMMON_ROWS)
def test_duckdb_computes_the_same_values(oracle: Any, sql: str, rows: list[tuple[Any, ...]]) -> None:
    types = ["DOUBLE", "DOUBLE", "DOUBLE", "VARCHAR", "VARCHAR"]
    tuples = ", ".join(f"({number}, {', '.join(f'?::{type_}' for type_ in types)})" for number in range(len(rows)))
    query = f"SELECT ({sql.replace('CAST_NULL', 'NULL::DOUBLE')}) FROM (VALUES {tuples}) AS rows (number, a, b, c, s, u) ORDER BY number"
    expected = [value for (value,) in oracle.execute(query, [value for row in rows for value in row]).fetchall()]
    try:
        program = compiled_sql(sql.replace("CAST_NULL", "NULL"))
    except DeclarationError as error:
        assert "is always null" in error.cause and set(expected) == {None}  # noqa: PT017
        return
    assert [program.of_row(dict(zip("abcsu", row, strict=True))) for row in rows] == expected


# Examples by hand.


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("7 / 2", 3.5), ("-7 % 3", -1.0), ("mod(7, 4)", 3.0), ("1 / 0", None), ("1 % 0", None), ("1e308 * 10", None), ("-1e308 - 1e308", None), ("a + 1", None),
        ("sqrt(-1)", None), ("ln(0)", None), ("ln(-1)", None), ("log1p(-1)", None), ("exp(710)", None), ("exp(-800)", 0.0), ("power(0, -1)", None),
        ("power(-8, 1 / 3)", None), ("power(-2, 3)", -8.0), ("power(10, 400)", None), ("pow(2, 10)", 1024.0), ("sign(-3)", -1.0), ("sign(-0.0)", 0.0),
        ("round(2.5)", 3.0), ("round(-2.5)", -3.0), ("round(0.49999999999999994)", 0.0), ("round(2.675, 2)", 2.68), ("round(-2.675, 2)", -2.68), ("round(1250, -2)", 1300.0),
        ("round(1e300, 15)", 1e300), ("floor(-1.5)", -2.0), ("ceil(-1.5)", -1.0), ("ceiling(1.2)", 2.0), ("least(a, 3, 2)", 2.0), ("greatest(a, 3, 2)", 3.0), ("least(a, b)", None),
        ("coalesce(a, b, 3)", 3.0), ("nvl(a, 4)", 4.0), ("nullif(1, 1)", None), ("nullif(1, a)", 1.0), ("if(a > 1, 1, 2)", 2.0), ("if(2 > 1, 1)", 1.0),
        ("CASE WHEN a > 1 THEN 1 WHEN TRUE THEN 2 END", 2.0), ("CASE a WHEN NULL THEN 1 ELSE 2 END", 2.0), ("CASE 3 WHEN 2 THEN 1 WHEN 3 THEN 9 END", 9.0),
        ("a = NULL", None), ("a IS NULL", 1.0), ("1 IS NOT NULL", 1.0), ("a > 1 AND FALSE", 0.0), ("FALSE AND a > 1", 0.0), ("a > 1 AND TRUE", None), ("a > 1 OR TRUE", 1.0),
        ("a > 1 OR FALSE", None), ("NOT a > 1", None), ("NOT TRUE", 0.0), ("1 IN (2, 1, NULL)", 1.0), ("1 IN (2, NULL)", None), ("1 NOT IN (2, 3)", 1.0), ("a IN (1)", None),
        ("1 BETWEEN 2 AND a", 0.0), ("3 BETWEEN 2 AND a", None), ("3 BETWEEN 2 AND 3", 1.0), ("TRUE", 1.0), ("-0.0 = 0", 1.0), ("(a > 1) = TRUE", None),
        ("lower('ÄB') = 'äb'", 1.0), ("upper('straße') = 'STRASSE'", 1.0), ("length('😀é')", 2.0), ("length('')", 0.0), ("concat('a', 'b', 'c') = 'abc'", 1.0),
        ("concat('a', s) IS NULL", 1.0), ("'a' || 'b' = 'ab'", 1.0), ("'it''s' = concat('it', 's')", 1.0), ("'b' > 'a'", 1.0), ("'é' > 'z'", 1.0), ("s = 'a'", None),
        ("bucket(0.5, 1, 2, 5)", 0.0), ("bucket(1, 1, 2, 5)", 1.0), ("bucket(9, -1, 2, 5)", 3.0), ("bucket(a, 1)", None),
        ("hash_bucket('DE', 1000)", 345.0), ("hash_bucket('é', 1000)", 963.0), ("hash_bucket('', 1000)", 756.0), ("hash_bucket(1, 1000)", 579.0),
        ("hash_bucket(-0.0, 1000) = hash_bucket(0, 1000)", 1.0), ("hash_bucket(s, 10)", None), ("hash_bucket('a', 1)", 0.0),
    ],
)  # fmt: skip
def test_a_value(sql: str, expected: float | None) -> None:
    assert value_of(sql) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("hour_of_day(t)", 0.0), ("day_of_week(t)", 1.0), ("hour_of_day(request_time)", 23.0), ("day_of_week(request_time)", 7.0),
        ("seconds_between(request_time, t)", 0.001), ("t > request_time", 1.0), ("greatest(t, request_time) = t", 1.0), ("hour_of_day(if(a > 1, t, NULL))", None),
    ],
)  # fmt: skip
def test_a_value_of_times(sql: str, expected: float | None) -> None:
    assert value_of(sql, t=MONDAY_MS, request_time=MONDAY_MS - 1) == expected


def test_a_time_before_1970_and_a_time_out_of_range() -> None:
    assert value_of("hour_of_day(t)", t=-1) == 23.0
    assert value_of("day_of_week(t)", t=-1) == 3.0  # 1969-12-31 was a Wednesday
    assert value_of("day_of_week(t)", t=0) == 4.0
    assert value_of("t IS NULL", t=2**53) == 0.0
    assert value_of("t IS NULL", t=2**53 + 2) == 1.0
    assert compiled_sql("t IS NULL").of_columns({"t": np.array([2**53, 2**53 + 2])}, 2).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400, None])
def test_a_number_that_is_not_finite_is_null(number: float | None) -> None:
    assert value_of("a IS NULL", a=number) == 1.0
    assert value_of("coalesce(a, 5)", a=number) == 5.0


# The compiled expression.


def test_the_names_are_those_that_the_expression_reads() -> None:
    assert compiled_sql("b + a * b - seconds_between(t, request_time)").names == ("b", "a", "t", "request_time")
    assert compiled_sql("1").names == ()


def test_white_space_comments_case_and_parentheses_do_not_change_the_canonical_spelling() -> None:
    spellings = ["a + coalesce(b,1)*2", " (a)\n + ((COALESCE( b , 1.0 )) * 2) -- why", "`a` /* why */ + nvl(b, 1) * 2e0"]
    assert {compiled_sql(sql).canonical for sql in spellings} == {"(`a` + (coalesce(`b`, 1.0) * 2.0))"}


def test_another_meaning_is_another_canonical_spelling() -> None:
    different = [
        "a - b - c",
        "a - (b - c)",
        "a + b",
        "a + c",
        "round(a)",
        "round(a, 1)",
        "bucket(a, 1)",
        "bucket(a, 2)",
        "s = 'a'",
        "s = 'A'",
        "hash_bucket(a, 2)",
        "hash_bucket(a, 3)",
    ]
    assert len({compiled_sql(sql).canonical for sql in different}) == len(different)


@settings(max_examples=200, deadline=None)
@given(st.one_of(*expressions(2)))
def test_the_canonical_spelling_is_an_expression_with_the_same_canonical_spelling(sql: str) -> None:
    try:
        canonical = compiled_sql(sql).canonical
    except DeclarationError:
        return
    assert compiled_sql(canonical).canonical == canonical


@pytest.mark.parametrize("text", ["'", "\\", "a\nb", "\\'", "é😀", '"', "%"])
def test_a_literal_text_survives_the_canonical_spelling(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    canonical = compiled_sql(f"s = '{escaped}'").canonical
    assert compiled_sql(canonical).of_row({"s": text}) == 1.0
    assert compiled_sql(canonical).canonical == canonical


def test_any_text_may_be_a_name_of_a_request() -> None:
    program = compiled(expression("risk", "`Größe in m` + `a``b`"), {"Größe in m": ValueKind.NUMBER, "a`b": ValueKind.NUMBER})
    assert program.of_row({"Größe in m": 1, "a`b": 2}) == 3.0
    assert program.canonical == "(`Größe in m` + `a``b`)"


def test_an_expression_without_names_and_a_column_without_rows() -> None:
    assert compiled_sql("1 + 1").of_columns({}, 3).tolist() == [2.0, 2.0, 2.0]
    assert compiled_sql("1 + 1").of_columns({}, 0).tolist() == []
    assert compiled_sql("round(a, 2) + length(s)").of_columns({"a": [], "s": []}, 0).tolist() == []


def test_a_result_is_an_array_of_its_own() -> None:
    column = np.array([1.0, 2.0])
    result = compiled_sql("a").of_columns({"a": column}, 2)
    result[0] = 9.0
    assert column.tolist() == [1.0, 2.0]


def test_a_missing_name_a_wrong_type_and_a_wrong_length_are_errors_of_both_forms() -> None:
    program = compiled_sql("a + length(s)")
    with pytest.raises(KeyError, match="a"):
        program.of_row({"s": "x"})
    with pytest.raises(KeyError, match="a"):
        program.of_columns({"s": ["x"]}, 1)
    for values in ({"a": "1", "s": "x"}, {"a": 1, "s": 2}):
        with pytest.raises(TypeError, match=r"The value of [as] is a (str|int), where a (number|text) is needed."):
            program.of_row(values)
        with pytest.raises(TypeError, match=r"The value of [as] is a (str|int), where a (number|text) is needed."):
            program.of_columns({name: [value] for name, value in values.items()}, 1)
    with pytest.raises(ValueError, match=r"The column a has the shape \(1,\), not \(2,\)"):
        program.of_columns({"a": [1], "s": ["x", "y"]}, 2)
    with pytest.raises(TypeError, match="Pass integers: milliseconds since 1970 in UTC"):
        compiled_sql("hour_of_day(t)").of_columns({"t": pd.to_datetime(pd.Series(["2026-01-05"]))}, 1)


def test_columns_of_texts_with_missing_values_of_pandas() -> None:
    program = compiled_sql("coalesce(length(s), -1)")
    for column in (
        pd.Series(["ab", None, math.nan]),
        pd.Series(["ab", None, pd.NA], dtype="string"),
        pd.Series(["ab", None, None], dtype="category"),
    ):
        assert program.of_columns({"s": column}, 3).tolist() == [2.0, -1.0, -1.0]
    assert program.of_columns({"s": np.array(["ab", "", "x"])}, 3).tolist() == [2.0, 0.0, 1.0]


# Errors.


@pytest.mark.parametrize(
    ("sql", "cause", "cure"),
    [
        ("a +", "does not parse: 'a +'", "Write one SQL expression."),
        ("", "does not parse: ''", "Write one SQL expression."),
        ("a, b", "does not parse", "Write one SQL expression."),
        ("a + missing", "names an unknown value 'missing'", "Known are: a, b, c, request_time, s, t, u."),
        ("a + x.b", "names an unknown value 'x.b'", "Known are"),
        ("sum(a)", "uses SUM(a), which is not allowed in a derived feature", "Use names, literals, operators, CASE, and: abs, bucket,"),
        ("a + 1e999", "has a number that is too large: 1e999", "Use a number below 1.8e308."),
        ("s + 1", "uses a text where a number is needed: `s` in s + 1", "Use a number."),
        ("a AND TRUE", "uses a number where a condition is needed: `a` in a AND TRUE", "Compare the number, such as x <> 0."),
        ("(a > 1) + 1", "uses a condition where a number is needed", "Make a number of the condition: if(condition, 1, 0)."),
        ("request_time - 1", "uses a time where a number is needed", "Use seconds_between, hour_of_day or day_of_week."),
        ("lower(a)", "uses a number where a text is needed: `a` in LOWER(a)", "Use a text."),
        ("hour_of_day(a)", "uses a number where a time is needed", "Use a time."),
        ("hash_bucket(t, 5)", "uses a time where a number is needed", "Use seconds_between, hour_of_day or day_of_week."),
        ("CASE WHEN a THEN 1 END", "uses a number where a condition is needed", "Compare the number"),
        ("a = s", "mixes a number and a text: a = s", "Use values of one kind."),
        ("if(a > 1, a, s)", "mixes a number and a text: IF(a > 1, a, s)", "Use values of one kind."),
        ("coalesce(t, a)", "mixes a time and a number", "Use values of one kind."),
        ("a IN (1, 'x')", "mixes a number and a text: a IN (1, 'x')", "Use values of one kind."),
        ("floor(a, 2)", "calls floor with 2 arguments", "The number of arguments of floor is 1."),
        ("log1p()", "calls log1p with 0 arguments", "The number of arguments of log1p is 1."),
        ("hash_bucket(a)", "calls hash_bucket with 1 arguments", "The number of arguments of hash_bucket is 2."),
        ("hash_bucket(a, b)", "has a number of buckets that cannot be used: HASH_BUCKET(a, b)", "Write a literal integer from 1 to 2147483647."),
        ("hash_bucket(a, 0)", "has a number of buckets that cannot be used", "Write a literal integer"),
        ("bucket(a)", "has boundaries that cannot be used: BUCKET(a)", "Write literal numbers, each larger than the one before."),
        ("bucket(a, 2, 2)", "has boundaries that cannot be used: BUCKET(a, 2, 2)", "Write literal numbers"),
        ("bucket(a, b)", "has boundaries that cannot be used: BUCKET(a, b)", "Write literal numbers"),
        ("round(a, b)", "rounds to digits that cannot be used: ROUND(a, b)", "Use an integer from -15 to 15."),
        ("round(a, 16)", "rounds to digits that cannot be used: ROUND(a, 16)", "Use an integer from -15 to 15."),
        ("(" * 500 + "a" + ")" * 500, "is nested too deeply", "Use fewer levels of parentheses or operators."),
    ],
)  # fmt: skip
def test_an_expression_that_cannot_be_compiled_is_refused(sql: str, cause: str, cure: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        compiled_sql(sql)
    assert caught.value.cause.startswith(f"The expression of risk {cause}")
    assert caught.value.cure.startswith(cure)


@pytest.mark.parametrize(
    ("sql", "phrase"), [("s", "a text"), ("t", "a time"), ("NULL", "always null"), ("nullif(NULL, a)", "always null")]
)
def test_a_result_that_is_no_number_is_refused(sql: str, phrase: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        compiled_sql(sql)
    assert caught.value.cause == f"The result of risk is {phrase}: {sql!r}."
    assert caught.value.cure == "A derived feature is a number or a condition, such as length(name) or country = 'DE'."


@pytest.mark.parametrize(
    "sql",
    [
        "now()", "current_timestamp", "rand()", "uuid()", "CAST(a AS INT)", "a::int", "1L", "a LIKE 'x'", "s RLIKE 'x'", "a <=> b", "a IS TRUE", "(SELECT 1)", "SELECT 1",
        "a IN (SELECT 1)", "a IN b", "sum(a) OVER ()", "a; b", "a AS b", "*", "?", ":x", "dayofweek(t)", "hour(t)", "xxhash64(s)", "a DIV b", "a & b", "a[0]", "bucket(x => 1, 2)",
        "log10(a)", "my_udf(a)", "a BETWEEN SYMMETRIC 1 AND 2", "concat(DISTINCT s)", "date '2026-01-01'", "interval 1 day",
    ],
)  # fmt: skip
def test_what_is_not_on_the_page_is_refused(sql: str) -> None:
    with pytest.raises(DeclarationError, match=r"The expression of risk uses .*, which is not allowed in a derived feature"):
        compiled_sql(sql)


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "_a", "é"])
def test_a_name_that_cannot_be_used_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        expression(name, "1")
    assert caught.value.cause == f"The name {name!r} cannot be used."


@pytest.mark.parametrize("default", [math.nan, math.inf])
def test_a_default_that_is_not_finite_is_refused(default: float) -> None:
    with pytest.raises(DeclarationError, match=rf"The default of risk, {default}, is no finite number. Use a finite number."):
        expression("risk", "a", default)


# The page.


def test_the_page_on_expressions_lists_every_function() -> None:
    page = (ROOT / "docs" / "expressions.md").read_text()
    assert set(re.findall(r"`(\w+)\(\)`", page)) == set(FUNCTIONS)
