"""The batch layer at scale: the time for a year of events, for ten times as many events and more, and the cost of one more day.

    python -m benchmarks.batch_scale [--scales 1,10] [--days 3] [--day-scale 1] [--memory 3g] [--json]

The events are the demo's year of purchases, `scale` times: each copy has its own users and event ids. They are written directly to the `events`
table before the measurement begins. For each scale, the benchmark measures the build of all tiles of the year and of the view at its end, in events
per second and core, and the peak memory (JVM, Python workers and this process, sampled each second). Then it measures the cost of one more day
(append new events, find and fold stale days, build the view) after 90 and after 365 days of history, as the median of `--days` days.

The peer, in the same run, builds the view of the same day from every tile, without snapshots of history.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch import view
from batch.events import append_events
from batch.history import tiles_for_view
from batch.tables import TableState
from batch.tiles import build_tiles, stale_days
from benchmarks._cpu import cpu_seconds
from benchmarks._home import temporary_home
from examples.shop.definitions import user_events, user_features
from examples.shop.journey import write_journey
from features.declaration import FeatureGroup
from features.instants import parse_rfc3339, utc_day
from features.judgement import MISFIT, row_projections
from features.windows import DAY_MS, floor_ms
from infra.embedded.memory import PeakMemory
from infra.settings import Settings
from infra.spark import spark_session

#: The beginning of the year: the first of a month, so that the days 90 and 365 lie equally far from the snapshots before them.
_BEGIN_MS = parse_rfc3339("2025-01-01T00:00:00Z")
_HISTORIES = (90, 365)


def main(
    scales: Annotated[str, typer.Option(help="How many times the demo's year; several, by commas.")] = "1,10",
    days: Annotated[int, typer.Option(help="Days that are added after each history; 0 for none.")] = 3,
    day_scale: Annotated[int, typer.Option(help="How many times the demo's events the histories and the days have.")] = 1,
    memory: Annotated[str, typer.Option(help="Heap of Spark.")] = "3g",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures a year of batch, and one more day."""
    with temporary_home() as settings:
        spark = spark_session(settings, "braid benchmark", memory)
        try:
            year = write_year(spark, settings)
            result = {
                "memory": memory,
                "cores": spark.sparkContext.defaultParallelism,
                "years": [one_year(spark, settings, year, int(scale)) for scale in scales.split(",")],
                "day_scale": day_scale,
                "one_more_day": [more_days(spark, settings, year, day_scale, history, days) for history in _HISTORIES]
                if days
                else [],
            }
        finally:
            spark.stop()
    print(json.dumps(result) if as_json else _sentences(result))


def write_year(spark: SparkSession, settings: Settings) -> str:
    """Writes the demo's year as typed events to a Parquet file, and returns its path. The events cover 2025 and the next 30 days."""
    journey = write_journey(settings.home / "journey", _BEGIN_MS + 365 * DAY_MS)
    raw = spark.read.parquet(str(journey.history), str(journey.live))
    time_text = F.date_format(user_events.time, "yyyy-MM-dd'T'HH:mm:ss.SSSXXX")
    texts = {c.name: F.col(c.name) if c.name in raw.columns else F.lit(None) for c in user_events.columns} | {
        user_events.time: time_text
    }
    typed = raw.select(*(text.cast("string").alias(name) for name, text in texts.items()), F.lit(None).cast("string").alias(MISFIT))
    for projection in row_projections(user_events, [], "0", 0):
        typed = typed.selectExpr(*projection)
    typed = typed.drop("_reason")
    # The events of the first 30 days are repeated after the year with new ids, so that the days after the year have events, too.
    later = {
        "ts_ms": F.col("ts_ms") + 365 * DAY_MS,
        "event_timestamp": F.timestamp_millis(F.col("ts_ms") + 365 * DAY_MS),
        "event_id": F.concat("event_id", F.lit("-again")),
    }
    again = typed.where(f"ts_ms < {_BEGIN_MS + 30 * DAY_MS}").withColumns(later)
    path = str(settings.home / "year.parquet")
    typed.unionByName(again).write.parquet(path)
    return path


def events_of(spark: SparkSession, year: str, scale: int, first_day: int, last_day: int) -> DataFrame:
    """Returns the events of the days [first_day, last_day) of the year, `scale` times, with the columns that `append_events` needs."""
    rows = spark.read.parquet(year).where(f"ts_ms >= {_BEGIN_MS + first_day * DAY_MS} AND ts_ms < {_BEGIN_MS + last_day * DAY_MS}")
    if scale > 1:
        rows = rows.withColumn("copy", F.explode(F.sequence(F.lit(0), F.lit(scale - 1))))
        shifted = {"user_id": F.col("user_id") + F.col("copy") * 1_000_000, "event_id": F.concat_ws("-", "event_id", "copy")}
        rows = rows.withColumns(shifted).drop("copy")
    return rows.selectExpr(
        "*",
        "ts_ms AS arrival_ms",
        "'load' AS origin",
        "CAST(NULL AS INT) AS kafka_partition",
        "CAST(NULL AS BIGINT) AS kafka_offset",
        "ts_ms AS _order",
    )


