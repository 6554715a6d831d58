"""Checks that compare new data with norms: a source's day with the four weeks before, a group's view with the published view.

The thresholds are declared with the source (`SourceChecks`) and the group (`GroupChecks`). A crossed threshold is a warning (`…_as_usual`).
A crossed threshold that the declaration names as blocking fails `…_within_limits`, and the view is not published. Great Expectations compares the
rows.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import DataFrame

from features.declaration import FeatureGroup
from features.instants import parse_rfc3339, utc_day
from features.sources import EventSource
from infra.settings import Settings
from monitoring.normal import NormalDay, NormalView, days_to_check, normal_day, normal_view
from orchestration.assets.batch import DUPLICATES, READ, REFUSED
from orchestration.checks.suites import Verdict, gx_expectations, joined, validate
from orchestration.checks.tables import view_of_run
from orchestration.deployment import Deployment
from orchestration.materialized import VIEW_VERSION, latest_metadata
from orchestration.names import events_key, online_key, view_key
from orchestration.run_days import first_and_last_day

#: The share of the rows that must lie within a declared bound.
_MOSTLY = 0.99
#: The smallest number of messages from which a share is computed.
_MIN_MESSAGES = 100


def events_as_usual(deployment: Deployment, source: EventSource) -> Any:
    """Returns the check that compares the complete, not yet published days of a source with the four weeks before each of them.

    If no threshold blocks, and before the first publication, the check compares only the latest complete day.
    """
    settings, key, checks = deployment.settings, events_key(source), source.checks
    source_groups = deployment.project.groups_of(source)
    limits, usual = f"{source.table}_within_limits", f"{source.table}_as_usual"
    specs = [
        dg.AssetCheckSpec(limits, asset=key, blocking=True, description=f"Blocking thresholds: {', '.join(sorted(checks.blocking)) or 'none'}."),
        dg.AssetCheckSpec(usual, asset=key, description="Volume, missing values, categories, bounds, late, refused and known messages are as usual."),
    ]  # fmt: skip

    @dg.multi_asset_check(name=f"{source.table}_normal", specs=specs)
    def check(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
        session = spark.spark_session
        published = _published_day(context.instance, source_groups) if checks.blocking else None
        days = days_to_check(session, settings, source, *first_and_last_day(context), published)
        if not days:
            yield from _nothing_to_compare(key, limits, usual, "No day of the run is complete.")
            return
        verdict = verdict_on_days(session, settings, source, days, latest_metadata(context.instance, key))
        yield from verdict.results(key, limits, usual)

    return check


def _published_day(instance: dg.DagsterInstance, groups: Sequence[FeatureGroup]) -> date | None:
    """Returns the day of the latest published batch_end of some groups; None if no group was published."""
    ends = [latest_metadata(instance, online_key(group)).get("batch_end") for group in groups]
    return max((utc_day(parse_rfc3339(end)) for end in ends if end), default=None)


def verdict_on_days(
    session: Any, settings: Settings, source: EventSource, days: Sequence[date], ingested: dict[str, Any]
) -> Verdict:
    """Returns the verdict on some days, each compared with its own norm.

    Args:
        session: The Spark session.
        settings: The settings that name the table and the data docs.
        source: The source with its thresholds.
        days: The days, in ascending order.
        ingested: The metadata of the events asset. The shares of refused and known messages are checked with the last day.
    """
    verdicts = {}
    for day in days:
        expected = day_expectations(source, normal_day(session, settings, source, day), ingested if day == days[-1] else {})
        verdicts[str(day)] = validate(settings, day_frame(session, settings, source, str(day)), f"{source.table}_normal", expected)
    return joined(verdicts)


def day_frame(session: Any, settings: Settings, source: EventSource, day: str) -> DataFrame:
    """Returns the events of a day for the suite: bounded numbers as doubles, and `in_time`, whether the event arrived within the watermark."""
    numbers = source.checks.bounds
    columns = [
        f"CAST({column.name} AS DOUBLE) AS {column.name}" if column.name in numbers else column.name for column in source.columns
    ]
    # As in the stream, an event is late relative to the newest earlier event of its Kafka partition. So replayed events are not late.
    newest = "max(ts_ms) OVER (PARTITION BY kafka_partition ORDER BY kafka_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    in_time = f"origin <> 'stream' OR coalesce({newest} - ts_ms <= {settings.watermark_seconds * 1_000}, true) AS in_time"
    return session.read.format("delta").load(settings.table(source.table)).where(f"day = DATE'{day}'").selectExpr(*columns, in_time)


def day_expectations(source: EventSource, norm: NormalDay | None, ingested: dict[str, Any]) -> list[Any]:
    """Returns the expectations of a day.

    Args:
        source: The source with its thresholds.
        norm: The norm of the four weeks before; None if these weeks have no events.
        ingested: The metadata of the events asset; empty to leave out the shares of refused and known messages.
    """
    gxe, checks = gx_expectations(), source.checks
    expected = [
        gxe.ExpectColumnValuesToBeInSet(column="in_time", value_set=[True], mostly=1 - checks.late, severity=checks.severity("late")),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high, mostly=_MOSTLY, severity=checks.severity("bounds"))
            for name, (low, high) in checks.bounds.items()
        ),
    ]  # fmt: skip
    read = ingested.get(READ, 0)
    for name, share, most in (
        ("refused", ingested.get(REFUSED, 0) / max(read, 1), checks.refused), ("duplicates", ingested.get(DUPLICATES, 0) / max(read, 1), checks.duplicates),
    ):  # fmt: skip
        if read >= _MIN_MESSAGES and share > most:
            query = f"SELECT 1 AS share FROM {{batch}} WHERE {share} > {most} LIMIT 1"
            sentence = f"{name}: {share:.0%} of {read} messages, at most {most:.0%} are usual"
            expected.append(
                gxe.UnexpectedRowsExpectation(unexpected_rows_query=query, description=sentence, severity=checks.severity(name))
            )
    if norm is None:
        return expected
    if norm.weekday_rows is not None:
        low, high = (round(norm.weekday_rows * multiple) for multiple in checks.volume)
        expected.append(gxe.ExpectTableRowCountToBeBetween(min_value=low, max_value=high, severity=checks.severity("volume")))
    for name, share in norm.null_shares.items():
        if (mostly := 1 - share - checks.nulls) > 0:
            expected.append(gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=mostly, severity=checks.severity("nulls")))
    for name, shares in norm.categories.items():
        severity = checks.severity("categories")
        expected.append(gxe.ExpectColumnDistinctValuesToBeInSet(column=name, value_set=sorted(shares), severity=severity))
        expected.append(gxe.ExpectColumnDistinctValuesToContainSet(column=name, value_set=norm.common(name), severity=severity))
    return expected


def view_as_usual(deployment: Deployment, group: FeatureGroup) -> Any:
    """Returns the check that compares a group's view with the published view."""
    settings, key, checks = deployment.settings, view_key(group), group.checks
    limits, usual = f"{group.name}_within_limits", f"{group.name}_as_usual"
    specs = [
        dg.AssetCheckSpec(limits, asset=key, blocking=True, description=f"Blocking thresholds: {', '.join(sorted(checks.blocking)) or 'none'}."),
        dg.AssetCheckSpec(usual, asset=key, description="The number of entities and the medians of the features are like those of the published view."),
    ]  # fmt: skip

    @dg.multi_asset_check(name=f"{group.name}_normal", specs=specs)
    def check(context: dg.AssetCheckExecutionContext, spark: LazyPySparkResource) -> Any:
        published = latest_metadata(context.instance, online_key(group)).get(VIEW_VERSION)
        norm = normal_view(spark.spark_session, settings, group, published)
        if norm is None:
            yield from _nothing_to_compare(key, limits, usual, "There is no published view of this declaration.")
            return
        view = view_of_run(context, spark, settings, group).select("entity", *group.model_names)
        verdict = validate(settings, view, f"{group.name}_normal", view_expectations(group, norm))
        yield from verdict.results(key, limits, usual)

    return check


