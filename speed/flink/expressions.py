"""Translates the expressions of a declaration from Spark SQL to Flink SQL over the columns of `speed.flink.contract`.

Only expressions with the same meaning in both engines are translated; a differential test compares them with Spark. Any other expression is refused
when the job is made.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

import sqlglot
from sqlglot import exp

from features.sources import ColumnType
from infra.errors import InputError
from speed.flink.contract import Reading, text


class Kind(StrEnum):
    """The kind of an expression. Values of different kinds cannot be compared. MICROS are the micro-units of a decimal."""

    TEXT = "text"
    INTEGER = "integer"
    MICROS = "decimal"
    CONDITION = "condition"
    LITERAL = "number"


_KINDS = {ColumnType.STRING: Kind.TEXT, ColumnType.INT64: Kind.INTEGER, ColumnType.DECIMAL: Kind.MICROS}
_COMPARED: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
}
_LARGEST = 2**63 - 1


class UntranslatableError(InputError):
    """An expression that Flink may read otherwise than Spark."""

    def __init__(self, owner: str, part: str) -> None:
        super().__init__(
            f"{owner} uses {part}, which the engine flink does not read as the batch does.",
            "Use the engine spark: `braid up --engine spark`.",
        )


def columns_used(expression: str) -> tuple[set[str], dict[str, list[str]]]:
    """Returns the columns that an expression reads, and for map columns: column → the keys that it reads."""
    tree = sqlglot.parse_one(expression, dialect="spark")
    keys: dict[str, list[str]] = {}
    for node in tree.find_all(exp.Bracket):
        if isinstance(node.this, exp.Column) and len(node.expressions) == 1 and node.expressions[0].is_string:
            keys.setdefault(node.this.name, []).append(node.expressions[0].name)
    return {column.name for column in tree.find_all(exp.Column)}, keys


def condition_sql(expression: str, reading: Reading, owner: str) -> str:
    """Translates a condition to Flink SQL.

    Args:
        expression: The condition in Spark SQL.
        reading: The columns that the job reads.
        owner: The feature that has the condition, for the message of the error.

    Raises:
        UntranslatableError: A part of the condition may have another meaning in Flink.
    """
    sql, kind = _translated(sqlglot.parse_one(expression, dialect="spark"), reading, owner)
    if kind is not Kind.CONDITION:
        raise UntranslatableError(owner, expression)
    return sql


def _translated(node: exp.Expr, reading: Reading, owner: str) -> tuple[str, Kind]:
    def of(child: exp.Expr) -> tuple[str, Kind]:
        return _translated(child, reading, owner)

    def condition(child: exp.Expr) -> str:
        sql, kind = of(child)
        if kind is not Kind.CONDITION:
            raise UntranslatableError(owner, child.sql(dialect="spark"))
        return sql

    def alike(*children: exp.Expr) -> tuple[list[str], Kind]:
        pairs = [of(child) for child in children]
        kinds = {kind for _, kind in pairs} - {Kind.LITERAL}
        if len(kinds) > 1 or (kinds and not kinds <= {Kind.TEXT, Kind.INTEGER, Kind.MICROS}):
            raise UntranslatableError(owner, node.sql(dialect="spark"))
        kind = kinds.pop() if kinds else Kind.LITERAL
        return [_number(sql, kind, owner) if its is Kind.LITERAL else sql for sql, its in pairs], kind

    match node:
        case exp.Paren():
            sql, kind = of(node.this)
            return f"({sql})", kind
        case exp.Column():
            column = reading.source.column(node.name)
            if column and column.type in _KINDS:
                return reading.column(node.name), _KINDS[column.type]
        case exp.Bracket() if isinstance(node.this, exp.Column) and len(node.expressions) == 1 and node.expressions[0].is_string:
            column = reading.source.column(node.this.name)
            key = node.expressions[0].name
            if column and column.type is ColumnType.MAP and key.isascii() and '"' not in key and "\\" not in key:
                return reading.value(node.this.name, key), Kind.TEXT
        case exp.Literal() if node.is_string:
            return f"CAST({text(node.name)} AS STRING)", Kind.TEXT
        case exp.Literal():
            return node.name, Kind.LITERAL
        case exp.Neg() if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return f"-{node.this.name}", Kind.LITERAL
        case exp.Boolean():
            return ("TRUE" if node.this else "FALSE"), Kind.CONDITION
        case exp.And() | exp.Or():
            word = "AND" if isinstance(node, exp.And) else "OR"
            return f"({condition(node.left)} {word} {condition(node.right)})", Kind.CONDITION
        case exp.Not():
            return f"(NOT {condition(node.this)})", Kind.CONDITION
        case exp.Is() if isinstance(node.expression, exp.Null):
            return f"({of(node.this)[0]} IS NULL)", Kind.CONDITION
        case exp.In() if node.expressions and not node.args.get("query"):
            (tested, *listed), _ = alike(node.this, *node.expressions)
            return f"({' OR '.join(f'{tested} = {value}' for value in listed)})", Kind.CONDITION
        case exp.Between():
            (tested, low, high), _ = alike(node.this, node.args["low"], node.args["high"])
            return f"({tested} >= {low} AND {tested} <= {high})", Kind.CONDITION
        case exp.Like() if node.expression.is_string and "\\" not in node.expression.name:
            sql, kind = of(node.this)
            if kind is Kind.TEXT:
                return f"({sql} LIKE {text(node.expression.name)})", Kind.CONDITION
        case exp.Coalesce():
            listed, kind = alike(node.this, *node.expressions)
            return f"COALESCE({', '.join(listed)})", kind
        case exp.Case() if not node.this:
            values = [branch.args["true"] for branch in node.args["ifs"]]
            default = node.args.get("default")
            listed, kind = alike(*values, *([default] if default is not None else []))
            whens = [f"WHEN {condition(branch.this)} THEN {value}" for branch, value in zip(node.args["ifs"], listed, strict=False)]
            return f"CASE {' '.join(whens)}{f' ELSE {listed[-1]}' if default is not None else ''} END", kind
        case _ if type(node) in _COMPARED:
            (left, right), _ = alike(node.this, node.expression)
            return f"({left} {_COMPARED[type(node)]} {right})", Kind.CONDITION
    raise UntranslatableError(owner, node.sql(dialect="spark"))


def _number(literal: str, kind: Kind, owner: str) -> str:
    """Returns the SQL of a number's literal, in the unit of the values with which it is compared."""
    if not literal.lstrip("-").replace(".", "", 1).isdigit():
        raise UntranslatableError(owner, literal)
    value = Decimal(literal) * (1_000_000 if kind is Kind.MICROS else 1)
    if kind not in (Kind.INTEGER, Kind.MICROS) or value != int(value) or abs(value) > _LARGEST:
        raise UntranslatableError(owner, literal)
    return f"CAST({int(value)} AS BIGINT)"
