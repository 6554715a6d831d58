"""Sums beyond 64 bits through real Spark and Delta: view, tiles, merge and training set say what brute force says, whatever the size."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.load import load_events
from batch.point_in_time import point_in_time
from features.declaration import FeatureGroup, mean, stddev, total, variance
from features.merge import merge
from features.sources import Column, ColumnType, EventSource
from features.windows import DAY_MS, HOUR_MS
from tests.batch.test_every_aggregation import batch_views, speed_tiles
from tests.oracle import oracle
from tests.pure import micros

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from infra.settings import Settings

SOURCE = EventSource(
    "points", "points", "points",
    (
        Column("event_id", required=True), Column("card", required=True), Column("points", ColumnType.INT64), Column("amount", ColumnType.DECIMAL),
        Column("at", ColumnType.TIMESTAMP, required=True),
    ),
    time="at", key="card",
)  # fmt: skip
GROUP = FeatureGroup(
    "cards", "card", SOURCE,
    tuple(
        make(f"{make.__name__}_{of}_{name}", of=of, **window)
        for make in (total, mean, variance, stddev) for of in ("points", "amount")
        for name, window in {"2h": {"window": "2h"}, "2d": {"window": "2d", "tail": "exact"}, "ever": {}}.items()
    ),
    buffer="1d",
)  # fmt: skip
END = int(datetime(2026, 3, 9, 7, 3, 1, tzinfo=UTC).timestamp() * 1_000)
LARGEST = 10**18 - 1


def generated() -> list[dict[str, Any]]:
    source, events = random.Random(1), []
    for index in range(600):
        ts_ms = END + source.choice([source.randrange(-5 * DAY_MS, DAY_MS), source.randrange(-3 * HOUR_MS, 3 * HOUR_MS)])
        # Card 0 only grows, card 1 only falls, the others stay near zero or jump.
        card = source.randrange(4)
        limits = {0: (2**62, 2**63 - 1), 1: (-(2**63), -(2**62)), 2: (-5, 5), 3: (-(2**63), 2**63 - 1)}[card]
        amount = {0: LARGEST, 1: -LARGEST, 2: source.randrange(100), 3: source.randrange(-LARGEST, LARGEST)}[card]
        events.append({
            "event_id": f"e{index}", "card": f"c{card}", "ts_ms": ts_ms, "points": source.choice([None, source.randint(*limits), *limits]),
            "amount": micros(source.choice([None, amount])),
        })  # fmt: skip
    return events


def text_of(micro_units: int) -> str:
    """A decimal with all of its digits."""
    whole, fraction = divmod(abs(micro_units), 10**6)
    return f"{'-' if micro_units < 0 else ''}{whole}.{fraction:06}"


def test_no_layer_wraps(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    group, events, path = GROUP, sorted(generated(), key=lambda e: e["ts_ms"]), tmp_path / "points.jsonl"
    lines = [
        {
            **{key: value for key, value in event.items() if key != "ts_ms" and value is not None},
            "at": datetime.fromtimestamp(event["ts_ms"] / 1_000, UTC).isoformat(timespec="milliseconds"),
            **({"points": str(event["points"])} if event["points"] is not None else {}),
            **({"amount": text_of(int(event["amount"] * 10**6))} if event["amount"] is not None else {}),
        }
        for event in events
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = load_events(spark, lake, SOURCE, path)
    assert (report.loaded, report.quarantined) == (len(events), 0)
    views = batch_views(spark, lake, group, END)
    streamed = speed_tiles(lake, group, spark.read.format("delta").load(lake.table("points")))
    instants = [END, END + 1, END + HOUR_MS, END + DAY_MS]
    labels = spark.createDataFrame([(f"c{card}", q_ms) for card in range(4) for q_ms in instants], "entity STRING, q_ms BIGINT")
    trained = {(row["entity"], row["q_ms"]): row.asDict() for row in point_in_time(spark, lake, group, labels).collect()}
    cells, beyond = 0, 0
    for (card, q_ms), row in trained.items():
        expected = oracle(group, events, card, q_ms)
        merged = merge(group, views[card], streamed[card], q_ms, END)
        assert merged.degraded == ()
        assert dict(zip(group.feature_names, merged.values, strict=True)) == expected, (card, q_ms - END)
        assert {name: row[name] for name in group.feature_names} == expected, (card, q_ms - END)
        cells += len(expected)
        beyond += sum(value is None for name, value in expected.items() if name.startswith("total_points"))
    assert cells == 4 * len(instants) * len(group.features)
    assert beyond >= 8, "sums that no BIGINT holds"
