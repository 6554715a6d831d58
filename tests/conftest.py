"""What the slow tests share: one Spark session, one home, one store per worker. Every part is the real one.

`make test` runs two workers (pytest-xdist). Tests that share a deployment run on one of them: those of a file, and those of a folder that
`_SHARED` names. The files that take longest come first, so that the workers end at about the same time.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx._transports.default as transports
import hypothesis
import psutil
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from infra import ports
from infra.settings import Settings
from tests.codegen import COMPILED, INTERPRETED, INTERPRETING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# How long an example takes says something about the machine alone.
hypothesis.settings.register_profile("braid", deadline=None)
hypothesis.settings.load_profile("braid")
# As `models` has it; tests import MLflow first.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


#: The Java option that leaves the optimizing compiler out.
_NOT_OPTIMIZING = "-XX:TieredStopAtLevel=1"
#: Folders of which all tests share one deployment.
_SHARED = ("tests/end_to_end/",)
#: What takes minutes, the longest first.
_LONGEST = (
    "tests/end_to_end/",
    "tests/test_automation",
    "tests/test_wheel",
    "tests/test_two_sources",
    "tests/orchestration/test_repair",
    "tests/orchestration/test_forget",
    "tests/speed/",
    "tests/batch/",
    "tests/serving/",
    "tests/monitoring/",
)


class ByDeployment(LoadScopeScheduling):
    """Gives a worker all tests of a deployment."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in _SHARED if nodeid.startswith(folder)), nodeid.split("::", maxsplit=1)[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByDeployment:
    config.option.loadscopereorder = False  # the order is that of `pytest_collection_modifyitems`
    return ByDeployment(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest first."""

    def place(item: pytest.Item) -> int:
        return next((place for place, start in enumerate(_LONGEST) if item.nodeid.startswith(start)), len(_LONGEST))

    items.sort(key=place)
    for item in items:
        if place(item) < _LONGEST.index("tests/batch/") and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1_800))  # the first test of a deployment pays for its start


@pytest.fixture(scope="session", autouse=True)
def _port_claims(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[None]:
    """Homes of tests take ports of their own, and leave the well-known ones to the user's and to other runs of the tests."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")  # gw0, gw1, …
    run = os.getppid() if worker else os.getpid()
    claims = tmp_path_factory.getbasetemp().parent / "ports" if worker else tmp_path_factory.mktemp("ports")
    first = 15_000 + run % 500 * 10 + 5_000 * (int(worker[2:]) % 3 if worker else 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAID_PORT_CLAIMS", str(claims))
        for offset, name in enumerate(ports.PREFERRED):
            patch.setitem(ports.PREFERRED, name, first + offset)
        if pytestconfig.option.markexpr != "long":
            # Most Javas of the tests end before the optimizing compiler has saved the CPU time that it takes, a tenth of all. Without it
            # Java reserves 48 MB for compiled code. Spark fills them, and Java then drops code that it soon compiles again: another tenth.
            options = f"{_NOT_OPTIMIZING} -XX:ReservedCodeCacheSize=240m"
            patch.setenv("JAVA_TOOL_OPTIONS", f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {options}".strip())
        # With this variable, each process of a test would compile the modules of braid anew. `make setup` has compiled those of the packages.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setattr(sys, "dont_write_bytecode", False)
        # The same for the services and for the commands that a test runs, which then share the warm JVM.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        # Each call of httpx.get or httpx.post reads the certificates of authorities, which takes 50 ms of CPU time.
        patch.setattr(transports, "create_ssl_context", cache(transports.create_ssl_context))
        # By its path: a library may have a package of the name `tests`.
        patch.setenv("BRAID_PROJECT", f"{Path(__file__).with_name('declarations.py')}:project")
        yield


@pytest.fixture(scope="module")
def interpreted(_port_claims: None) -> Iterator[None]:
    """Spark of a module's deployment interprets its plans, as `spark` does; that of tests/speed compiles them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {INTERPRETING}")
        yield


@pytest.fixture(scope="session")
def settings(_port_claims: None, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A deployment of the test session's own."""
    return Settings.load(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def spark(settings: Settings) -> Iterator[SparkSession]:
    """The one batch session of this process."""
    from infra.spark import spark_session

    # On a few thousand rows, to plan anew between stages and a third and fourth partition cost more than they bring.
    few_rows = {
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        # This Java lives long enough to gain from its optimizing compiler.
        patch.setenv("JAVA_TOOL_OPTIONS", os.environ.get("JAVA_TOOL_OPTIONS", "").replace(_NOT_OPTIMIZING, ""))
        session = spark_session(settings, "braid tests", "1g", few_rows | INTERPRETED)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def compiling(spark: SparkSession) -> Callable[[], AbstractContextManager[None]]:
    """A context in which Spark compiles expressions, as in a batch."""

    @contextmanager
    def context() -> Iterator[None]:
        for name, value in COMPILED.items():
            spark.conf.set(name, value)
        try:
            yield
        finally:
            for name, value in INTERPRETED.items():
                spark.conf.set(name, value)

    return context


@pytest.fixture(scope="module")
def compiled(compiling: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """The expressions of a module's tests are compiled."""
    with compiling():
        yield


@pytest.fixture
def lake(settings: Settings, tmp_path: Path) -> Settings:
    """The deployment with an empty lake of the test's own."""
    return settings.model_copy(update={"lake_uri": str(tmp_path / "lake"), "home": tmp_path})


@pytest.fixture(scope="session")
def valkey(settings: Settings) -> Iterator[Settings]:
    """The deployment with its online store running."""
    from infra.embedded.services import down, up

    up(settings, {}, only={"valkey"})
    yield settings
    down(settings)


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Copies a registry of MLflow on SQLite without models into a folder; gives its URI. To make its tables takes 5 s of CPU time, to copy it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return lambda folder: f"sqlite:///{shutil.copy(path, folder)}"


@pytest.fixture
def kill_workers() -> Callable[[Settings], int]:
    """SIGKILLs the processes of a deployment's Dagster runs; gives how many."""

    def kill(settings: Settings) -> int:
        killed = 0
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
                if ("execute_run" in command or "multiprocessing" in command) and process.environ().get("DAGSTER_HOME") == str(
                    settings.home / "dagster"
                ):
                    process.kill()
                    killed += 1
            except psutil.Error:
                continue
        return killed

    return kill
