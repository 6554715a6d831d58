"""`braid backfill` and what follows it: the jobs `features` and `training` over a range of days in one run each, and `quality`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from batch.load import remember_first_day
from features.definitions import GROUPS
from infra.settings import Settings
from monitoring.attribution import Reason
from orchestration.execution import OnAsset, run_job, use_deployment
from orchestration.first_day import first_day
from orchestration.running import require

if TYPE_CHECKING:
    import dagster as dg


@dataclass(frozen=True)
class BackfillReport:
    """What was run: entities by group, seconds by step. The model's fields are None where nothing was trained, for the reason given."""

    batch_end_ms: int
    entities: dict[str, int]
    first_day: date
    last_day: date
    seconds: dict[str, float]
    trained: bool = False
    reason: str = ""
    champion_version: str | None = None
    auc_merged: float | None = None
    auc_batch_only: float | None = None


def backfill(
    settings: Settings, to_ms: int | None = None, first: date | None = None, train: bool = True, on_asset: OnAsset | None = None
) -> BackfillReport:
    """Brings events, tiles, view and online store up to a time, and trains where there are labels enough.

    Args:
        settings: The deployment; its Dagster home gets the runs.
        to_ms: batch_end; never later than now. None: as late as the batch can vouch for.
        first: From this day on; by default from the first that Dagster has never materialized. Late events before it heal all the same.
        train: Whether to train and promote too.
        on_asset: Told of progress.

    Raises:
        ServiceError: The online store, or MLflow if it is needed, does not run.
        NotReadyError: An asset failed, or a check kept the day out; says which and why.
    """
    require(settings, "valkey", *(["mlflow"] if train else []))
    now = datetime.now(UTC)
    to_ms = None if to_ms is None else min(to_ms, int(now.timestamp() * 1_000))
    last = now.date() if to_ms is None else datetime.fromtimestamp(to_ms / 1_000, UTC).date()
    # A stream of the past may reach back before everything that was loaded.
    if last < first_day(settings):
        remember_first_day(settings, last)
    use_deployment(settings)
    import dagster as dg

    from orchestration.assets.batch import events
    from orchestration.deployment import BatchEnd
    from orchestration.run_days import RANGE_END, RANGE_START

    seconds: dict[str, float] = {}
    with dg.DagsterInstance.get() as instance:
        earliest = first_day(settings)
        start = max(first, earliest) if first else _first_new_day(instance, events.key, earliest)
        tags = {RANGE_START: min(start, last).isoformat(), RANGE_END: last.isoformat()}
        done = run_job("features", instance, seconds, on_asset, tags=tags, run_config=BatchEnd.run_config(to_ms))
        online = {name: done[f"online_{name}"] for name in GROUPS}
        report: dict[str, Any] = {
            "batch_end_ms": min(_instant_ms(one["batch_end"]) for one in online.values()),
            "entities": {name: one["dagster/row_count"] for name, one in online.items()},
            "first_day": min(start, last), "last_day": last, "seconds": seconds,
        }  # fmt: skip
        if not train:
            return BackfillReport(**report)
        done = run_job("training", instance, seconds, on_asset)
        candidate, champion = done["candidate_model"], done["champion_model"]
        return BackfillReport(
            **report,
            trained=candidate["trained"],
            reason=champion["reason"] if candidate["trained"] else candidate["reason"],
            champion_version=champion.get("champion_version"),
            auc_merged=candidate.get("auc_merged"),
            auc_batch_only=candidate.get("auc_batch_only"),
        )


def _instant_ms(text: object) -> int:
    return round(datetime.fromisoformat(str(text)).timestamp() * 1_000)


def check_quality(settings: Settings, on_asset: OnAsset | None = None) -> dict[str, dict[str, Any]]:
    """Runs the job `quality`, on what has arrived by now; gives what each of its assets says.

    Raises:
        ServiceError: The online store or MLflow does not run.
        NotReadyError: An asset failed; says which and why.
    """
    require(settings, "valkey", "mlflow")
    use_deployment(settings)
    import dagster as dg

    from orchestration.run_days import RANGE_END, RANGE_START

    today = datetime.now(UTC).date().isoformat()
    with dg.DagsterInstance.get() as instance:
        return run_job("quality", instance, {}, on_asset, tags={RANGE_START: today, RANGE_END: today})


def consistency_figures(quality: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Of what `check_quality` gives, per group: answers, cells, defects, and the differing cells by `Reason`."""
    names = ("answers", "cells", "defects", *map(str, Reason))
    return {name: {key: quality[f"{name}_consistency"][key] for key in names} for name in GROUPS}


def _first_new_day(instance: dg.DagsterInstance, events: dg.AssetKey, earliest: date) -> date:
    """The first day from `earliest` on that has no materialization; one before the last that has, since that day went on."""
    done = instance.get_materialized_partitions(events)
    day = earliest
    while day.isoformat() in done:
        day += timedelta(days=1)
    return max(earliest, day - timedelta(days=1))
