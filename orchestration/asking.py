"""A run that Dagster asks for by itself: asked for once, and after a failure again with growing pauses, until it has succeeded.

Dagster's run keys are spent by a run that failed, too. Here the runs themselves are the memory: each says by tags which sensor asked for it,
what for, and how often it had been asked for.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.storage.tags import WILL_RETRY_TAG

from orchestration.deployment import Deployment

#: Tags of a run: the sensor, what it asked for, and how many times by then.
ASKED_BY, ASKED_FOR, ATTEMPT = "braid/asked_by", "braid/asked_for", "braid/attempt"
#: The longest pause, in looks of a sensor: an hour, where it looks each minute. Each pause is twice the one before.
_LONGEST = 60
#: How many looks a run whose process died is left to Dagster, which starts it again itself.
_LEFT = 10


def ask(
    context: dg.SensorEvaluationContext, deployment: Deployment, subject: str, tags: dict[str, str] | None = None, **request: Any
) -> dg.RunRequest | dg.SkipReason:  # fmt: skip
    """The request for a run; why not now, where it is under way or its last failure is too recent.

    Args:
        context: Of the sensor that asks.
        deployment: Its `sensor_seconds` are the first pause.
        subject: What is asked for. A run that has succeeded does not spend it: who asks says that it is needed, again.
        tags: Of the run.
        request: `run_config` and `asset_selection` of the run.
    """
    asked = RunsFilter(tags={ASKED_BY: context.sensor_name, ASKED_FOR: subject})
    records = context.instance.get_run_records(asked, limit=_LONGEST)
    if records and not records[0].dagster_run.is_finished:
        return dg.SkipReason(f"Run {records[0].dagster_run.run_id[:8]} is under way.")
    failures = sum(1 for _ in takewhile(lambda record: record.dagster_run.status is not DagsterRunStatus.SUCCESS, records))
    looks = min(2 ** max(failures - 1, 0), _LONGEST)
    if records and records[0].dagster_run.tags.get(WILL_RETRY_TAG) == "true":
        looks = max(looks, _LEFT)
    pause_seconds = looks * deployment.settings.sensor_seconds
    again_at = _ended_at(records[0]) + pause_seconds if records else 0.0
    if time.time() < again_at:
        when = datetime.fromtimestamp(again_at, UTC).isoformat(timespec="seconds")
        how = f"failed, {failures} times in a row" if failures else "succeeded"
        return dg.SkipReason(f"Run {records[0].dagster_run.run_id[:8]} has {how}; the next is asked for at {when}.")
    attempt = context.instance.get_runs_count(asked) + 1
    return dg.RunRequest(
        f"{subject}:{attempt}", tags={**(tags or {}), ASKED_BY: context.sensor_name, ASKED_FOR: subject, ATTEMPT: str(attempt)}, **request
    )  # fmt: skip


def latest_asked(context: dg.SensorEvaluationContext) -> tuple[dict[str, str], bool]:
    """The tags of the last run that the sensor has asked for, empty before the first; and whether it is to be asked for again: it failed."""
    records = context.instance.get_run_records(RunsFilter(tags={ASKED_BY: context.sensor_name}), limit=1)
    if not records:
        return {}, False
    run = records[0].dagster_run
    return dict(run.tags), run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


def _ended_at(record: RunRecord) -> float:
    return record.end_time or record.update_timestamp.timestamp()
