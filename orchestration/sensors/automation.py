"""Sensors that start runs: the batch when a period is complete, its repair after late events, a retraining, and the repair of a lost store.

There is a sensor per source or model, with a switch in the UI. BRAID_AUTOMATION names the sensors that are on from the start; the repair of
an online store that has lost its content is on from the start in any case. A failed run is requested again with growing pauses
(`orchestration.asking`). In Kappa there is no batch, and the speed layer itself restores the content of the store, so only the sensors of the
retraining exist.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg

from features.instants import now_ms, rfc3339, utc_day
from features.model import Model
from features.sources import EventSource
from infra.settings import Settings
from orchestration.asking import ASKED_FOR, ask, latest_asked
from orchestration.assets.quality import RETRAIN
from orchestration.deployment import BatchEnd, Deployment
from orchestration.due import Stream, due_batch_end_ms
from orchestration.first_day import first_day
from orchestration.materialized import latest_metadata
from orchestration.names import PUBLISH_JOB, drift_key, features_job, live_quality_key, online_key, training_job
from orchestration.run_days import RANGE_END, RANGE_START
from speed.progress import SILENT_SECONDS, summary
from store.errors import StoreError
from store.server import open_store

#: The longest time between two checks whether the online store has lost its content. It is short, because answers are degraded after a loss.
_LOSS_SECONDS = 10
#: Tags of a run: the process of the speed layer and its count of late rows before a repair, and the report that caused a retraining.
_PROCESS, _LATE_ROWS, _REPORT = "braid/speed_process", "braid/late_rows", "braid/report"


def _on(settings: Settings, name: str) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if name in settings.automation else dg.DefaultSensorStatus.STOPPED


def batch_when_due(deployment: Deployment, source: EventSource) -> dg.SensorDefinition:
    """Returns the sensor that starts the batch of a source."""
    settings = deployment.settings

    @dg.sensor(
        name=f"batch_when_due_{source.name}", job_name=features_job(source), minimum_interval_seconds=settings.sensor_seconds,
        default_status=_on(settings, "batch"),
        description=f"Runs the batch of {source.name} for each day (or hour) once the stream's watermark has passed its end.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Requests one run over every day since the last batch."""
        state = _state(deployment, source)
        if isinstance(state, dg.SkipReason):
            return state
        online, batch_end_ms = state.online, state.batch_end_ms
        lag = (online.get("lag") or 0) + (state.archive.get("lag") or 0)
        stream = Stream(online.get("watermark_ms"), online.get("oldest_event_ms"), online.get("newest_event_ms"), lag)
        end_ms = due_batch_end_ms(
            stream, batch_end_ms, now_ms(), deployment.period // timedelta(milliseconds=1), settings.watermark_seconds * 1_000
        )
        if end_ms is None:
            return dg.SkipReason("The stream has not passed the end of another period.")
        if state.latest_ms is not None and end_ms < state.latest_ms:
            # A view of a group that is ahead would be refused, because the store has a newer one.
            return dg.SkipReason(
                f"A group of {source.name} was published as of {rfc3339(state.latest_ms)}; the next batch ends at or after that."
            )
        begin_ms = stream.oldest_event_ms if batch_end_ms is None else batch_end_ms
        assert begin_ms is not None
        return ask(
            context, deployment, f"batch:{end_ms}", _range(deployment, begin_ms, end_ms), run_config=BatchEnd.run_config(end_ms)
        )

    return sensor


