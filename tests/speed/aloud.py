"""What the tests of the stream share: events as a replay takes them, and their features, read aloud."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pyarrow as pa

from features.declaration import FeatureGroup
from features.packed import TileValue
from features.speed_tiles import decode_speed
from features.speed_value import speed_field
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.settings import Settings
from store.clients import store
from tests.declarations import user_features


def batch_of(events: list[dict[str, Any]]) -> pa.RecordBatch:
    names = ("event_id", "user_id", "session_id", "event_type", "amount", "item_id")
    columns = {name: pa.array([event.get(name) for event in events], pa.string()) for name in names}
    columns["event_timestamp"] = pa.array([instant(event["ts_ms"]) for event in events])
    return pa.record_batch(columns)


def instant(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1_000, UTC).isoformat(timespec="milliseconds")


def brute_force(events: list[dict[str, Any]], q_ms: int) -> list[Any]:
    """The six features, read aloud."""

    def inside(size_ms: int, hop_ms: int) -> list[dict[str, Any]]:
        return [e for e in events if (q_ms - size_ms) // hop_ms * hop_ms <= e["ts_ms"] < q_ms]

    hour, week, month = inside(HOUR_MS, 5 * MINUTE_MS), inside(7 * DAY_MS, HOUR_MS), inside(30 * DAY_MS, DAY_MS)
    bought = {e["ts_ms"] for e in events if e["ts_ms"] < q_ms and e["event_type"] == "PURCHASE"}
    amounts = [Fraction(e["amount"]) for e in month if e["event_type"] == "PURCHASE" and e["amount"]]
    return [
        len(hour),
        float(sum(Fraction(e["amount"]) for e in hour if e["event_type"] == "PURCHASE" and e["amount"])),
        len({e["session_id"] for e in hour}),
        sum(e["event_type"] == "PURCHASE" for e in week),
        float(sum(amounts) / len(amounts)) if amounts else None,
        (q_ms - max(bought)) / DAY_MS if bought else None,
    ]


def stored_tiles(settings: Settings, entity: int | str, group: FeatureGroup = user_features) -> dict[int, TileValue]:
    """By their starts."""
    value = store(settings).hget(group.key(entity), speed_field(group.fingerprint))
    tiles = decode_speed(value, group) if value is not None else ()
    return {tile.first_ms // group.tile_ms * group.tile_ms: tile for tile in tiles}
