"""What Dagster starts by itself: the batch when its data is there, its repair after late events, and a retraining when the model has aged.

Each is a sensor with a switch in the UI, one per source or model, and on from the start where BRAID_AUTOMATION names it; the repair of an
online store that has lost its content always is. A run that failed is asked for again with growing pauses (`orchestration.asking`).
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from features.project import Model
from features.sources import EventSource
from infra.settings import Settings
from orchestration.asking import ASKED_FOR, ask, latest_asked
from orchestration.assets.quality import RETRAIN
from orchestration.deployment import BatchEnd, Deployment
from orchestration.due import Stream, due_batch_end_ms
from orchestration.materialized import latest_metadata
from orchestration.names import PUBLISH_JOB, drift_key, features_job, live_quality_key, online_key, training_job
from orchestration.run_days import RANGE_END, RANGE_START
from orchestration.sensors.observation import speed_entries
from speed.progress import summary
from store.errors import StoreError
from store.server import open_store

#: How often it is looked whether the online store has lost its content, at least: meanwhile answers are degraded.
_LOSS_SECONDS = 10
#: Tags of a run: the process of the speed layer and its count of late rows that a repair has seen, and the report that a retraining acts on.
_PID, _LATE_ROWS, _REPORT = "braid/speed_pid", "braid/late_rows", "braid/report"


def _on(settings: Settings, name: str) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if name in settings.automation else dg.DefaultSensorStatus.STOPPED


def batch_when_due(deployment: Deployment, source: EventSource) -> dg.SensorDefinition:
    """Starts the batch of a source."""
    settings = deployment.settings

    @dg.sensor(
        name=f"batch_when_due_{source.name}", job_name=features_job(source), minimum_interval_seconds=settings.sensor_seconds,
        default_status=_on(settings, "batch"),
        description=f"Runs the batch of {source.name} for each day (or hour) once the stream's watermark has passed its end.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run over every day since the last batch."""
        try:
            online, archive = _progress(deployment, source)
            batch_end_ms = published_batch_end_ms(deployment, source)
        except StoreError as error:
            return dg.SkipReason(error.cause)
        lag = (online.get("lag") or 0) + (archive.get("lag") or 0)
        stream = Stream(online.get("watermark_ms"), online.get("oldest_event_ms"), online.get("newest_event_ms"), lag)
        end_ms = due_batch_end_ms(
            stream, batch_end_ms, time.time_ns() // 1_000_000, deployment.period // timedelta(milliseconds=1), settings.watermark_seconds * 1_000
        )  # fmt: skip
        if end_ms is None:
            return dg.SkipReason("The stream has not passed the end of another period.")
        begin_ms = stream.oldest_event_ms if batch_end_ms is None else batch_end_ms
        assert begin_ms is not None
        return ask(context, deployment, f"batch:{end_ms}", _range(begin_ms, end_ms), run_config=BatchEnd.run_config(end_ms))

    return sensor


