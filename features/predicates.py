"""Predicates and values in a declaration: SQL expressions, parsed and checked by sqlglot while the module loads.

Reads an expression and the columns of its source; gives back Spark SQL in one canonical spelling, so that the fingerprint of a
declaration does not change with white space.
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify_columns import quote_identifiers

from features.errors import DeclarationError
from features.sources import EventSource

_BOOLEAN = (exp.Predicate, exp.Connector, exp.Not, exp.Boolean)
#: What would give another answer tomorrow, or needs more than the one event.
_REFUSED = (
    exp.AggFunc, exp.Window, exp.Query, exp.Subquery, exp.Rand, exp.Uuid,
    exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.Star,
)  # fmt: skip


def canonical_predicate(where: str, source: EventSource, owner: str) -> str:
    """The predicate in canonical Spark SQL.

    Args:
        where: One boolean SQL expression over the columns of the source.
        source: Names the columns and their types.
        owner: The feature, for the error.

    Raises:
        DeclarationError: It does not parse, names an unknown column or function, is not a condition, compares a number with a
            text, or depends on more than the event.
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
        if isinstance(node, exp.Anonymous):
            raise DeclarationError(
                f"The predicate of {owner} calls an unknown function {node.name!r}.", "Use a function of Spark SQL."
            )
        if isinstance(node, _REFUSED):
            raise DeclarationError(
                f"The predicate of {owner} uses {node.sql(dialect='spark')!r}, which one event alone cannot answer.",
                "Use columns, literals and deterministic functions.",
            )
    if not isinstance(tree.unnest(), _BOOLEAN):
        raise DeclarationError(
            f"The predicate of {owner} is not a condition: {where!r}.", 'Compare something, such as "amount > 0".'
        )
    _refuse_mixed_comparisons(tree, source, owner)
    return quote_identifiers(tree, dialect="spark").sql(dialect="spark", normalize_functions="upper")


def columns_of_predicate(where: str) -> tuple[str, ...]:
    """The columns that a predicate names."""
    return tuple(column.name for column in sqlglot.parse_one(where, dialect="spark").find_all(exp.Column))


def _refuse_mixed_comparisons(tree: exp.Expr, source: EventSource, owner: str) -> None:
    """Spark would read the text as a number and find NULL, silently, in every event."""

    def typed_null(node: exp.Expr) -> exp.Expr:
        declared = source.column(node.name) if isinstance(node, exp.Column) else None
        return exp.cast(exp.null(), declared.type.value, dialect="spark") if declared else node

    typed = annotate_types(tree.transform(typed_null), dialect="spark")
    for node in typed.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In):
        sides = [node.this, *node.expressions] if isinstance(node, exp.In) else [node.this, node.expression]
        texts = [side for side in sides if side.is_type(*exp.DataType.TEXT_TYPES)]
        numbers = [side for side in sides if side.is_type(*exp.DataType.NUMERIC_TYPES)]
        if texts and numbers:
            raise DeclarationError(
                f"The predicate of {owner} compares a number with a text: {tree.sql(dialect='spark')!r}.",
                "Compare values of one type.",
            )
