"""Serving with several processes on one port: both answer, their metrics are one, and a new champion reaches both.

The registry is MLflow on SQLite, without its server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from infra.embedded import services
from infra.settings import Settings
from tests.declarations import repurchase
from tests.serving.test_faults import booster, register
from tests.waiting import eventually

REQUESTS = 400


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], str]) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("workers")
    settings = Settings.load(home).model_copy(update={"serving_workers": 2, "mlflow_tracking_uri": empty_registry(home)})
    MlflowClient(settings.mlflow_tracking_uri).create_experiment(repurchase.name, artifact_location=str(home / "artifacts"))
    try:
        services.up(settings, {}, only={"valkey", "serving"})
        yield settings
    finally:
        services.down(settings)


def workers(settings: Settings) -> list[psutil.Process]:
    """The processes that have answered requests for metrics or features, found by their work: the children of the server."""
    pid = next(status.pid for status in services.status(settings) if status.name == "serving")
    return [process for process in psutil.Process(pid).children(recursive=True) if "worker" in " ".join(process.cmdline())]


def answered(settings: Settings) -> float:
    """The answers of `/features` that the metrics count."""
    text = httpx.get(f"{settings.serving_url}/metrics").text
    return sum(
        float(count) for count in re.findall(r'^braid_answer_seconds_count\{endpoint="features"\} (\S+)', text, re.MULTILINE)
    )


def ask(settings: Settings, user: int) -> int:
    """The status of an answer on a connection of its own."""
    body = {"group": "user_features", "ids": [user]}
    return httpx.post(f"{settings.serving_url}/features", json=body, timeout=20).status_code


def test_both_processes_answer_and_the_metrics_count_every_answer(deployment: Settings) -> None:
    processes = workers(deployment)
    assert len(processes) == 2
    before, used = answered(deployment), [sum(process.cpu_times()[:2]) for process in processes]
    with ThreadPoolExecutor(8) as executor:
        statuses = list(executor.map(lambda user: ask(deployment, user), range(REQUESTS)))
    assert set(statuses) == {200}
    assert answered(deployment) - before == REQUESTS
    assert all(sum(process.cpu_times()[:2]) > its for process, its in zip(processes, used, strict=True)), "one process did all"


def test_a_new_champion_answers_from_both_processes(deployment: Settings) -> None:
    champion = register(deployment, booster())

    def all_answer() -> bool:
        answers = [httpx.post(f"{deployment.serving_url}/predict", json={"user_id": 1}, timeout=20) for _ in range(20)]
        return all(answer.is_success and answer.json()["model"]["version"] == champion for answer in answers)

    eventually(all_answer)
