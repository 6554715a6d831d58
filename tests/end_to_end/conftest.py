"""One deployment for all tests of this folder: Kafka, Valkey, MLflow, Dagster, the speed layer and BentoML, all real.

A shop's own file is loaded, backfilled and trained on, and a day more is streamed, by the command line alone. The shop's project lies in a
folder of its own, where its declarations can be changed meanwhile.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from infra.embedded import services
from infra.settings import Settings
from tests.codegen import INTERPRETING

ROOT = Path(__file__).parents[2]
BASE = int(datetime(2026, 4, 10, tzinfo=UTC).timestamp() * 1_000)
DAY_MS = 86_400_000
CUT = BASE + 66 * DAY_MS + 13 * 3_600_000 + 47_123  # in the middle of a tile
USERS = 300  # with fewer, so few days would not have the 200 label points that the evaluation of a model needs
HEADER = "id,customer,basket,kind,total,when\n"
MAPPING = ["user_id=customer", "session_id=basket", "event_type=kind", "amount=total", "event_timestamp=when", "event_id=id"]
MAPPED = [part for one in MAPPING for part in ("--map", one)]


def shopping(source: random.Random, n: int, first_ms: int, last_ms: int, prefix: str) -> list[str]:
    """Lines of a shop's own CSV, with instants at the cut, on hops and days, and every twentieth line twice; some users come rarely."""
    special = [CUT - 1, CUT, CUT + 1, CUT // DAY_MS * DAY_MS, CUT // 300_000 * 300_000]
    lines = []
    for index in range(n):
        at = source.choice(special) if source.random() < 0.1 else source.randrange(first_ms, last_ms)
        at = min(max(at, first_ms), last_ms - 1)
        when = datetime.fromtimestamp(at / 1_000, UTC).isoformat(timespec="milliseconds")
        kind, amount = source.choice(["PURCHASE", "PURCHASE", "VIEW"]), source.choice(["", f"{source.uniform(0, 99):.2f}"])
        lines.append(f"{prefix}{index},{int(USERS * source.random() ** 2)},b{source.randrange(40)},{kind},{amount},{when}\n")
    return lines + source.sample(lines, n // 20)


@dataclass(frozen=True)
class Shop:
    """The running deployment, what was sent to it, and what the commands said; `raw` holds all of its events."""

    settings: Settings
    project: Path
    raw: Path
    cut_ms: int
    users: list[int]
    loaded: dict[str, Any]
    backfilled: dict[str, Any]
    replayed: dict[str, Any]

    def braid(self, *arguments: str) -> Any:
        """What a command says."""
        return braid(self.project, self.settings.home, *arguments)

    def refused(self, *arguments: str) -> str:
        """The error of a command that fails with status 1."""
        done = run(self.project, self.settings.home, *arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        error: str = json.loads(done.stdout)["error"]
        return error

    def tell(self, command: str, *lines: str) -> Any:
        """Loads or replays lines of the shop's CSV."""
        path = self.settings.home / "more.csv"
        path.write_text(HEADER + "".join(lines))
        return self.braid(command, str(path), *MAPPED)

    def dagster(self, query: str, **variables: Any) -> Any:
        """What Dagster answers to GraphQL."""
        body = {"query": query, "variables": variables}
        return httpx.post(f"{self.settings.dagster_url}/graphql", json=body, timeout=30).raise_for_status().json()["data"]


def run(project: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestration.cli", "--home", str(home), *arguments, "--json"]
    # The batch compiles what it runs in tests/batch.
    of_java = f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {INTERPRETING}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BRAID_SERVED_SHARE": "1", "JAVA_TOOL_OPTIONS": of_java}
    environment["BRAID_SPEED_TRIGGER_SECONDS"] = "0.5"  # by default it asks Kafka twenty times a second, all the while
    environment.pop("BRAID_PROJECT")  # the project's pyproject.toml names it
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=project, timeout=600)


def braid(project: Path, home: Path, *arguments: str) -> Any:
    done = run(project, home, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Shop]:
    home, source = tmp_path_factory.mktemp("shop"), random.Random(11)
    history = shopping(source, 12_000, BASE, CUT, "h")
    live = shopping(source, 800, CUT, CUT + DAY_MS, "l")
    live += source.sample(history, 20)  # told again by the stream: before the cut, so not counted twice
    misfits = [
        "x1,seven,b,PURCHASE,1,2026-05-02T00:00:00Z\n",
        "x2,7,b,PURCHASE,much,2026-05-02T00:00:00Z\n",
        "x3,7,b,PURCHASE,1,soon\n",
    ]
    (home / "history.csv").write_text(HEADER + "".join(history + misfits))
    (home / "live.csv").write_text(HEADER + "".join(live))
    with duckdb.connect() as connection:
        connection.execute(
            f'COPY (SELECT id AS event_id, customer::BIGINT AS user_id, basket AS session_id, kind AS event_type, total AS amount, "when" AS event_timestamp '
            f"FROM read_csv(['{home}/history.csv', '{home}/live.csv'], all_varchar = true) WHERE id NOT LIKE 'x%') TO '{home}/raw.parquet' (FORMAT parquet)"
        )
    settings, project = Settings.load(home), home / "project"
    (project / "shop").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[tool.braid]\nproject = "shop.definitions:project"\n')
    declared = (ROOT / "tests" / "declarations.py").read_text()
    strict = 'checks=SourceChecks(bounds={"amount": (0, None)}, blocking=frozenset({"bounds"})),'
    declared = declared.replace('    key="user_id",\n', f'    key="user_id",\n    {strict}\n', 1).replace(
        "    Project,\n", "    Project,\n    SourceChecks,\n", 1
    )
    assert strict in declared
    (project / "shop" / "definitions.py").write_text(declared)
    try:
        braid(project, home, "up", "--detach")
        loaded = braid(project, home, "load", str(home / "history.csv"), *MAPPED)
        backfilled = braid(project, home, "backfill", "--to", str(CUT))
        replayed = braid(project, home, "replay", str(home / "live.csv"), "--wait", *MAPPED)
        yield Shop(settings, project, home / "raw.parquet", CUT, list(range(USERS)), loaded, backfilled, replayed)
    finally:
        braid(project, home, "down")
        assert services.process_ids(settings) == []
