"""A view that reads snapshots of its history is the view that reads every tile, to the bit, whatever has happened to the past."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from delta.tables import DeltaTable

from batch import view
from batch.history import history_table
from batch.load import load_events
from batch.tables import TableState, partitions_of, table_state
from batch.tiles import build_tiles, stale_days, tiles_table
from batch.view import build_view, view_table
from features.declaration import FeatureGroup, count, distinct, last, mean, since_last
from features.windows import DAY_MS
from infra.settings import Settings
from tests.declarations import user_events

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

group = FeatureGroup(
    "long_features",
    "user_id",
    user_events,
    (
        count("events_1h", window="1h"),
        mean("avg_30d", of="amount", window="30d"),
        count("events_ever"),
        mean("avg_ever", of="amount"),
        last("last_ever", of="amount", where="event_type = 'PURCHASE'"),
        distinct("sessions_ever", of="session_id", bound=16),
        since_last("days_since_last", where="event_type = 'PURCHASE'"),
    ),
)


def instant(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def events_of_a_year(seed: int, n: int = 600) -> list[dict[str, Any]]:
    """From November to May; each user is there for a few weeks, and some come back months later. On every tenth day, so that a table has
    few partitions.
    """
    source, begin = random.Random(seed), instant("2025-11-10")
    rows = []
    for index in range(n):
        user = source.randrange(30)
        at = begin + user // 2 * 10 * DAY_MS + source.choice([0, 10, 20]) * DAY_MS + source.choice([0, source.randrange(DAY_MS)])
        at += source.choice([0, 0, 0, 40 * DAY_MS]) if user % 3 == 0 else 0
        rows.append({
            "event_id": f"e{index}", "user_id": user, "session_id": f"s{source.randrange(40)}", "amount": source.randrange(-500, 10**5) / 100,
            "event_type": source.choice(["PURCHASE", "VIEW"]), "event_timestamp": datetime.fromtimestamp(at / 1_000, UTC).isoformat(),
        })  # fmt: skip
    return rows


def load(spark: SparkSession, settings: Settings, path: Path, *events: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    load_events(spark, settings, user_events, path)
    build_tiles(spark, settings, group, stale_days(spark, settings, group))


def every_tile(spark: SparkSession, settings: Settings, group: FeatureGroup, tiles: TableState, batch_end_ms: int) -> DataFrame:
    return tiles.read(spark).drop("day", "folded_from")


def rows(spark: SparkSession, settings: Settings) -> list[Any]:
    return sorted(map(tuple, spark.read.format("delta").load(settings.table(view_table(group))).collect()))


def snapshots(spark: SparkSession, settings: Settings) -> dict[str, str]:
    return dict(partitions_of(spark, table_state(spark, settings.table(history_table(group)))))


def test_a_view_by_snapshots_is_the_view_by_every_tile(
    spark: SparkSession, lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same_at(batch_end: str) -> int:
        """Builds both ways, compares every byte, and gives the rows that the first has read."""
        read = build_view(spark, lake, group, instant(batch_end)).tiles
        by_snapshots = rows(spark, lake)
        with monkeypatch.context() as patch:
            patch.setattr(view, "tiles_for_view", every_tile)
            build_view(spark, lake, group, instant(batch_end))
        assert rows(spark, lake) == by_snapshots
        assert len(by_snapshots) > 0
        return read

    path = tmp_path / "events.jsonl"
    load(spark, lake, path, *events_of_a_year(1))
    same_at("2026-03-20T07:03:21.123")  # in the middle of a tile
    assert [until for until, _ in snapshots(spark, lake)] == ["2026-02-01"]
    same_at("2026-04-02T00:00:00")  # a month further: from the last snapshot on
    first = snapshots(spark, lake)
    assert sorted(until for until, _ in first) == ["2026-02-01", "2026-03-01"]
    same_at("2026-01-20T12:00:00")  # and back
    assert sorted(until for until, _ in snapshots(spark, lake)) == ["2025-12-01", "2026-02-01", "2026-03-01"]

    late = {**events_of_a_year(1)[0], "event_id": "late", "user_id": 77, "event_timestamp": "2026-02-08T00:00:00Z"}
    load(spark, lake, path, late)
    same_at("2026-04-02T00:00:00")  # February is another; what ends before it still holds
    now = snapshots(spark, lake)
    assert now.keys() & first.keys() == {snapshot for snapshot in first if snapshot[0] == "2026-02-01"}
    assert len(now) == 3

    DeltaTable.forPath(spark, lake.table("events")).delete("day = DATE'2025-12-10'")
    assert [str(day) for day in stale_days(spark, lake, group)] == ["2025-12-10"]
    build_tiles(spark, lake, group, stale_days(spark, lake, group))
    few = same_at("2026-05-30T00:00:00")
    assert sorted(until for until, _ in snapshots(spark, lake)) == ["2025-12-01", "2026-04-01"]
    tiles = spark.read.format("delta").load(lake.table(tiles_table(group))).count()
    assert few < tiles / 4  # all that reaches beyond April, and one row per user


def test_a_view_that_reads_a_snapshot_of_another_past_would_be_seen(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    """What would happen without the names: the planted snapshot is wrong, and is not read."""
    path = tmp_path / "events.jsonl"
    load(spark, lake, path, *events_of_a_year(2, 60))
    build_view(spark, lake, group, instant("2026-03-20T07:03:21.123"))
    right = rows(spark, lake)
    DeltaTable.forPath(spark, lake.table(history_table(group))).update(
        set={"events_ever": "events_ever + 1", "built_from": "'another'"}
    )
    build_view(spark, lake, group, instant("2026-03-20T07:03:21.123"))
    assert rows(spark, lake) == right
    assert len(snapshots(spark, lake)) == 1