def view_expectations(group: FeatureGroup, norm: NormalView) -> list[Any]:
    """Returns the expectations of a view, from the norm of the published view."""
    gxe, checks = gx_expectations(), group.checks
    fewest = round(norm.entities * checks.entities)
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=fewest, severity=checks.severity("entities")),
        *(
            gxe.ExpectColumnMedianToBeBetween(column=name, min_value=low, max_value=high, severity=checks.severity("distribution"))
            for name, (low, high) in norm.central.items()
        ),
    ]


def _nothing_to_compare(key: dg.AssetKey, limits: str, usual: str, reason: str) -> tuple[dg.AssetCheckResult, dg.AssetCheckResult]:
    """Returns the results without a norm: the blocking check passes, and the second check warns that there is no evidence."""
    return (
        dg.AssetCheckResult(passed=True, asset_key=key, check_name=limits, metadata={"no evidence": reason}),
        dg.AssetCheckResult(
            passed=False, asset_key=key, check_name=usual, severity=dg.AssetCheckSeverity.WARN, metadata={"no evidence": reason}
        ),
    )


def checks_of(deployment: Deployment) -> list[Any]:
    """Returns the checks of all sources and groups."""
    project = deployment.project
    of_sources = (events_as_usual(deployment, source) for source in project.sources)
    return [*of_sources, *(view_as_usual(deployment, group) for group in deployment.batch_groups)]
