"""Predicates in a declaration: SQL conditions on one event, parsed and checked by sqlglot while the declaration's module loads.

Reads a condition and the columns of its source; returns Spark SQL in a canonical spelling, so the fingerprint of a declaration does not
change with white space or comments.

A predicate depends on the event alone, so batch, speed and a recomputation a year later agree on it. It may use columns, literals,
`AND OR NOT`, comparisons, `IN`, `BETWEEN`, `LIKE`, `ILIKE`, `RLIKE`, `IS NULL`, arithmetic and bit operators, `||`, `CASE`, `CAST` and
`TRY_CAST`, `properties['key']`, and `FUNCTIONS`; see docs/predicates.md. Everything else is refused, such as random numbers, the clock,
users, sessions, files, names of days in a language, and time zones other than UTC. Sessions run in UTC, so the hour of a time is allowed.
`features.trial` checks whether Spark can evaluate a predicate and its regular expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify_columns import quote_identifiers

from features.errors import DeclarationError
from features.sources import EventSource

_BOOLEAN = (
    exp.Predicate, exp.Connector, exp.Not, exp.Boolean, exp.StartsWith, exp.EndsWith, exp.Contains, exp.IsNan, exp.MapContainsKey, exp.ArrayContains,
)  # fmt: skip
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Between)
#: The functions that read a part of a time.
_TIME_FUNCTIONS: dict[str, type[exp.Expr]] = {
    "year": exp.Year, "quarter": exp.Quarter, "month": exp.Month, "day": exp.Day, "dayofmonth": exp.DayOfMonth, "dayofweek": exp.DayOfWeek,
    "dayofyear": exp.DayOfYear, "weekofyear": exp.WeekOfYear, "hour": exp.Hour, "minute": exp.Minute, "second": exp.Second,
    "extract": exp.Extract, "date_trunc": exp.TimestampTrunc, "to_date": exp.TsOrDsToDate, "unix_millis": exp.UnixMillis,
    "unix_seconds": exp.UnixSeconds,
}  # fmt: skip
_REGULAR_EXPRESSIONS = (exp.RegexpLike, exp.RegexpExtract, exp.RegexpReplace, exp.RegexpSplit)
#: The functions that a predicate may call, by their names in Spark SQL. sqlglot has one class for synonyms, such as nvl and coalesce.
FUNCTIONS: dict[str, type[exp.Expr]] = {
    # texts
    "lower": exp.Lower, "upper": exp.Upper, "trim": exp.Trim, "length": exp.Length, "substring": exp.Substring, "left": exp.Left,
    "right": exp.Right, "concat": exp.Concat, "concat_ws": exp.ConcatWs, "replace": exp.Replace, "translate": exp.Translate,
    "startswith": exp.StartsWith, "endswith": exp.EndsWith, "contains": exp.Contains, "locate": exp.StrPosition, "split_part": exp.SplitPart,
    "split": exp.RegexpSplit, "reverse": exp.Reverse, "lpad": exp.Pad, "repeat": exp.Repeat, "ascii": exp.Ascii, "levenshtein": exp.Levenshtein,
    "regexp_like": exp.RegexpLike, "regexp_extract": exp.RegexpExtract, "regexp_replace": exp.RegexpReplace, "md5": exp.MD5, "sha2": exp.SHA2,
    "get_json_object": exp.JSONExtractScalar,
    # numbers
    "abs": exp.Abs, "ceil": exp.Ceil, "floor": exp.Floor, "round": exp.Round, "sign": exp.Sign, "sqrt": exp.Sqrt, "power": exp.Pow, "ln": exp.Ln,
    "log": exp.Log, "exp": exp.Exp, "greatest": exp.Greatest, "least": exp.Least, "mod": exp.Mod, "isnan": exp.IsNan,
    # nulls and conditions
    "coalesce": exp.Coalesce, "nullif": exp.Nullif, "nvl2": exp.Nvl2, "if": exp.If,
    # maps
    "element_at": exp.Bracket, "map_contains_key": exp.MapContainsKey, "map_keys": exp.MapKeys, "array_contains": exp.ArrayContains,
    "size": exp.ArraySize,
    **_TIME_FUNCTIONS,
}  # fmt: skip
#: Functions of Spark for which sqlglot has no class; they are allowed by name.
FUNCTIONS_BY_NAME = {"pmod", "bround", "isnull", "isnotnull", "xxhash64", "crc32", "btrim", "weekday"}
_ALLOWED = {
    *FUNCTIONS.values(),
    exp.Column, exp.Identifier, exp.Literal, exp.Null, exp.Boolean, exp.Paren, exp.And, exp.Or, exp.Not, exp.Is, exp.Like, exp.ILike, exp.Escape,
    *_COMPARISONS, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Neg, exp.DPipe, exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseXor, exp.BitwiseNot,
    exp.BitwiseLeftShift, exp.BitwiseRightShift, exp.Case, exp.Cast, exp.TryCast, exp.DataType, exp.DataTypeParam, exp.Var,
    exp.JSONPath, exp.JSONPathRoot, exp.JSONPathKey, exp.JSONPathSubscript,
}  # fmt: skip
#: A date, or a date and a time. Spark converts some other texts by the clock, such as 'now', 'today', or '12:00' (of today).
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?")


def canonical_predicate(where: str, source: EventSource, owner: str) -> str:
    """Checks a predicate, and returns it in canonical Spark SQL.

    Args:
        where: One boolean SQL expression over the columns of the source.
        source: The source with its columns and types.
        owner: The name of the feature or the outcome, for the error.

    Raises:
        DeclarationError: The predicate does not parse, names an unknown column, uses something that is not allowed, is not a condition,
            compares a number with a text, uses a text as a time, or has a pattern that is not a literal.
    """
    try:
        tree = sqlglot.parse_one(where, dialect="spark")
    except SqlglotError as error:
        reason = str(error).splitlines()[0]
        raise DeclarationError(
            f"The predicate of {owner} does not parse: {where!r} ({reason}).", "Write one SQL condition."
        ) from None
    for column in tree.find_all(exp.Column):
        if column.table or source.column(column.name) is None:
            known = ", ".join(known.name for known in source.columns)
            raise DeclarationError(
                f"The predicate of {owner} names an unknown column {column.sql()!r}.", f"{source.name} has: {known}."
            )
    for node in tree.walk():
        if type(node) in _ALLOWED or (isinstance(node, exp.Anonymous) and node.name.lower() in FUNCTIONS_BY_NAME):
            continue
        raise DeclarationError(
            f"The predicate of {owner} uses {node.sql(dialect='spark')}, which is not allowed in a condition on one event.",
            f"Use columns, literals, operators, and: {', '.join(sorted({*FUNCTIONS, *FUNCTIONS_BY_NAME}))}.",
        )
    for pattern in (node.expression for node in tree.find_all(*_REGULAR_EXPRESSIONS, exp.Like, exp.ILike)):
        if not pattern.is_string:
            raise DeclarationError(
                f"The predicate of {owner} takes a pattern from the event: {pattern.sql(dialect='spark')}.",
                "Write the pattern as a literal: a wrong pattern in an event would end the stream.",
            )
    outer = tree.unnest()
    if not isinstance(outer, _BOOLEAN) and not (isinstance(outer, exp.Anonymous) and outer.name.lower() in ("isnull", "isnotnull")):
        raise DeclarationError(
            f"The predicate of {owner} is not a condition: {where!r}.", 'Write a comparison, such as "amount > 0".'
        )
    _refuse_mixed_types(tree, source, owner)
    return quote_identifiers(tree, dialect="spark").sql(dialect="spark", normalize_functions="upper", comments=False)


def columns_of_predicate(where: str) -> tuple[str, ...]:
    """Returns the names of the columns in a predicate."""
    return tuple(column.name for column in sqlglot.parse_one(where, dialect="spark").find_all(exp.Column))


def trials_of_patterns(where: str) -> list[str]:
    """Returns SQL expressions that apply each pattern of a predicate to a text, so that Spark raises an error for an invalid pattern.

    Each regular expression gets an empty alternative, so that it always matches.
    """
    trials = []
    tree = sqlglot.parse_one(where, dialect="spark")
    for node in list(tree.find_all(*_REGULAR_EXPRESSIONS, exp.Like, exp.ILike)):
        node.set("this", exp.Literal.string("a"))
        if isinstance(node, _REGULAR_EXPRESSIONS):
            node.set("expression", exp.Literal.string(f"|{node.expression.name}"))
        outer = node.parent if isinstance(node.parent, exp.Escape) else node
        trials.append(outer.sql(dialect="spark"))
    return trials


def _refuse_mixed_types(tree: exp.Expr, source: EventSource, owner: str) -> None:
    """Refuses a text that Spark would convert to a number (to NULL, without an error) or to a time (by the clock).

    Raises:
        DeclarationError: The predicate compares a text with a number, or uses a text as a time that is not an ISO literal.
    """

    def typed_null(node: exp.Expr) -> exp.Expr:
        declared = source.column(node.name) if isinstance(node, exp.Column) else None
        return exp.cast(exp.null(), declared.type.value, dialect="spark") if declared else node

    typed = annotate_types(tree.transform(typed_null), dialect="spark")
    for node in typed.walk():
        operands = list(_operands(node))
        texts = [operand for operand in operands if operand.is_type(*exp.DataType.TEXT_TYPES)]
        if isinstance(node, _COMPARISONS) and texts and any(operand.is_type(*exp.DataType.NUMERIC_TYPES) for operand in operands):
            raise DeclarationError(
                f"The predicate of {owner} compares a number with a text: {tree.sql(dialect='spark')!r}.",
                "Compare values of one type.",
            )
        is_time = isinstance(node, tuple(_TIME_FUNCTIONS.values())) or (
            isinstance(node, exp.Cast) and node.to.is_type(*exp.DataType.TEMPORAL_TYPES)
        )
        if is_time or any(operand.is_type(*exp.DataType.TEMPORAL_TYPES) for operand in operands):
            for text in texts:
                if not (text.is_string and _ISO_TIME.fullmatch(text.name)):
                    raise DeclarationError(
                        f"The predicate of {owner} uses a text as a time: {text.sql(dialect='spark')}.",
                        "Use a time column, or a literal such as '2026-03-01' or '2026-03-01 12:00:00'.",
                    )


def _operands(node: exp.Expr) -> Iterator[exp.Expr]:
    """Yields the values that a node converts to a common type."""
    for child in node.iter_expressions():
        yield child
        if isinstance(node, exp.Case) and isinstance(child, exp.If):
            yield from child.iter_expressions()
