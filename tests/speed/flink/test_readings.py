"""Flink reads each message as Spark does, or says that it may not: both run over the same odd and typical messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from braid import FeatureGroup, count, distinct, last_k, mean, top_k, total
from infra.settings import Settings
from speed.engine import FITS, REFUSED, UNDECIDED
from speed.flink.job_sql import job_of
from speed.flink.rows import contribution_rows
from tests.declarations import user_events
from tests.speed.flink.odd_messages import odd_messages, typical_messages
from tests.speed.flink.reading import ARRIVAL_MS, flink_rows, spark_rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

USERS = FeatureGroup(
    "users", "user_id", user_events,
    (
        count("all_events"), total("spend", of="amount", where="event_type = 'PURCHASE'", window="1h"), mean("users", of="user_id"),
        distinct("sessions", of="session_id", window="1h"), distinct("amounts", of="amount", window="1h"), last_k("items", of="item_id", k=3),
        count("web", where="properties['channel'] = 'web'"), count("no_channel", where="properties['channel'] IS NULL"),
        count("large", where="amount > 10.5"), count("between", where="amount BETWEEN -1 AND 7.000001 OR user_id IN (7, 17)"),
        count("not_i1", where="NOT (item_id = 'i1')"), count("same", where="item_id <=> session_id"), count("after", where="item_id > 'b' AND user_id <> -7"),
        count("case", where="coalesce(item_id, 'none') <> 'none' AND CASE WHEN event_type LIKE 'PU%' THEN session_id ELSE item_id END = 's1'"),
        distinct("with_item", of="user_id", where="item_id IS NOT NULL"),
    ),
)  # fmt: skip
PAIRS = FeatureGroup("pairs", ("user_id", "item_id"), user_events, (count("all_events"), top_k("top", of="user_id", k=3)))


def difference(row: dict[str, Any], expected: Any, future_ms: int) -> str | None:
    """How a row of Flink contradicts what Spark has, in words."""
    fits = not isinstance(expected, str)
    if row["verdict"] == UNDECIDED:
        return None
    if row["verdict"] == REFUSED:
        return "refused by Flink alone" if fits else None
    if row["ts_ms"] - ARRIVAL_MS > future_ms:  # the writer refuses it
        return "ahead of its arrival for Flink alone" if fits else None
    if not fits:
        return f"refused by Spark alone: {expected}"
    values = {"ts_ms": expected.ts_ms, "event": expected.event}
    values |= {f"entity_{slot}": entity for slot, entity in enumerate(expected.entities)}
    values |= {name: expected[name] for name in expected.__fields__ if name.startswith("input_")}
    different = {name: (row[name], value) for name, value in values.items() if row[name] != value}
    return f"other values (Flink, Spark): {different}" if different else None


def test_no_message_is_read_otherwise_than_by_spark(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    odd, typical = odd_messages(1, 300), typical_messages(2, 300)
    messages, groups = [*odd, *typical], [USERS, PAIRS]
    job = job_of(groups, "readings")
    of_flink = flink_rows(settings, job, messages, tmp_path)
    lines = [json.dumps(of_flink[place]).encode() for place in range(len(messages))]
    rows = contribution_rows(lines, job.entities, job.inputs).to_pylist()
    expected = spark_rows(spark, settings, groups, messages)
    wrong = [
        (reason, messages[place])
        for place, row in enumerate(rows)
        if (reason := difference(row, expected[place], settings.future_seconds * 1_000))
    ]
    assert not wrong, f"{len(wrong)} of {len(messages)}, such as {wrong[:3]}"
    undecided = [place for place, row in enumerate(rows) if row["verdict"] == UNDECIDED]
    assert not [messages[place] for place in undecided if place >= len(odd)], "each typical message is decided"
    assert len(undecided) < len(odd) / 6
    assert sum(row["verdict"] == FITS for row in rows) > len(odd) / 3
