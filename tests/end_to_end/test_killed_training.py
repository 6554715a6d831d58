"""A training run whose process is killed while it writes to the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest
from mlflow import MlflowClient

from models.registry import CHALLENGER, DIGEST_TAG, batch_only_name, load_scorer, registered_versions
from tests.declarations import repurchase
from tests.waiting import eventually

if TYPE_CHECKING:
    from infra.settings import Settings

    from .conftest import Shop

LAUNCH = """mutation($p: ExecutionParams!) {
  launchRun(executionParams: $p) { ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUNS = "{ runsOrError(limit: 50) { ... on Runs { results { runId rootRunId status } } } }"

# Two more trainings. A killed run is in tests/test_automation.py, a crash between the aliases in tests/models/test_training.py.
pytestmark = pytest.mark.long


def test_it_is_started_again_and_leaves_no_model_half_registered(shop: Shop, kill_workers: Callable[[Settings], int]) -> None:
    settings = shop.settings
    client, names = MlflowClient(settings.mlflow_tracking_uri), (repurchase.name, batch_only_name(repurchase.name))
    experiment = client.get_experiment_by_name(repurchase.name)
    before = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    selector = {"repositoryLocationName": "braid", "repositoryName": "__repository__", "jobName": "training_repurchase"}
    launched = shop.dagster(LAUNCH, p={"selector": selector, "runConfigData": {}})["launchRun"]["run"]["runId"]
    # Dagster takes one run at a time: a run that a sensor launched before may take minutes on busy cores.
    eventually(lambda: {run.info.run_id for run in client.search_runs([experiment.experiment_id])} != before, 600, every=0.02)
    assert kill_workers(settings) > 0

    def done_again() -> list[dict[str, str]] | None:
        answer = httpx.post(f"{settings.serving_url}/predict", json={"user_id": 5})
        assert answer.is_success, answer.text
        found = [run for run in shop.dagster(RUNS)["runsOrError"]["results"] if launched in (run["runId"], run["rootRunId"])]
        return found if any(run["status"] == "SUCCESS" for run in found) else None

    found = eventually(done_again, 600, every=0.5)
    assert sorted(run["status"] for run in found) == ["FAILURE", "SUCCESS"]
    for name in names:
        versions = registered_versions(settings, name)
        for one in versions:
            assert {DIGEST_TAG, "training_set_version", "declaration"} <= one.tags.keys()
            load_scorer(settings, name, one.version)
        assert CHALLENGER in versions[0].aliases or "champion" in versions[0].aliases
