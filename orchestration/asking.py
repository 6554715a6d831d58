"""Runs that a sensor requests: after a failure the sensor requests the run again, with growing pauses, until a run has succeeded.

Dagster's run keys cannot do this, because Dagster never repeats a run key, not even after a failure. Instead each run has tags: the sensor that
requested the run, the subject of the request, and the number of requests so far.
"""

from __future__ import annotations

import time
from itertools import takewhile
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.storage.tags import WILL_RETRY_TAG

from features.instants import rfc3339
from orchestration.deployment import Deployment

#: Tags of a run: the sensor, the subject of its request, and the number of requests so far.
ASKED_BY, ASKED_FOR, ATTEMPT = "braid/asked_by", "braid/asked_for", "braid/attempt"
#: The longest pause, in evaluations of a sensor: an hour for a sensor that is evaluated every minute. Each pause is twice the previous pause.
_LONGEST = 60
#: The pause after a run whose process died, in evaluations, because Dagster itself starts such a run again.
_LEFT = 10


def ask(
    context: dg.SensorEvaluationContext, deployment: Deployment, subject: str, tags: dict[str, str] | None = None, **request: Any
) -> dg.RunRequest | dg.SkipReason:  # fmt: skip
    """Returns the request for a run; a skip reason if such a run is in progress, or if the pause after the last such run is not over.

    Args:
        context: The context of the sensor.
        deployment: The deployment. Its setting `sensor_seconds` is the first pause.
        subject: The subject of the request. The same subject can be requested again after a success.
        tags: Further tags of the run.
        request: `run_config` and `asset_selection` of the run.
    """
    requested = RunsFilter(tags={ASKED_BY: context.sensor_name, ASKED_FOR: subject})
    records = context.instance.get_run_records(requested, limit=_LONGEST)
    if records and not records[0].dagster_run.is_finished:
        return dg.SkipReason(f"Run {records[0].dagster_run.run_id[:8]} is under way.")
    failures = sum(1 for _ in takewhile(lambda record: record.dagster_run.status is not DagsterRunStatus.SUCCESS, records))
    evaluations = min(2 ** max(failures - 1, 0), _LONGEST)
    if records and records[0].dagster_run.tags.get(WILL_RETRY_TAG) == "true":
        evaluations = max(evaluations, _LEFT)
    pause_seconds = evaluations * deployment.settings.sensor_seconds
    again_at = _ended_at(records[0]) + pause_seconds if records else 0.0
    if time.time() < again_at:
        how = f"failed, {failures} times in a row" if failures else "succeeded"
        when = rfc3339(int(again_at * 1_000))
        return dg.SkipReason(f"Run {records[0].dagster_run.run_id[:8]} has {how}; the next run is requested at {when}.")
    attempt = context.instance.get_runs_count(requested) + 1
    return dg.RunRequest(
        f"{subject}:{attempt}", tags={**(tags or {}), ASKED_BY: context.sensor_name, ASKED_FOR: subject, ATTEMPT: str(attempt)}, **request
    )  # fmt: skip


def latest_asked(context: dg.SensorEvaluationContext) -> tuple[dict[str, str], bool]:
    """Returns the tags of the last run that the sensor has requested, and whether that run has failed; no tags before the first request."""
    records = context.instance.get_run_records(RunsFilter(tags={ASKED_BY: context.sensor_name}), limit=1)
    if not records:
        return {}, False
    run = records[0].dagster_run
    return dict(run.tags), run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


def _ended_at(record: RunRecord) -> float:
    return record.end_time or record.update_timestamp.timestamp()
