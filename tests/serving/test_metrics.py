"""The histograms of `/metrics`: the time of each stage, with the budgets of the models among the bounds."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from serving.metrics import bounds
from serving.stages import Stages

#: Metrics are global to a process, so another one makes them.
PROGRAM = """
from prometheus_client import generate_latest
from braid import Labels, Model
from serving.metrics import Metrics
from serving.stages import Stages
from tests.declarations import user_features

model = Model("ads", (user_features,), Labels(), budget_ms=40)
metrics, stages = Metrics([model]), Stages()
stages.seconds |= {"store": 0.02, "model": 0.041}
metrics.answered("predict", stages, model)
metrics.shed("/predict")
print(generate_latest().decode())
"""


def test_a_budget_is_a_bound_of_its_own() -> None:
    assert bounds((0.01, 0.1), [50, 10]) == (0.005, 0.01, 0.02, 0.025, 0.05, 0.1)


def test_stages_follow_each_other_and_decoding_is_no_part_of_the_store() -> None:
    stages = Stages()
    time.sleep(0.02)
    stages.read(decode_seconds=0.005)
    stages.end("merge")
    elapsed = time.perf_counter() - stages.started
    assert list(stages.seconds) == ["store", "decode", "merge"]
    assert stages.seconds["decode"] == 0.005
    assert stages.seconds["store"] >= 0.015
    assert sum(stages.seconds.values()) == pytest.approx(elapsed, abs=0.001 + elapsed / 10)


def test_the_time_of_each_stage_is_counted_by_endpoint_and_model() -> None:
    text = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120).stdout
    labels = 'endpoint="predict",le="{}",model="ads",stage="{}"'
    for le, stage, count in (("0.02", "store", 1.0), ("0.01", "store", 0.0), ("0.04", "model", 0.0), ("0.05", "model", 1.0)):
        assert f"braid_stage_seconds_bucket{{{labels.format(le, stage)}}} {count}\n" in text
    assert 'braid_answer_seconds_bucket{endpoint="predict",le="0.08"}' in text
    assert 'braid_shed_total{path="/predict"} 1.0\n' in text
