"""The built wheel, alone in an environment: `braid init` and the commands of the new project's README lead to a merged value over HTTP.

The environment has the wheel and, by their folder, the libraries of the environment that runs the tests; nothing of the checkout.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.embedded import services
from infra.settings import Settings
from tests.test_rooms import ALLOWED

ROOT = Path(__file__).parents[1]


@dataclass
class Wheel:
    """The wheel's file, and the folder of the environment that it is installed into."""

    path: Path
    venv: Path

    def run(self, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment in a folder; it inherits nothing that leads to the checkout."""
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BRAID_PROJECT", "VIRTUAL_ENV")
        }
        program = [str(self.venv / "bin" / command[0]), *command[1:]]
        return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools leaves a build folder in the source, and would put what is in an old one into the wheel.
    leftovers = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "tests")
    shutil.copytree(ROOT, folder / "source", ignore=leftovers)
    pip = [sys.executable, "-m", "pip", "--no-input", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(build, check=True, timeout=600)
    [path] = folder.glob("*.whl")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    # A folder that a .pth file names is searched, but the .pth files in that folder, such as the checkout's, are not read.
    site = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*pip, "--python", str(venv / "bin" / "python"), "install", "--no-deps", "--no-index", str(path)], check=True)
    return Wheel(path, venv)


def test_the_wheel_holds_what_braid_reads_and_nothing_of_the_workshop(wheel: Wheel) -> None:
    with zipfile.ZipFile(wheel.path) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == set(ALLOWED)
    tracked = {"braid/py.typed", "infra/dagster.yaml", "infra/workspace.yaml", "examples/shop/definitions.py"}
    tracked |= {str(path.relative_to(ROOT)) for room in ALLOWED for path in (ROOT / room).rglob("*.py")}
    tracked |= {str(path.relative_to(ROOT)) for path in (ROOT / "orchestration/cli/new-project").iterdir()}
    tracked |= {f"serving/console/{name}" for name in ("console.html", "console.css", "console.js")}
    assert tracked <= names


def test_every_room_is_imported_from_the_wheel(wheel: Wheel, tmp_path: Path) -> None:
    program = f"import importlib; [print(importlib.import_module(room).__file__) for room in {sorted(ALLOWED)}]"
    done = wheel.run(tmp_path, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(wheel.venv) for line in done.stdout.splitlines())


def test_benchmarks_are_said_to_be_in_the_repository(wheel: Wheel, tmp_path: Path) -> None:
    done = wheel.run(tmp_path, "braid", "bench")
    assert done.returncode == 1
    assert "not part of the installed package" in done.stderr


@dataclass
class Deployment:
    """A project that `braid init` made, after the commands of its README."""

    wheel: Wheel
    folder: Path
    settings: Settings
    notes: dict[str, str]

    def braid(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of braid in the project's folder."""
        return self.wheel.run(self.folder, "braid", *arguments)


@pytest.fixture(scope="module")
def deployment(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory, interpreted: None) -> Iterator[Deployment]:
    parent = tmp_path_factory.mktemp("projects")
    made = wheel.run(parent, "braid", "init", "shop")
    assert made.returncode == 0, made.stderr
    folder = parent / "shop"
    # Packages of the project that have the names of braid's rooms are not taken for them.
    for room in ("models", "features", "serving", "speed"):
        (folder / room).mkdir()
        (folder / room / "__init__.py").write_text("")
    # The ports that the tests prefer.
    (folder / ".braid" / "ports.json").unlink()
    settings = Settings.load(folder / ".braid")
    lines = [
        line[len("$ braid ") :].split("#")[0].split()
        for line in (folder / "README.md").read_text().splitlines()
        if line.startswith("$ braid ")
    ]
    assert len(lines) + 1 <= 6
    started = Deployment(wheel, folder, settings, {})
    try:
        for arguments in lines:
            done = started.braid(*arguments)
            assert done.returncode == 0, (arguments, done.stdout, done.stderr)
            started.notes[arguments[0]] = done.stderr
        yield started
    finally:
        ended = started.braid("down")
        assert ended.returncode == 0, ended.stderr
        assert services.process_ids(settings) == []


def right_features(folder: Path, customer: int, as_of_ms: int) -> dict[str, float]:
    """What the sample events say of a customer, counted from the lines of the files."""
    events = [json.loads(line) for name in ("history.jsonl", "live.jsonl") for line in (folder / name).read_text().splitlines()]
    mine = [(ms(event["event_timestamp"]), event) for event in events if event["customer_id"] == customer]

    def chosen(kind: str, size_ms: int, hop_ms: int) -> list[float]:
        start_ms = (as_of_ms - size_ms) // hop_ms * hop_ms
        return [event.get("amount", 0) for at, event in mine if event["event_type"] == kind and start_ms <= at < as_of_ms]

    week, month = chosen("ORDER", 7 * DAY_MS, HOUR_MS), chosen("ORDER", 30 * DAY_MS, DAY_MS)
    latest = max(at for at, event in mine if event["event_type"] == "ORDER")
    return {
        "views_1h": len(chosen("VIEW", HOUR_MS, 5 * MINUTE_MS)), "orders_7d": len(week), "spend_7d": sum(week),
        "avg_order_30d": sum(month) / len(month), "hours_since_order": (as_of_ms - latest) / HOUR_MS,
    }  # fmt: skip


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


def test_six_commands_lead_to_a_value_that_is_merged_from_batch_and_speed(deployment: Deployment) -> None:
    body = {"group": "customer_features", "ids": [7]}
    [row] = httpx.post(f"{deployment.settings.serving_url}/features", json=body).raise_for_status().json()["rows"]
    provenance: dict[str, Any] = row["provenance"]
    assert row["features"] == pytest.approx(right_features(deployment.folder, 7, ms(provenance["as_of"])))
    assert row["features"]["orders_7d"] == 3, "one of the past, two of the last hour"
    assert provenance["tiles_merged"] >= 1
    assert provenance["batch_end"] is not None
    assert provenance["degraded"] is False, provenance["degraded_reasons"]


def test_a_project_without_models_is_whole(deployment: Deployment) -> None:
    refused = httpx.post(f"{deployment.settings.serving_url}/predict", json={"customer_id": 7})
    assert refused.status_code == 404
    assert refused.json()["error"] == "The project declares no model."
    for command in (["predict", "7"], ["models"], ["promote", "1"]):
        done = deployment.braid(*command)
        assert done.returncode == 1
        assert "The project declares no model." in done.stderr
    status = json.loads(deployment.braid("status", "--json").stdout)
    assert {name: service["detail"] for name, service in status["services"].items() if not service["healthy"]} == {}
    query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"
    answer = httpx.post(f"{deployment.settings.dagster_url}/graphql", json={"query": query}, timeout=30).json()
    [repository] = answer["data"]["repositoriesOrError"]["nodes"]
    assert "quality" in {job["name"] for job in repository["jobs"]}
    assert deployment.braid("plan").returncode == 0
    unlogged = deployment.braid("consistency", "--logged")
    assert unlogged.returncode == 3, "no evidence is no pass"
    assert "No evidence: no answer was logged. Set BRAID_SERVED_SHARE" in unlogged.stderr


def test_progress_is_seen_where_there_is_no_terminal(deployment: Deployment) -> None:
    for command in ("load", "up", "backfill", "replay"):
        lines = deployment.notes[command].splitlines()
        assert any(re.fullmatch(r"\d\d:\d\d:\d\d .* 100 % \(\d+ s\)", line) for line in lines), (command, lines)
