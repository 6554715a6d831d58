"""The sensor of the speed layer: reports the progress of its queries as observations of its assets."""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from orchestration.deployment import Deployment
from orchestration.names import archive_key, realtime_key, speed_tiles_key
from store.errors import StoreError
from store.server import open_store

_NUMBERS = ("rows_per_second", "late_rows", "copies", "batch_id")


def sensors_of(deployment: Deployment) -> list[dg.SensorDefinition]:
    """Returns the sensor of the speed layer."""

    @dg.sensor(
        minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING,
        description="Lag, watermark, rows/s and state of each query of the stream, as observations of its assets.",
    )  # fmt: skip
    def speed_layer() -> dg.SensorResult | dg.SkipReason:
        """Reports the progress that the speed layer has last written."""
        try:
            observations = list(_observations(deployment, open_store(deployment.settings).progress()))
        except StoreError as error:
            return dg.SkipReason(error.cause)
        return dg.SensorResult(asset_events=observations) if observations else dg.SkipReason("The speed layer has not run yet.")

    return [speed_layer]


def _observations(deployment: Deployment, entries: dict[str, dict[str, Any]]) -> Iterator[dg.AssetObservation]:
    project = deployment.project
    assets = {f"archive:{source.name}": archive_key(source) for source in project.sources}
    for group in project.groups:
        assets |= {f"online:{group.name}": speed_tiles_key(group), f"offline:{group.name}": realtime_key(group)}
    for field, asset in assets.items():
        if entry := entries.get(field):
            metadata: dict[str, Any] = {name: entry[name] for name in _NUMBERS if entry.get(name) is not None}
            metadata |= {"lag_messages": entry.get("lag") or 0, "lag_seconds": entry.get("lag_seconds") or 0.0}
            for name in ("watermark_ms", "newest_event_ms"):
                if entry.get(name):
                    metadata[name.removesuffix("_ms")] = dg.MetadataValue.timestamp(entry[name] / 1_000)
            metadata["silent_seconds"] = time.time() - entry["written_at_ms"] / 1_000
            yield dg.AssetObservation(asset, metadata=metadata)
