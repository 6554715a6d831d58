"""The first stage of the recommendations: candidates by the session, by Spark ALS, and by popularity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
from dagster_pyspark import LazyPySparkResource

from benchmarks.candidate_recall import recall
from examples.recommendation.assets import assets
from examples.recommendation.candidates import FOLDER, Candidates, Sessions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from infra.settings import Settings

ITEMS = [f"i{number}" for number in range(40)]


def test_what_was_seen_together_comes_first_then_the_user_then_what_is_popular(tmp_path: Path) -> None:
    items = {
        "item_id": [f"i{n}" for n in range(8)],
        "category": ["k1"] * 8,
        "popularity": [1 - n / 8 for n in range(8)],
    }
    pd.DataFrame(items).to_parquet(tmp_path / "items.parquet")
    pd.DataFrame({"user_id": [7], "items": [["i3", "gone", "i6"]]}).to_parquet(tmp_path / "by_user.parquet")
    pd.DataFrame({"item_id": ["i1", "i2"], "items": [["i5", "i4"], ["i7", "i5"]]}).to_parquet(tmp_path / "together.parquet")
    candidates = Candidates(tmp_path)

    def of(user_id: int, session: list[str], size: int) -> str:
        return " ".join(item["item_id"] for item in candidates.of(user_id, session, size))

    assert of(7, ["i1", "i2", "unknown"], 6) == "i7 i5 i4 i3 i6 i0", "the latest item begins"
    assert of(7, [], 3) == "i3 i6 i0"
    assert of(8, [], 100) == "i0 i1 i2 i3 i4 i5 i6 i7"
    assert candidates.of(7, [], 1) == [{"item_id": "i3", "category": "k1", "popularity": 1 - 3 / 8}]


def test_a_session_has_the_views_of_the_last_half_hour() -> None:
    noon = pd.Timestamp("2026-05-20T12:00:00Z")
    views = [
        ("VIEW", 7, "a", -31),
        ("VIEW", 7, "c", -1),
        ("VIEW", 7, "b", -30),
        ("VIEW", 7, "d", 0),
        ("SHOWN", 7, "e", -2),
        ("VIEW", 8, "f", -2),
    ]
    rows = [(kind, user, item, noon + timedelta(minutes=minutes)) for kind, user, item, minutes in views]
    sessions = Sessions(pd.DataFrame(rows, columns=["event_type", "user_id", "item_id", "event_timestamp"]))
    assert sessions.of(7, int(noon.timestamp() * 1_000)) == ["b", "c"]
    assert sessions.of(9, 0) == []


def test_the_asset_gives_users_items_of_users_like_them(spark: SparkSession, lake: Settings) -> None:
    # Even users view even items, and odd users odd items; of the items of its kind each user has not viewed some.
    begin = datetime(2026, 5, 18, tzinfo=UTC)
    rows = [
        ("VIEW", user, item, f"k{number % 2}", 1.0 if number % 2 else 0.5, begin + timedelta(days=user, minutes=number))
        for user in range(20)
        for number, item in enumerate(ITEMS)
        if number % 2 == user % 2 and (number // 2 + user // 2) % 4
    ]
    columns = "event_type STRING, user_id BIGINT, item_id STRING, category STRING, popularity DOUBLE, event_timestamp TIMESTAMP"
    events = spark.createDataFrame(rows, columns)
    events.write.format("delta").save(lake.table("visits"))
    done = dg.materialize(assets(lake), resources={"spark": LazyPySparkResource(spark_config={})})
    [written] = done.asset_materializations_for_node("visit_candidates")
    assert {name: value.value for name, value in written.metadata.items()} == {
        "rows of items": 40, "rows of by_user": 20, "rows of together": 40,
    }  # fmt: skip
    folder = lake.home / FOLDER
    candidates = Candidates(folder)
    for user in (0, 1):
        chosen = [int(item["item_id"][1:]) for item in candidates.of(user, [], 20)]
        assert {number % 2 for number in chosen} == {user}, "also those that the user has not viewed"
    [near, *_] = candidates.of(0, ["i1"], 500)
    assert int(near["item_id"][1:]) % 2 == 1, "the session tells more than the past"
    assert len({item["item_id"] for item in candidates.of(0, ["i1"], 500)}) == 40

    frame = pd.DataFrame(rows, columns=["event_type", "user_id", "item_id", "category", "popularity", "event_timestamp"])
    later = begin + timedelta(days=30)
    clicks = pd.DataFrame([("CLICK", 0, "i0", "k0", 0.5, later), ("CLICK", 1, "i0", "k0", 0.5, later)], columns=frame.columns)
    shares = recall(folder, pd.concat([frame, clicks]), pd.Timestamp(later), (20, 40))
    assert shares.loc["ALS", 20] == 0.5
    assert set(shares[40]) == {1.0}
