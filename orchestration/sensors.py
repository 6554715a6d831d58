"""The speed layer, observed: how far its queries are, as observations of its assets."""

import json
import time

import dagster as dg
import redis

from infra.redis import PROGRESS_KEY, store
from orchestration.deployment import SETTINGS


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Lag, watermark and rows/s of the stream.",
)
def speed_layer() -> dg.SensorResult | dg.SkipReason:
    """Reports what the speed layer last said of itself."""
    try:
        entries = {name.decode(): json.loads(value) for name, value in store(SETTINGS).hgetall(PROGRESS_KEY).items()}
    except redis.RedisError:
        return dg.SkipReason("The online store does not answer.")
    observations = []
    for field, asset in (("online", "speed_tiles"), ("archive", "raw_events")):
        entry = entries.get(field)
        if entry:
            said = {
                key: entry[key]
                for key in ("lag", "rows_per_second", "state_rows", "late_rows", "batch_id")
                if entry.get(key) is not None
            }
            said["silent_seconds"] = time.time() - entry["written_at_ms"] / 1_000
            observations.append(dg.AssetObservation(asset, metadata=said))
    return dg.SensorResult(asset_events=observations) if observations else dg.SkipReason("The speed layer has not run yet.")


sensors = [speed_layer]
