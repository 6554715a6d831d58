"""The speed layer, observed: how far its queries are, as observations of its assets."""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from features.definitions import GROUPS
from orchestration.assets.speed import raw_events
from orchestration.deployment import SETTINGS, SOURCE
from store.errors import StoreError
from store.server import open_store

_NUMBERS = ("rows_per_second", "state_rows", "late_rows", "batch_id")


def speed_entries() -> dict[str, dict[str, Any]]:
    """What the speed layer last said of each query; empty where it has not run.

    Raises:
        StoreError: The online store does not answer.
    """
    return open_store(SETTINGS).progress()


@dg.sensor(
    minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING,
    description="Lag, watermark, rows/s and state of each query of the stream, as observations of its assets.",
)  # fmt: skip
def speed_layer() -> dg.SensorResult | dg.SkipReason:
    """Reports what the speed layer last said of itself."""
    try:
        observations = list(_observations(speed_entries()))
    except StoreError as error:
        return dg.SkipReason(error.cause)
    return dg.SensorResult(asset_events=observations) if observations else dg.SkipReason("The speed layer has not run yet.")


def _observations(entries: dict[str, dict[str, Any]]) -> Iterator[dg.AssetObservation]:
    assets = {f"archive:{SOURCE.name}": raw_events.key.to_user_string()}
    for name in GROUPS:
        assets |= {f"online:{name}": f"{name}_speed_tiles", f"offline:{name}": f"{name}_realtime"}
    for field, asset in assets.items():
        if entry := entries.get(field):
            said: dict[str, Any] = {name: entry[name] for name in _NUMBERS if entry.get(name) is not None}
            said |= {"lag_messages": entry.get("lag") or 0, "lag_seconds": entry.get("lag_seconds") or 0.0}
            for name in ("watermark_ms", "newest_event_ms"):
                if entry.get(name):
                    said[name.removesuffix("_ms")] = dg.MetadataValue.timestamp(entry[name] / 1_000)
            said["silent_seconds"] = time.time() - entry["written_at_ms"] / 1_000
            yield dg.AssetObservation(asset, metadata=said)
