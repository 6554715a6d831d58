"""`braid init` makes a project that loads, passes its own test, and fits braid's style; the public names that it uses are held here, too."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import braid
import braid.testing
from features.sources import Column, ColumnType, EventSource
from infra.project import load_project
from infra.settings import Settings
from orchestration.cli import app
from orchestration.cli.init import _files

ROOT = Path(__file__).parents[1]


def init(folder: Path, name: str) -> Result:
    with contextlib.chdir(folder):
        return CliRunner().invoke(app, ["init", name, "--json"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("projects")
    done = init(parent, "orchard")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["project"] == "orchard.definitions:project"
    return parent / "orchard"


def test_a_new_project_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAID_PROJECT")
    monkeypatch.chdir(folder)
    settings = Settings.load()
    assert settings.project == "orchard.definitions:project"
    assert settings.home == folder / ".braid"
    project = load_project(settings)
    assert [group.name for group in project.groups] == ["customer_features"]


def test_the_model_that_the_definitions_show_can_be_added(folder: Path) -> None:
    text = (folder / "orchard" / "definitions.py").read_text()
    [models] = re.findall(r"^#     models=(.*)$", text, flags=re.MULTILINE)
    names: dict[str, Any] = {}
    exec(f"from braid import Model, Outcome\n{text}\nmodels = {models}", names)
    project = braid.Project(names["project"].sources, names["project"].groups, names["models"])
    assert [model.name for model in project.models] == ["reorder"]


def test_a_new_project_passes_its_own_test_and_the_linter(folder: Path) -> None:
    for command in (["pytest", "-q", "-p", "no:cacheprovider"], ["ruff", "check", "--isolated", "--line-length", "132", "."]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("hour", [0, 1, 2, 12, 23])
def test_the_history_ends_before_the_live_events_and_within_the_buffer(hour: int) -> None:
    now = datetime(2026, 3, 1, hour, 30, tzinfo=UTC)
    files = _files("shop", 3001, now)
    times = {
        name: [datetime.fromisoformat(json.loads(line)["event_timestamp"]) for line in files[name].splitlines()]
        for name in ("history.jsonl", "live.jsonl")
    }
    assert max(times["history.jsonl"]) < min(times["live.jsonl"])
    assert max(times["history.jsonl"]) > now - timedelta(hours=36)
    assert now - timedelta(hours=1) < min(times["live.jsonl"]) < max(times["live.jsonl"]) < now


@pytest.mark.parametrize(
    "name", ["orchard", "models", "braid", "json", "redis", "tests", "Shop", "my-shop", "1shop", "class", "../up", ""]
)
def test_a_name_that_cannot_work_is_refused_in_a_sentence(folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    done = init(folder.parent, name)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["cure"]
    assert sorted(folder.parent.rglob("*")) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    assert init(tmp_path, "shop").exit_code == 0
    assert (tmp_path / "shop" / "shop" / "definitions.py").exists()


PUBLIC = [(module, name) for module in (braid, braid.testing) for name in module.__all__]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_a_public_name_is_there_and_documented(module: object, name: str) -> None:
    assert getattr(module, name).__doc__.strip()


def test_nothing_is_public_that_all_does_not_name() -> None:
    tree = ast.parse((ROOT / "braid" / "__init__.py").read_text())
    declared = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing")]
    imported = {alias.asname or alias.name for node in declared for alias in node.names}
    assert imported == set(braid.__all__)
    assert list(braid.__all__) == sorted(braid.__all__)
    assert (ROOT / "braid" / "py.typed").exists()


EVENTS = EventSource(
    name="events", topic="events", table="events", key="shop",
    columns=(
        Column("event_id", required=True), Column("event_timestamp", ColumnType.TIMESTAMP, required=True), Column("shop", required=True),
        Column("visitor"), Column("amount", ColumnType.DECIMAL), Column("properties", ColumnType.MAP),
    ),
)  # fmt: skip


def event(number: int, minute: int, **columns: object) -> dict[str, object]:
    return {"event_id": str(number), "event_timestamp": f"2026-01-01T11:{minute:02}:00+00:00", "shop": "a", **columns}


def test_features_at_counts_what_the_declaration_says() -> None:
    group = braid.FeatureGroup(
        name="shop_features", entity="shop", source=EVENTS,
        features=[
            braid.distinct("visitors_1h", of="visitor", window="1h"),
            braid.total("spend", of="amount", where="properties['channel'] = 'web'"),
            braid.last_k("latest_visitors", of="visitor", k=2),
            braid.count("events_10min", window="10min"),
        ],
    )  # fmt: skip
    web = {"channel": "web"}
    events = [
        event(2, 54, visitor="v", amount=0.2, properties=web), event(1, 1, visitor="u", amount="0.1", properties=web),
        event(1, 59, visitor="copy", amount=50, properties=web), event(3, 55, visitor="v", amount=9), event(4, 59, visitor="w", shop="b"),
    ]  # fmt: skip
    values = braid.testing.features_at(group, events, entity="a", at="2026-01-01T12:00:00Z")
    assert values == {"visitors_1h": 2, "spend": 0.3, "latest_visitors": ["v", "v"], "events_10min": 2}
    assert braid.testing.features_at(group, events, entity="a", at="2026-01-01T11:54:00Z")["visitors_1h"] == 1
    with pytest.raises(braid.BraidError, match="has no shop"):
        braid.testing.features_at(group, [event(1, 1, shop=None)], entity="a", at="2026-01-01T12:00:00Z")
