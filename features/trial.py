"""The trial: Spark evaluates the expressions of a group once, before any event is read.

So a regular expression that Java cannot compile, or a wrong number of arguments, is reported at once, by an error that names the feature.
The speed layer checks a group before its queries start, the batch layer before it folds events.
"""

from __future__ import annotations

from typing import Any

from features.declaration import FeatureGroup
from features.errors import DeclarationError
from features.predicates import trials_of_patterns
from features.sources import ColumnType

_SAMPLES = {
    ColumnType.STRING: "'a'", ColumnType.INT64: "1", ColumnType.DECIMAL: "1.5", ColumnType.TIMESTAMP: "'2026-01-01 00:00:00'",
    ColumnType.MAP: "map('a', 'a')",
}  # fmt: skip


def check_expressions(spark: Any, group: FeatureGroup) -> None:
    """Evaluates the expressions of the group on a row of NULLs and a row of samples, in one small job.

    Args:
        spark: A Spark session; `features` imports no Spark.
        group: The declaration.

    Raises:
        DeclarationError: Spark cannot evaluate an expression; the error names the feature.
    """
    columns = group.source.columns
    samples = ", ".join(
        f"CAST({_SAMPLES.get(column.type, 'NULL')} AS {column.type.value}) AS `{column.name}`" for column in columns
    )
    nulls = ", ".join(f"CAST(NULL AS {column.type.value})" for column in columns)

    def failure(expressions: list[str]) -> str:
        listed = ", ".join(f"{sql} AS value_{place}" for place, sql in enumerate(expressions))
        try:
            spark.sql(f"SELECT {listed} FROM (SELECT {samples} UNION ALL SELECT {nulls})").collect()
        except Exception as error:  # noqa: BLE001  # this room imports no Spark, so it cannot name Spark's errors
            return str(error).splitlines()[0]
        return ""

    trials = {
        feature.name: [group.inputs[source].sql, *(trials_of_patterns(feature.where) if feature.where else ())]
        for feature, source in zip(group.features, group.input_of, strict=True)
    }
    if not failure([sql for expressions in trials.values() for sql in expressions]):
        return
    for name, expressions in trials.items():
        if reason := failure(expressions):
            raise DeclarationError(f"Spark cannot evaluate the expression of {name}: {reason}", "Correct it in the declaration.")
