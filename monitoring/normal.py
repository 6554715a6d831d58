"""Norms: figures of the four weeks before a day of a source, and of the published view of a group.

Reads the source's events table and the published version of the group's view. Returns the figures with which checks compare new data. Without a
history there is no norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.tables import partitions_of, table_state
from batch.view import published_version, view_table
from features.declaration import FeatureGroup
from features.sources import EventSource
from infra.settings import Settings

#: The weeks of the norm of a day.
WEEKS = 4
#: A category with at least this share of the rows is expected every day.
_COMMON = 0.01
#: The relative error of quantiles.
_QUANTILE_ERROR = 0.001


@dataclass(frozen=True)
class NormalDay:
    """Figures of the four weeks before a day.

    Attributes:
        weekday_rows: The mean number of rows of the days with the same weekday; None if these days have no events.
        null_shares: Column → the share of rows without a value.
        categories: Watched column → value → its share of the rows.
    """

    weekday_rows: float | None
    null_shares: dict[str, float]
    categories: dict[str, dict[str, float]]

    def common(self, column: str) -> list[str]:
        """Returns the values of a watched column that are expected every day."""
        return [value for value, share in self.categories[column].items() if share >= _COMMON]


@dataclass(frozen=True)
class NormalView:
    """Figures of a published view.

    Attributes:
        entities: The number of entities.
        central: Numeric feature → the bounds of the central share of its values; the group's checks declare the share.
    """

    entities: int
    central: dict[str, tuple[float, float]]


def days_to_check(
    spark: SparkSession, settings: Settings, source: EventSource, first: date, last: date, published: date | None = None
) -> list[date]:
    """Returns the complete days with events that a run must compare with their norms, in ascending order.

    The newest day of the table may still receive events, so it is not complete.

    Args:
        spark: The session.
        settings: The settings that name the table.
        source: The source.
        first: The first day of the run. The latest complete day of the run is always checked.
        last: The last day of the run.
        published: The day of the last published batch_end; None to check only the latest complete day of the run. Each complete day from
            `published` on is checked, because none of these days has passed its check yet: a blocked day blocks every later view, too.
    """
    state = table_state(spark, settings.table(source.table))
    days = sorted(date.fromisoformat(day) for (day,) in partitions_of(spark, state)) if state else []
    whole = [day for day in days[:-1] if day <= last]
    return [day for day in whole if (published is not None and day >= published) or day == whole[-1] >= first]


def normal_day(spark: SparkSession, settings: Settings, source: EventSource, day: date) -> NormalDay | None:
    """Returns the norm of a day; None if the four weeks before the day have no events."""
    events = spark.read.format("delta").load(settings.table(source.table))
    before = events.where(F.col("day").between(day - timedelta(weeks=WEEKS), day - timedelta(days=1)))
    nullable = [column.name for column in source.columns if not column.required]
    nulls = [F.sum(F.col(name).isNull().cast("bigint")).alias(name) for name in nullable]
    per_day = before.groupBy("day").agg(F.count("*").alias("_rows"), *nulls).collect()
    rows = sum(row["_rows"] for row in per_day)
    if not rows:
        return None
    same = [row["_rows"] for row in per_day if row["day"].weekday() == day.weekday()]
    categories = {}
    for column in source.checks.categories:
        counted = before.where(F.col(column).isNotNull()).groupBy(column).count().collect()
        categories[column] = {row[column]: row["count"] / rows for row in counted}
    shares = {name: sum(row[name] for row in per_day) / rows for name in nullable}
    return NormalDay(sum(same) / len(same) if same else None, shares, categories)


def normal_view(spark: SparkSession, settings: Settings, group: FeatureGroup, published: int | None) -> NormalView | None:
    """Returns the norm of a group's view: the figures of the view that was published last, because a check may have blocked a later view.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        group: The declaration of the group.
        published: The Delta version of the view that was published last; None if no view was published.

    Returns:
        None if no view was published, or if the published view has another declaration or is no longer stored.
    """
    path = settings.table(view_table(group))
    version = None if published is None else published_version(spark, settings, group, published)
    if version is None:
        return None
    try:
        view = spark.read.format("delta").option("versionAsOf", version).load(path)
        return _norm_of(view, group)
    except (PySparkException, Py4JJavaError):  # a vacuum has deleted the files of the version
        return None


def _norm_of(view: DataFrame, group: FeatureGroup) -> NormalView:
    names, margin = list(group.model_names), (1 - group.checks.distribution) / 2
    quantiles = view.approxQuantile(names, [margin, 1 - margin], _QUANTILE_ERROR) if names else []
    central = {name: (low_high[0], low_high[1]) for name, low_high in zip(names, quantiles, strict=True) if low_high}
    return NormalView(view.count(), central)