def late_events_heal(deployment: Deployment, source: EventSource) -> dg.SensorDefinition:
    """Returns the sensor that starts the repair of a source's days after late events."""
    settings = deployment.settings

    @dg.sensor(
        name=f"late_events_heal_{source.name}", job_name=features_job(source), minimum_interval_seconds=settings.sensor_seconds,
        default_status=_on(settings, "late"),
        description=f"Folds the days of {source.name} with late events again, once there are enough late events; batch_end stays unchanged.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Requests a repair if the count of late rows since the last repair is large enough, or if the last repair has failed.

        The tags of the last run have the count before that run, and the process that counted.
        """
        state = _state(deployment, source)
        if isinstance(state, dg.SkipReason):
            return state
        # Groups that are behind come forward to the latest batch_end: the view of a group that is ahead would be refused otherwise.
        online, batch_end_ms = state.online, state.latest_ms
        if state.batch_end_ms is None or batch_end_ms is None or not online:
            return dg.SkipReason("There is no batch to repair yet.")
        last, failed = latest_asked(context)
        # After a restart the speed layer counts from 0.
        before = int(last.get(_LATE_ROWS, 0)) if last.get(_PROCESS) == online["process"] else 0
        late = online["late_rows"] - before
        if late < settings.late_events and not failed:
            return dg.SkipReason(f"{late} late rows since the last repair; {settings.late_events} start one.")
        subject = last[ASKED_FOR] if failed else f"late:{online['process']}:{online['late_rows']}"
        tags = {
            **_range(deployment, batch_end_ms - 1, batch_end_ms),
            _PROCESS: online["process"],
            _LATE_ROWS: str(online["late_rows"]),
        }
        return ask(context, deployment, subject, tags, run_config=BatchEnd.run_config(batch_end_ms))

    return sensor


def lost_store_heals(deployment: Deployment) -> dg.SensorDefinition:
    """Returns the sensor that publishes again the views that the online store has lost."""
    settings = deployment.settings

    @dg.sensor(
        name="lost_store_heals", job_name=PUBLISH_JOB, minimum_interval_seconds=min(_LOSS_SECONDS, settings.sensor_seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes the views again when the online store has lost them; the speed layer streams its tiles again by itself.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Requests one run at a time, until the store has every published view."""
        try:
            store = open_store(settings)
            lost = [
                group
                for group in deployment.project.groups
                if latest_metadata(context.instance, online_key(group)) and not store.published(group.name)
            ]
            if not lost:
                return dg.SkipReason("The online store has all published views.")
            return ask(context, deployment, f"publish:{store.generation()}", asset_selection=[online_key(group) for group in lost])
        except StoreError as error:
            return dg.SkipReason(error.cause)

    return sensor


def retraining_on_signal(deployment: Deployment, model: Model) -> dg.SensorDefinition:
    """Returns the sensor that starts the retraining of a model."""
    settings = deployment.settings

    @dg.sensor(
        name=f"retraining_on_signal_{model.name}", job_name=training_job(model), minimum_interval_seconds=settings.sensor_seconds,
        default_status=_on(settings, "retraining"),
        description=f"Trains a candidate of {model.name} when features have drifted or the quality of the champion's answers has dropped.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Requests a training for each new report that has a reason, until the training has succeeded. A tag of the last run names its report."""
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
            return dg.SkipReason("No report has a reason for a new model.")
        tags = {"braid/reason": "; ".join(reasons)[:250], _REPORT: str(newest)}
        return ask(context, deployment, f"retrain:{newest}", tags)

    return sensor


def sensors_of(deployment: Deployment) -> list[dg.SensorDefinition]:
    """Returns the sensors of all sources and models."""
    project = deployment.project
    sources = [source for source in project.sources if project.groups_of(source)]
    of_batch = [
        *(make(deployment, source) for source in sources for make in (batch_when_due, late_events_heal)),
        lost_store_heals(deployment),
    ]
    return [
        *([] if deployment.settings.kappa else of_batch),
        *(retraining_on_signal(deployment, model) for model in project.models),
    ]


@dataclass(frozen=True)
class _State:
    """The state of a source in the online store.

    Attributes:
        online: The progress of the stream, summarized over the groups of the source; empty until every group has progress.
        archive: The progress of the archive; empty until the archive has progress.
        batch_end_ms: The earliest batch_end of the groups; None until every group has been published.
        latest_ms: The latest batch_end of the groups; None until a group has been published.
    """

    online: dict[str, Any]
    archive: dict[str, Any]
    batch_end_ms: int | None
    latest_ms: int | None


def _state(deployment: Deployment, source: EventSource) -> _State | dg.SkipReason:
    """Returns the state of a source; a skip reason if the online store does not answer, or if the speed layer has stopped writing progress."""
    groups = deployment.project.groups_of(source)
    try:
        store = open_store(deployment.settings)
        entries = store.progress()
        published = [view.batch_end_ms for group in groups if (view := store.published(group.name))]
    except StoreError as error:
        return dg.SkipReason(error.cause)
    written = [entry for group in groups if (entry := entries.get(f"online:{group.name}"))]
    archive = entries.get(f"archive:{source.name}", {})
    silent_ms = now_ms() - min((entry["written_at_ms"] for entry in (*written, archive) if entry), default=now_ms())
    if silent_ms > SILENT_SECONDS * 1_000:
        return dg.SkipReason(f"The speed layer has written no progress for {silent_ms // 1_000} s.")
    # In a container each process has the same id.
    process = "-".join(str(written[0].get(name, 0)) for name in ("pid", "began_ms")) if written else ""
    online = {**summary([written]), "process": process} if len(written) == len(groups) else {}
    return _State(online, archive, min(published) if len(published) == len(groups) else None, max(published, default=None))


def _range(deployment: Deployment, begin_ms: int, end_ms: int) -> dict[str, str]:
    """Returns the days of [begin, end) as the tags of a run.

    A day before Dagster's partitions begin is replaced by the first partition, because Dagster would fail the run. Such a day occurs if a streamed
    event is older than all loaded events. The earlier days are included, because a run also folds each earlier day whose events have changed.
    """
    earliest = first_day(deployment.settings).isoformat()
    first, last = (max(utc_day(instant_ms).isoformat(), earliest) for instant_ms in (begin_ms, end_ms - 1))
    return {RANGE_START: first, RANGE_END: last}
