"""Inputs: the value that an event contributes to a feature, as one Spark SQL expression over the typed columns of its source."""

from __future__ import annotations

from dataclasses import dataclass

from features.aggregations import ApproxDistinct, Distinct
from features.declaration.feature import Feature
from features.errors import DeclarationError
from features.predicates import canonical_predicate, columns_of_predicate
from features.sources import MICROS, ColumnType, EventSource


@dataclass(frozen=True)
class Input:
    """The value that an event contributes to one or more features: an int64 or a text; null if the event does not count.

    Attributes:
        sql: The expression for the value, in Spark SQL.
        scale: The number of the expression's units per 1 of the column: 1,000,000 for decimals, else 1.
        text: Whether the values are texts.
    """

    sql: str
    scale: int
    text: bool = False

    @property
    def sql_type(self) -> str:
        """The Spark SQL type of the expression."""
        return "STRING" if self.text else "BIGINT"

    @property
    def value_sql_type(self) -> str:
        """The Spark SQL type of a value in the unit of the column."""
        return self.sql_type if self.scale == 1 else "DOUBLE"


def input_of(feature: Feature, source: EventSource) -> Input:
    """Compiles the input of a feature.

    Raises:
        DeclarationError: The column of the feature is unknown or has a type that the aggregation does not take, or the predicate is invalid.
    """
    where = canonical_predicate(feature.where, source, feature.name) if feature.where else None
    value, scale, text = "1", 1, False
    if feature.of is not None:
        column = source.column(feature.of)
        if column is None:
            known = ", ".join(known.name for known in source.columns)
            raise DeclarationError(
                f"The feature {feature.name} aggregates an unknown column {feature.of!r}.", f"{source.name} has: {known}."
            )
        aggregation = feature.aggregation
        if isinstance(aggregation, Distinct | ApproxDistinct) and column.type is not ColumnType.MAP:
            value = f"xxhash64(`{column.name}`)"
            present = f"`{column.name}` IS NOT NULL"
            where = f"{present} AND ({where})" if where else present
        elif column.type is ColumnType.DECIMAL:
            value, scale = f"CAST(`{column.name}` * {MICROS} AS BIGINT)", MICROS
        elif column.type is ColumnType.INT64 or (column.type is ColumnType.STRING and aggregation.takes_text):
            value, text = f"`{column.name}`", column.type is ColumnType.STRING
        else:
            raise DeclarationError(
                f"The feature {feature.name} cannot aggregate {feature.of!r}, a {column.type.name.lower()} column.",
                "Use a decimal or integer column; of texts, distinct(), approx_distinct(), last_k() or top_k().",
            )
    return Input(f"CASE WHEN {where} THEN {value} END" if where else value, scale, text)


def columns_read(feature: Feature) -> tuple[str, ...]:
    """Returns the names of the source's columns that the feature aggregates or its predicate reads, in the order of first use."""
    named = [feature.of] if feature.of is not None else []
    return tuple(dict.fromkeys([*named, *(columns_of_predicate(feature.where) if feature.where else ())]))