def late_events_heal(deployment: Deployment, source: EventSource) -> dg.SensorDefinition:
    """Starts the repair of a source's days."""
    settings = deployment.settings

    @dg.sensor(
        name=f"late_events_heal_{source.name}", job_name=features_job(source), minimum_interval_seconds=settings.sensor_seconds,
        default_status=_on(settings, "late"),
        description=f"Does the days of {source.name} again that late events have touched, once there are enough of them; batch_end stays where it is.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """The last run says up to which count of late rows, and of which process, the days were done."""
        try:
            online, _ = _progress(deployment, source)
            batch_end_ms = published_batch_end_ms(deployment, source)
        except StoreError as error:
            return dg.SkipReason(error.cause)
        if batch_end_ms is None or not online:
            return dg.SkipReason("There is no batch to repair yet.")
        last, failed = latest_asked(context)
        # A speed layer that was started again counts from 0.
        before = int(last.get(_LATE_ROWS, 0)) if last.get(_PID) == str(online["pid"]) else 0
        late = online["late_rows"] - before
        if late < settings.late_events and not failed:
            return dg.SkipReason(f"{late} late rows since the last repair; {settings.late_events} start one.")
        subject = last[ASKED_FOR] if failed else f"late:{online['pid']}:{online['late_rows']}"
        tags = {**_range(batch_end_ms - 1, batch_end_ms), _PID: str(online["pid"]), _LATE_ROWS: str(online["late_rows"])}
        return ask(context, deployment, subject, tags, run_config=BatchEnd.run_config(batch_end_ms))

    return sensor


def lost_store_heals(deployment: Deployment) -> dg.SensorDefinition:
    """Publishes again what the online store has lost."""
    settings = deployment.settings

    @dg.sensor(
        name="lost_store_heals", job_name=PUBLISH_JOB, minimum_interval_seconds=min(_LOSS_SECONDS, settings.sensor_seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes the views again when the online store has lost them; the speed layer streams its tiles again by itself.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run at a time, until nothing is lost."""
        try:
            store = open_store(settings)
            lost = [
                group
                for group in deployment.project.groups
                if latest_metadata(context.instance, online_key(group)) and not store.published(group.name)
            ]
            if not lost:
                return dg.SkipReason("The online store has what was published.")
            return ask(context, deployment, f"publish:{store.generation()}", asset_selection=[online_key(group) for group in lost])
        except StoreError as error:
            return dg.SkipReason(error.cause)

    return sensor


def retraining_on_signal(deployment: Deployment, model: Model) -> dg.SensorDefinition:
    """Starts the retraining of a model."""
    settings = deployment.settings

    @dg.sensor(
        name=f"retraining_on_signal_{model.name}", job_name=training_job(model), minimum_interval_seconds=settings.sensor_seconds,
        default_status=_on(settings, "retraining"),
        description=f"Trains a candidate of {model.name} when features have drifted or the champion's answers turn out worse than they did.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Acts on each report on drift and live quality until a training has succeeded; the last run says on which it was."""
        last, failed = latest_asked(context)
        seen = int(last.get(_REPORT, 0)) - failed
        newest, reasons = seen, []
        for key in (drift_key(model), live_quality_key(model)):
            for record in context.instance.fetch_materializations(key, limit=1).records:
                reason = latest_metadata(context.instance, key).get(RETRAIN)
                if record.storage_id > seen and reason:
                    reasons.append(reason)
                    newest = max(newest, record.storage_id)
        if not reasons:
            return dg.SkipReason("Nothing calls for a new model.")
        tags = {"braid/reason": "; ".join(reasons)[:250], _REPORT: str(newest)}
        return ask(context, deployment, f"retrain:{newest}", tags)

    return sensor


def sensors_of(deployment: Deployment) -> list[dg.SensorDefinition]:
    """The sensors of all sources and models."""
    project = deployment.project
    sources = [source for source in project.sources if project.groups_of(source)]
    return [
        *(make(deployment, source) for source in sources for make in (batch_when_due, late_events_heal)),
        lost_store_heals(deployment),
        *(retraining_on_signal(deployment, model) for model in project.models),
    ]


def published_batch_end_ms(deployment: Deployment, source: EventSource) -> int | None:
    """The earliest batch_end of a source's groups; None while one of them was never published."""
    store, groups = open_store(deployment.settings), deployment.project.groups_of(source)
    published = [found.batch_end_ms for group in groups if (found := store.published(group.name))]
    return min(published) if len(published) == len(groups) else None


def _progress(deployment: Deployment, source: EventSource) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where the speed layer is with the groups of a source, taken together, and with its archive; empty where it has not run."""
    entries = speed_entries(deployment.settings)
    online = [entries.get(f"online:{group.name}") for group in deployment.project.groups_of(source)]
    archive = entries.get(f"archive:{source.name}", {})
    if None in online:
        return {}, archive
    found = [entry for entry in online if entry]
    return {**summary(found), "pid": found[0]["pid"]}, archive


def _range(begin_ms: int, end_ms: int) -> dict[str, str]:
    """The days of [begin, end), as the tags of a run."""
    first, last = (datetime.fromtimestamp(ms / 1_000, UTC).date().isoformat() for ms in (begin_ms, end_ms - 1))
    return {RANGE_START: first, RANGE_END: last}