def fill(spark: SparkSession, lake: Settings, events: DataFrame, days: int) -> int:
    """Writes distinct events directly to a new lake, a file per day. Returns their number."""
    append_events(spark, lake, user_events, events.limit(0))
    rows = events.drop("_order").withColumn("day", F.to_date(F.timestamp_millis("ts_ms")))
    rows.repartition(min(days, 2_000), "day").write.format("delta").mode("append").save(lake.table(user_events.table))
    return spark.read.format("delta").load(lake.table(user_events.table)).count()


def one_year(spark: SparkSession, settings: Settings, year: str, scale: int) -> dict[str, object]:
    """Returns the figures for building all tiles of 365 days, and the view at their end."""
    lake = settings.model_copy(update={"lake_uri": f"{settings.home}/scale-{scale}"})
    count = fill(spark, lake, events_of(spark, year, scale, 0, 365), 365)
    figures: dict[str, object] = {"scale": scale, "events": count}
    total = 0.0
    with PeakMemory(lake) as memory:
        for name, work in (("tiles", lambda: fold_stale(spark, lake)), ("view", lambda: build_at(spark, lake, 365))):
            began, before = time.monotonic(), cpu_seconds()
            work()
            seconds, cpu = time.monotonic() - began, cpu_seconds() - before
            total += seconds
            figures |= {f"{name}_seconds": round(seconds, 1), f"{name}_cpu_seconds": round(cpu, 1)}
            _report(f"{scale} times, {count:,} events: {name} {seconds:.1f} s, {cpu:.1f} CPU seconds")
    cores = spark.sparkContext.defaultParallelism
    figures |= {"events_per_second_and_core": round(count / total / cores), "peak_rss_mb": round(memory.peak_rss_mb)}
    shutil.rmtree(lake.lake_uri)
    return figures


def more_days(spark: SparkSession, settings: Settings, year: str, scale: int, history: int, days: int) -> dict[str, object]:
    """Returns the median cost of one more day after a history of `history` days."""
    lake = settings.model_copy(update={"lake_uri": f"{settings.home}/history-{history}"})
    fill(spark, lake, events_of(spark, year, scale, 0, history), history)
    fold_stale(spark, lake)
    build_at(spark, lake, history)
    steps: dict[str, list[float]] = {}
    for day in range(history, history + days + 1):
        rows = events_of(spark, year, scale, day, day + 1)
        works: dict[str, Callable[[], object]] = {
            "append": lambda rows=rows: append_events(spark, lake, user_events, rows),
            "tiles": lambda: fold_stale(spark, lake),
            "view": lambda day=day: build_at(spark, lake, day + 1),
            "view by every tile": lambda day=day: build_at(spark, lake, day + 1, every_tile),
        }
        for name, work in works.items():
            began, before = time.monotonic(), cpu_seconds()
            work()
            if day > history:  # the first day makes the snapshot of its month and warms Spark up, so it does not count
                steps.setdefault(name, []).append(time.monotonic() - began)
                steps.setdefault(f"{name}, CPU", []).append(cpu_seconds() - before)
    shutil.rmtree(lake.lake_uri)
    medians = {name: round(statistics.median(seconds), 2) for name, seconds in steps.items()}
    _report(f"one more day after {history}: {medians}")
    return {
        "history_days": history,
        **{f"{name.replace(', CPU', ' cpu').replace(' ', '_')}_seconds": seconds for name, seconds in medians.items()},
    }


def fold_stale(spark: SparkSession, lake: Settings) -> None:
    """Builds the tiles of all stale days."""
    build_tiles(spark, lake, user_features, stale_days(spark, lake, user_features))


def build_at(spark: SparkSession, lake: Settings, day: int, tiles: Callable[..., DataFrame] = tiles_for_view) -> None:
    """Builds a view whose batch_end lies shortly before the end of a day, within a tile, from the tiles that the function `tiles` returns."""
    view.tiles_for_view = tiles
    view.build_view(spark, lake, user_features, floor_ms(_BEGIN_MS + day * DAY_MS, DAY_MS) - 123_456)


def every_tile(spark: SparkSession, _: Settings, __: FeatureGroup, tiles: TableState, batch_end_ms: int) -> DataFrame:
    """Returns the tiles from which the peer builds a view: every tile, without a snapshot of history."""
    return tiles.read(spark).where(F.col("day") <= utc_day(batch_end_ms)).drop("day", "folded_from")


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sentences(result: dict[str, object]) -> str:
    years, more = result["years"], result["one_more_day"]
    assert isinstance(years, list)
    assert isinstance(more, list)
    lines = [
        f"{year['scale']} times the year, {year['events']:,} events: {year['events_per_second_and_core']:,} events/s and core, "
        f"at most {year['peak_rss_mb']:,} MiB."
        for year in years
    ]
    lines += [
        f"One more day after {day['history_days']}: {day['append_seconds'] + day['tiles_seconds'] + day['view_seconds']:.1f} s, of which the view "
        f"{day['view_seconds']} s; from every tile it takes {day['view_by_every_tile_seconds']} s (medians)."
        for day in more
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
