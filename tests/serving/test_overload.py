"""Callers' habits and overload over HTTP, on real Valkey and BentoML: a process that has two requests in work refuses the third at once."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import pytest

from braid import Client
from braid.client import RefusedError
from infra.embedded import services
from infra.settings import Settings

BODY = {"group": "user_features", "ids": [1]}
ORIGIN = "https://shop.example.com"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], str]) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("overload")
    settings = Settings.load(home).model_copy(
        update={
            "mlflow_tracking_uri": empty_registry(home),
            "requests_at_once": 2,
            "store_timeout_seconds": 60.0,
            "cors_origins": frozenset({ORIGIN}),
        }
    )
    try:
        services.up(settings, {}, only={"valkey", "serving"})
        yield settings
    finally:
        services.down(settings)


@pytest.fixture
def stalled_store(serving: Settings) -> Iterator[int]:
    """The process of a store that does not answer until the test ends or continues it."""
    [pid] = (status.pid for status in services.status(serving) if status.name == "valkey")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def ask(settings: Settings, **headers: str) -> httpx.Response:
    return httpx.post(f"{settings.serving_url}/features", json=BODY, headers=headers, timeout=90)


def reasons(response: httpx.Response) -> list[str]:
    """Why the features of an answer may not be exact."""
    degraded: list[str] = response.json()["rows"][0]["provenance"]["degraded_reasons"]
    return degraded


def shed(settings: Settings) -> float:
    """The refused requests that the metrics count."""
    text = httpx.get(f"{settings.serving_url}/metrics").text
    return sum(float(count) for count in re.findall(r'^braid_shed_total\{path="/features"\} (\S+)', text, re.MULTILINE))


def test_requests_beyond_the_bound_are_refused_while_those_in_work_are_answered(serving: Settings, stalled_store: int) -> None:
    before = shed(serving)
    with ThreadPoolExecutor(3) as callers:
        # Of three, two are in work until the store continues; so the first that ends is the refused one.
        done, in_work = wait([callers.submit(ask, serving) for _ in range(3)], timeout=60, return_when=FIRST_COMPLETED)
        [refused], begun = (task.result() for task in done), time.monotonic()
        with Client(serving.serving_url, deadline_seconds=0.9) as client, pytest.raises(RefusedError) as caught:
            client.features("user_features", [1])  # the pause would end after the deadline
        assert httpx.get(f"{serving.serving_url}/livez").is_success
        assert not any(task.done() for task in in_work)
        stalled_seconds = time.monotonic() - begun
        os.kill(stalled_store, signal.SIGCONT)
        answered = [task.result() for task in in_work]
    assert [response.status_code for response in (refused, *answered)] == [503, 200, 200]
    assert refused.headers["retry-after"] == "1"
    assert (caught.value.status, caught.value.retry_after_seconds, len(caught.value.request_id)) == (503, 1.0, 32)
    assert shed(serving) - before == 2
    after = ask(serving)
    metrics = httpx.get(f"{serving.serving_url}/metrics").text
    [waited] = re.findall(r'^braid_stage_seconds_sum\{endpoint="features",model="",stage="store"\} (\S+)', metrics, re.MULTILINE)
    assert float(waited) >= 2 * stalled_seconds
    assert after.status_code == 200
    assert reasons(answered[0]) == reasons(answered[1]) == reasons(after)  # those in work have waited for the store


@pytest.mark.parametrize("path", ["/features", "/readyz", "/nowhere"])
def test_every_response_has_the_id_of_its_request(serving: Settings, path: str) -> None:
    response = httpx.request(
        "GET" if path == "/readyz" else "POST", serving.serving_url + path, headers={"x-request-id": "order-17"}
    )
    assert response.headers.get_list("x-request-id") == ["order-17"]


def test_a_page_of_a_listed_origin_may_call(serving: Settings) -> None:
    asks = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = httpx.options(f"{serving.serving_url}/features", headers=asks)
    assert preflight.status_code == 200
    for response in (preflight, ask(serving, origin=ORIGIN)):
        assert response.headers["access-control-allow-origin"] == ORIGIN
