"""The days of a Dagster run, which covers one daily partition or a range of daily partitions."""

from datetime import date

import dagster as dg

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def first_and_last_day(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> tuple[date, date]:
    """Returns the first and the last day of the run, both inclusive. For a run of one partition the two are equal."""
    tags = context.run.tags
    if RANGE_START in tags:
        return date.fromisoformat(tags[RANGE_START]), date.fromisoformat(tags[RANGE_END])
    day = date.fromisoformat(tags["dagster/partition"])
    return day, day
