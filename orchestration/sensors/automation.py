"""What Dagster starts by itself: the batch when its data is there, its repair after late events, and a retraining when the model has aged.

Each is a sensor with a switch in the UI, and on from the start where BRAID_AUTOMATION names it; the repair of an online store that has
lost its content always is.
"""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import redis

from features.definitions import GROUPS
from orchestration.assets.quality import RETRAIN, feature_drift, live_quality
from orchestration.deployment import SETTINGS, BatchEnd, period
from orchestration.due import Stream, due_batch_end_ms
from orchestration.jobs import features_job, publish_job, training_job
from orchestration.materialized import latest_metadata
from orchestration.run_days import RANGE_END, RANGE_START
from orchestration.sensors.observation import speed_entries
from store.clients import meta_key, store, store_generation

#: How often it is looked whether the online store has lost its content, at least: meanwhile answers are degraded.
_LOSS_SECONDS = 10


def _on(name: str) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if name in SETTINGS.automation else dg.DefaultSensorStatus.STOPPED


@dg.sensor(
    job=features_job, minimum_interval_seconds=SETTINGS.sensor_seconds, default_status=_on("batch"),
    description="Runs the batch of each day (or hour) once the stream's watermark has passed its end.",
)  # fmt: skip
def batch_when_due() -> dg.RunRequest | dg.SkipReason:
    """One run over every day since the last batch."""
    try:
        entries, batch_end_ms = speed_entries(), published_batch_end_ms()
    except redis.RedisError:
        return dg.SkipReason("The online store does not answer.")
    online, archive = entries.get("online", {}), entries.get("archive", {})
    lag = (online.get("lag") or 0) + (archive.get("lag") or 0)
    stream = Stream(online.get("watermark_ms"), online.get("oldest_event_ms"), online.get("newest_event_ms"), lag)
    end_ms = due_batch_end_ms(
        stream, batch_end_ms, time.time_ns() // 1_000_000, period // timedelta(milliseconds=1), SETTINGS.watermark_seconds * 1_000
    )
    if end_ms is None:
        return dg.SkipReason("The stream has not passed the end of another period.")
    begin_ms = stream.oldest_event_ms if batch_end_ms is None else batch_end_ms
    assert begin_ms is not None  # without an event nothing is due
    return dg.RunRequest(f"batch:{end_ms}", BatchEnd.run_config(end_ms), _range(begin_ms, end_ms))


@dg.sensor(
    job=features_job, minimum_interval_seconds=SETTINGS.sensor_seconds, default_status=_on("late"),
    description="Does the days again that late events have touched, once there are enough of them; batch_end stays where it is.",
)  # fmt: skip
def late_events_heal(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """The cursor holds the count of late rows, and of which process it is, when the days were last done."""
    try:
        entry, batch_end_ms = speed_entries().get("online", {}), published_batch_end_ms()
    except redis.RedisError:
        return dg.SkipReason("The online store does not answer.")
    if batch_end_ms is None or not entry:
        return dg.SkipReason("There is no batch to repair yet.")
    told: dict[str, Any] = json.loads(context.cursor or "{}")
    # A speed layer that was started again counts from 0.
    before = told.get("late_rows", 0) if told.get("pid") == entry["pid"] else 0
    late = entry["late_rows"] - before
    if late < SETTINGS.late_events:
        return dg.SkipReason(f"{late} late rows since the last repair; {SETTINGS.late_events} start one.")
    run_key, tags = f"late:{entry['pid']}:{entry['late_rows']}", _range(batch_end_ms - 1, batch_end_ms)
    request = dg.RunRequest(run_key, BatchEnd.run_config(batch_end_ms), tags)
    return dg.SensorResult([request], cursor=json.dumps({"pid": entry["pid"], "late_rows": entry["late_rows"]}))


@dg.sensor(
    job=publish_job, minimum_interval_seconds=min(_LOSS_SECONDS, SETTINGS.sensor_seconds), default_status=dg.DefaultSensorStatus.RUNNING,
    description="Publishes the views again when the online store has lost them; the speed layer streams its tiles again by itself.",
)  # fmt: skip
def lost_store_heals(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """One run per loss."""
    try:
        client = store(SETTINGS)
        lost = [
            name
            for name in GROUPS
            if latest_metadata(context.instance, dg.AssetKey(f"online_{name}")) and not client.exists(meta_key(name))
        ]
        return (
            dg.RunRequest(f"publish:{store_generation(client)}")
            if lost
            else dg.SkipReason("The online store has what was published.")
        )
    except redis.RedisError:
        return dg.SkipReason("The online store does not answer.")


@dg.sensor(
    job=training_job, minimum_interval_seconds=SETTINGS.sensor_seconds, default_status=_on("retraining"),
    description="Trains a candidate when features have drifted or the champion's answers turn out worse than they did.",
)  # fmt: skip
def retraining_on_signal(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Acts once on each report of `feature_drift` and `live_quality`; the cursor is the last one that was looked at."""
    seen = int(context.cursor or 0)
    newest, reasons = seen, []
    for asset in (feature_drift, live_quality):
        for record in context.instance.fetch_materializations(asset.key, limit=1).records:
            reason = latest_metadata(context.instance, asset.key).get(RETRAIN)
            if record.storage_id > seen and reason:
                reasons.append(reason)
            newest = max(newest, record.storage_id)
    if not reasons:
        return dg.SensorResult(skip_reason="Nothing calls for a new model.", cursor=str(newest))
    request = dg.RunRequest(run_key=f"retrain:{newest}", tags={"braid/reason": "; ".join(reasons)[:250]})
    return dg.SensorResult([request], cursor=str(newest))


def published_batch_end_ms() -> int | None:
    """The earliest batch_end of all groups; None while one of them was never published."""
    ends = [store(SETTINGS).hget(meta_key(name), "batch_end_ms") for name in GROUPS]
    return None if None in ends else min(int(end) for end in ends)


def _range(begin_ms: int, end_ms: int) -> dict[str, str]:
    """The days of [begin, end), as the tags of a run."""
    first, last = (datetime.fromtimestamp(ms / 1_000, UTC).date().isoformat() for ms in (begin_ms, end_ms - 1))
    return {RANGE_START: first, RANGE_END: last}
