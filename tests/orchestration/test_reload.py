"""The services load the declarations anew when these have changed, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_LOAD = """
import sys
from dataclasses import replace
from features.checks import SourceChecks
from features.model import Labels, Model
from features.project import Project
from infra.settings import Settings
from orchestration.reload import load_declarations
from tests.declarations import project

home, nulls, *ran = sys.argv[1:]
checks = SourceChecks(nulls=float(nulls), blocking=frozenset({"volume", "nulls", "late", "bounds"}))
sources = {source: replace(source, checks=checks) for source in project.sources}
groups = [replace(group, source=sources[group.source]) for group in project.groups]


def train(data):
    raise NotImplementedError


models = [Model("m", (groups[0],), Labels(), training=train)]
load_declarations(Settings.load(home), Project(tuple(sources.values()), groups, models), ran, lambda name, step: print(name, step, flush=True))
"""


def load(home: Path, seed: str, *arguments: str) -> str:
    """What `braid up` says in a process of its own, beside a service that runs; it does not run here, so its restart would fail."""
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", _LOAD, str(home), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def test_services_are_restarted_for_other_declarations_and_not_for_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert load(tmp_path, "1", "0.2") == ""
    assert [load(tmp_path, seed, "0.2", "serving") for seed in "234"] == ["", "", ""]
    assert load(tmp_path, "1", "0.3", "serving") == "serving loading the changed declarations\n"
