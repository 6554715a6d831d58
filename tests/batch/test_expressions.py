"""Spark evaluates what a declaration may say, and says of what it cannot evaluate which feature it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from features.declaration import FeatureGroup, count, distinct, total
from features.errors import DeclarationError
from features.sources import Column, ColumnType, EventSource
from features.trial import check_expressions
from tests.features.test_predicates import EXAMPLES, OPERATORS, SOURCE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.usefixtures("compiled")


def test_spark_evaluates_everything_that_the_list_allows(spark: SparkSession) -> None:
    conditions = [*EXAMPLES.values(), *OPERATORS]
    features = [count(f"n{place}", where=where) for place, where in enumerate(conditions)]
    check_expressions(spark, FeatureGroup("g", "user_id", SOURCE, (*features, total("t", of="amount"), distinct("d", of="text"))))


@pytest.mark.parametrize(
    "where",
    [
        "text RLIKE '('", "amount > 5 AND text RLIKE '[a'", "properties['k'] RLIKE '*'", "regexp_extract(text, 'b', 1) = 'b'", "regexp_extract(text, '(b)', 2) = 'b'",
        "regexp_replace(text, 'b', '$1') = 'b'", "split(text, '(')[0] = 'a'", "CASE WHEN text = 'never' THEN other RLIKE '\\\\p{Nonsense}' ELSE false END = true",
        "amount > 5 AND text LIKE 'b!' ESCAPE '!'",
        "pmod(user_id) = 1", "array_contains(text, 'a')",
    ],
)  # fmt: skip
def test_what_spark_cannot_evaluate_is_an_error_with_the_name_of_the_feature(spark: SparkSession, where: str) -> None:
    with pytest.raises(DeclarationError, match="Spark cannot evaluate the expression of wrong: "):
        check_expressions(
            spark, FeatureGroup("g", "user_id", SOURCE, (count("right", where="text RLIKE 'a'"), count("wrong", where=where)))
        )


def test_a_source_of_few_columns_is_enough(spark: SparkSession) -> None:
    source = EventSource(
        "s",
        "t",
        "t",
        (Column("event_id", required=True), Column("at", ColumnType.TIMESTAMP, required=True)),
        time="at",
        key="event_id",
    )
    check_expressions(spark, FeatureGroup("g", "event_id", source, (count("n"),)))
