"""The proof's brute force, held to values that were worked out by hand."""

from __future__ import annotations

from pathlib import Path

import duckdb

from features.instants import rfc3339
from orchestration.proof import agree, brute_force
from tests.case_files import load_cases
from tests.declarations import user_features

Q = 1_772_323_200_000 + 12 * 3_600_000  # 2026-03-01T12:00:00Z


def test_each_feature_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    rows = [
        ("a", 1, "s1", "PURCHASE", 10.5, "2026-03-01T11:00:00Z"),  # the first instant of the last hour
        ("a", 1, "s1", "PURCHASE", 10.5, "2026-03-01T11:00:00Z"),  # twice
        ("b", 1, "s1", "PURCHASE", 99, "2026-03-01T10:59:59.999Z"),  # a millisecond before it
        ("c", 1, "s2", "VIEW", 5, "2026-03-01T11:59:59.999Z"),  # no purchase
        ("d", 1, "s3", "PURCHASE", 7, "2026-03-01T12:00:00Z"),  # at q: not before q
        ("e", 1, "s4", "PURCHASE", None, "2026-02-22T12:00:00Z"),  # the first instant of seven days; no amount
        ("f", 1, "s4", "PURCHASE", 1, "2026-02-22T11:59:59Z"),  # before seven days, within thirty
        ("g", 1, "s4", "PURCHASE", 1000, "2026-01-29T23:59:59Z"),  # before the day in which thirty days begin
        ("h", 2, "s5", "VIEW", 3, "2026-02-28T00:00:00Z"),
    ]
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE e (event_id VARCHAR, user_id BIGINT, session_id VARCHAR, event_type VARCHAR, amount DOUBLE, event_timestamp TIMESTAMPTZ)"
        )
        connection.executemany("INSERT INTO e VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute(f"COPY e TO '{path}' (FORMAT parquet)")
    values = brute_force(user_features, [path], [1, 2, 3], Q)
    assert values[1] == {
        "events_last_hour": 2, "spend_last_hour": 10.5, "sessions_last_hour": 2, "purchase_count_7d": 3,
        "avg_purchase_30d": (10.5 + 99 + 1) / 3, "days_since_last": 1 / 24,
    }  # fmt: skip
    nothing = {
        "events_last_hour": 0,
        "spend_last_hour": 0,
        "sessions_last_hour": 0,
        "purchase_count_7d": 0,
        "avg_purchase_30d": None,
        "days_since_last": None,
    }
    assert values[2] == nothing
    assert values[3] == nothing


def test_integers_of_every_size_by_hand(tmp_path: Path) -> None:
    [case] = [case for case in load_cases() if case.name == "huge_integers"]
    path = tmp_path / "events.parquet"
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE e (event_id VARCHAR, user_id BIGINT, points BIGINT, event_timestamp TIMESTAMPTZ)")
        rows = [(event["event_id"], event["user_id"], event["points"], rfc3339(event["ts_ms"])) for event in case.events]
        connection.executemany("INSERT INTO e VALUES (?, ?, ?, ?)", rows)
        connection.execute(f"COPY e TO '{path}' (FORMAT parquet)")
    for cells in case.cells:
        values = brute_force(case.group, [path], [cells.entity], cells.q_ms)[cells.entity]
        for feature in case.group.features:
            assert agree(feature, cells.values[feature.name], values[feature.name]), (cells.q_ms, feature.name, values)
