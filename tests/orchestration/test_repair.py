"""What fails is done again by itself, and what dies blocks nobody: through Dagster's own daemon, on a real stream, lake and store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus, RunsFilter

from features.windows import DAY_MS
from infra.embedded import services
from infra.settings import Settings
from orchestration.asking import ATTEMPT
from orchestration.topics import topics
from store.clients import store
from store.keys import meta_key
from tests.declarations import project, user_features
from tests.instances import instance_of

#: Minutes of restarts and pauses on real services: with `make test-long`.
pytestmark = pytest.mark.long


ROOT = Path(__file__).parents[2]
SERVICES = {"kafka", "valkey", "speed", "dagster-code", "dagster", "dagster-daemon"}
MIDNIGHT = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp() * 1_000)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Settings]:
    settings = Settings.load(tmp_path_factory.mktemp("repair")).model_copy(
        update={"automation": frozenset({"batch"}), "sensor_seconds": 4, "archive_seconds": 1, "batch_memory": "1g", "speed_memory": "768m"}
    )  # fmt: skip
    try:
        services.up(settings, topics(project), only=SERVICES)
        yield settings
    finally:
        services.down(settings)


def braid(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestration.cli", "--home", str(settings.home), *arguments],
        env={**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)},
    )


def replay(settings: Settings, *events: tuple[int, int]) -> None:
    """Purchases: (user, time); returns when the stream has taken them."""
    path = settings.home / "events.jsonl"
    path.write_text("".join(
        f'{{"event_id": "{user}-{ms}", "user_id": {user}, "session_id": "s", "event_type": "PURCHASE", "amount": 5, '
        f'"event_timestamp": "{datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds")}"}}\n' for user, ms in events
    ))  # fmt: skip
    assert braid(settings, "replay", str(path), "--wait").wait(600) == 0


def batch_end_ms(settings: Settings) -> int | None:
    batch_end = store(settings).hget(meta_key(user_features.name), "batch_end_ms")
    return int(batch_end) if batch_end else None


def runs(settings: Settings, job: str) -> list[dg.DagsterRun]:
    """The runs of a job, the newest first."""
    with instance_of(settings) as instance:
        return list(instance.get_runs(RunsFilter(job_name=job)))


def eventually(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_batch_that_failed_is_asked_for_again_when_its_cause_is_mended(deployment: Settings) -> None:
    obstacle = Path(deployment.table("view_user_features"))
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("no table can be here")
    replay(deployment, *((4_200 + n, MIDNIGHT - DAY_MS + n) for n in range(10)))
    replay(deployment, (4_290, MIDNIGHT + 11 * 60_000))
    replay(deployment, (4_290, MIDNIGHT + 11 * 60_000 + 1))
    eventually(lambda: [run.status for run in runs(deployment, "features_user_events")][:1] == [DagsterRunStatus.FAILURE], 600)
    assert batch_end_ms(deployment) is None
    obstacle.unlink()
    eventually(lambda: batch_end_ms(deployment) == MIDNIGHT, 600)
    attempts = [run.tags[ATTEMPT] for run in runs(deployment, "features_user_events")]
    assert attempts == sorted(attempts, reverse=True)
    assert len(attempts) > 1


def test_a_killed_backfill_has_failed_within_a_minute_and_a_lost_store_heals_although_the_first_try_fails(
    deployment: Settings,
) -> None:
    before = {run.run_id for run in runs(deployment, "features_user_events")}
    process = braid(deployment, "backfill", "--no-train", "--to", str(MIDNIGHT + 1))
    mine = lambda: [run for run in runs(deployment, "features_user_events") if run.run_id not in before]  # noqa: E731
    eventually(lambda: any(run.status is DagsterRunStatus.STARTED for run in mine()), 600)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = time.monotonic()
    eventually(lambda: [run.status for run in mine()] == [DagsterRunStatus.FAILURE], 60)
    assert time.monotonic() - killed < 60

    view = Path(deployment.table("view_user_features"))
    view.rename(view.with_name("away"))
    store(deployment).flushall()
    eventually(lambda: [run.status for run in runs(deployment, "publish")][:1] == [DagsterRunStatus.FAILURE], 600)
    view.with_name("away").rename(view)
    eventually(lambda: batch_end_ms(deployment) == MIDNIGHT, 600)
