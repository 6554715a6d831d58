"""The warm JVM of a home, with real JVMs: runs take it in turn, each finds it as new, and it ends when its holder or a run in it dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra import gateway
from infra.embedded import services
from infra.embedded.programs import child_environment
from infra.settings import Settings
from infra.spark import spark_properties
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(1_200)  # several JVMs start
ROOT = Path(__file__).parents[2]
#: A run: takes its orders from the arguments, and prints one line of JSON.
RUN = """
import json, os, sys, time
from pathlib import Path

from infra import gateway
from infra.settings import Settings
from infra.spark import spark_properties

settings, orders = Settings.load(), json.loads(sys.argv[1])
if orders.get("allowed", True):
    gateway.allow()
spark = gateway.batch_session(settings.home, spark_properties(settings, orders["name"], settings.batch_memory, orders.get("extra")))
java = spark._jvm
table = str(settings.home / "table")
if orders.get("write"):
    spark.range(orders["write"]).write.format("delta").mode("overwrite").save(table)
answer = {
    "pid": java.java.lang.ProcessHandle.current().pid(),
    "name": spark.sparkContext.appName,
    "active": java.org.apache.spark.sql.SparkSession.active().sparkContext().appName(),
    "partitions": spark.conf.get("spark.sql.shuffle.partitions"),
    "left": spark.conf.get("spark.braid.left", "nothing"),
    "views": [view.name for view in spark.catalog.listTables()],
    "rows": spark.read.format("delta").load(table).count(),
}
def of_worker(batches):
    import pyarrow
    names = ("PYTHONPATH", "PYTHONSAFEPATH", "BRAID_PROJECT", "BRAID_HOME", "PYSPARK_PYTHON")
    for batch in batches:
        text = json.dumps({**{name: os.environ.get(name) for name in names}, "folder": os.getcwd()})
        yield pyarrow.RecordBatch.from_pydict({"environment": [text] * batch.num_rows})
answer["worker"] = json.loads(spark.range(1).mapInArrow(of_worker, "environment string").first()[0])
spark.conf.set("spark.braid.left", "something")
spark.range(3).createOrReplaceTempView("left_behind")
print(json.dumps(answer), flush=True)
if orders.get("job"):
    def wait(batches):
        Path(settings.home / "working").write_text(str(os.getpid()))
        time.sleep(600)
        yield from batches
    spark.range(1).mapInArrow(wait, "id bigint").collect()
if orders.get("stay"):
    sys.stdin.read()
"""


@contextmanager
def supervised(folder: Path) -> Iterator[Settings]:
    """A home with a supervisor, and so with a holder, but without services."""
    settings = Settings.load(folder / "a home").model_copy(
        update={"batch_memory": "1g", "spark_master": "local[1]", "warm_jvm_seconds": 1_800}
    )
    try:
        services.up(settings, {}, only=set())
        eventually(lambda: gateway.held(settings.home))
        yield settings
    finally:
        services.down(settings)
    assert services.process_ids(settings) == []


@pytest.fixture
def home(tmp_path: Path, interpreted: None) -> Iterator[Settings]:
    with supervised(tmp_path) as settings:
        yield settings


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory, interpreted: None) -> Iterator[Settings]:
    """A home in which the JVM of a test is that of the test before it."""
    with supervised(tmp_path_factory.mktemp("gateway")) as settings:
        yield settings


def started(settings: Settings, **orders: Any) -> subprocess.Popen[str]:
    """A run as Dagster's code server would start it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **child_environment(settings), **orders.pop("environment", {})}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps({"name": "run", **orders})], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment, cwd=settings.home / "run",
    )  # fmt: skip


def run(settings: Settings, **orders: Any) -> dict[str, Any]:
    """The answer of a run that has ended well."""
    process = started(settings, **orders)
    answer, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(answer)


def ended(pid: int) -> Callable[[], bool]:
    return lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def holder(settings: Settings) -> psutil.Process:
    [pid] = [pid for pid in services.process_ids(settings) if "infra.embedded.warm_jvm" in psutil.Process(pid).cmdline()]
    return psutil.Process(pid)


def test_runs_take_the_jvm_in_turn_and_each_finds_it_as_new(shared_home: Settings) -> None:
    home = shared_home
    assert holder(home).memory_info().rss < 40 * 2**20, "it is light until it has a JVM"
    first = run(home, name="first", write=1_000, extra={"spark.sql.shuffle.partitions": "3"})
    second = run(home, name="first", extra={"spark.sql.shuffle.partitions": "3"})
    assert second["pid"] == first["pid"]
    assert second["rows"] == first["rows"] == 1_000
    assert (second["partitions"], second["left"], second["views"]) == ("3", "nothing", []), "what the first run set is gone"
    assert (first["left"], first["views"]) == ("nothing", [])
    worker = first["worker"]
    assert worker == second["worker"] == run(home, allowed=False)["worker"], "a JVM of its own gives workers the same"
    assert worker["PYTHONPATH"].split(os.pathsep)[-1] == str(ROOT)
    assert (worker["PYTHONSAFEPATH"], worker["PYSPARK_PYTHON"]) == ("1", sys.executable)
    assert (worker["BRAID_PROJECT"], worker["BRAID_HOME"]) == (home.project, str(home.home))
    assert worker["folder"] == str(home.home / "run")
    assert gateway.jvm_path(home.home).stat().st_mode & 0o777 == 0o600


@pytest.mark.long
def test_a_run_that_finds_the_jvm_in_use_or_of_other_settings_starts_its_own(home: Settings) -> None:
    first = started(home, write=10, stay=True)
    assert first.stdout is not None
    used = json.loads(first.stdout.readline())["pid"]
    own = run(home)
    assert own["pid"] != used
    first.communicate("")
    other = run(home.model_copy(update={"batch_memory": "900m"}))
    assert other["pid"] != used
    again = run(home, write=20)
    assert (again["pid"], again["rows"]) == (used, 20)


def test_a_jvm_in_which_a_run_was_killed_ends_with_its_jobs_and_the_next_run_is_right(shared_home: Settings) -> None:
    home = shared_home
    killed = started(home, write=10, job=True)
    assert killed.stdout is not None
    used = json.loads(killed.stdout.readline())["pid"]
    working = home.home / "working"
    worker = int(eventually(lambda: working.exists() and working.read_text()))
    killed.kill()
    killed.wait()
    began = time.monotonic()
    eventually(ended(used), 30)
    eventually(ended(worker), 30)
    assert time.monotonic() - began < 20
    eventually(lambda: gateway.held(home.home))
    third = run(home, write=30)
    assert third["pid"] != used
    assert third["rows"] == 30
    next_pid = run(home)["pid"]
    # The third run has a JVM of its own if the next holder was not there yet.
    assert next_pid == third["pid"] or next_pid == run(home)["pid"] != used, "the next JVM is warm again"


@pytest.mark.long
def test_a_run_that_is_interrupted_gives_the_jvm_back_at_once(home: Settings) -> None:
    interrupted = started(home, write=10, job=True)
    assert interrupted.stdout is not None
    used = json.loads(interrupted.stdout.readline())["pid"]
    eventually((home.home / "working").exists)
    interrupted.send_signal(signal.SIGINT)
    began = time.monotonic()
    interrupted.wait(60)
    assert time.monotonic() - began < 30, "it does not wait for its job"
    after = run(home)
    assert (after["pid"], after["rows"]) == (used, 10)


@pytest.mark.long
def test_the_jvm_ends_with_its_holder(home: Settings) -> None:
    used = run(home, write=10)["pid"]
    first = holder(home)
    first.kill()
    eventually(ended(used), 30)
    eventually(lambda: [pid for pid in services.process_ids(home) if pid != first.pid] and gateway.held(home.home), 60)
    assert not gateway.jvm_path(home.home).exists()
    second = run(home)
    assert second["pid"] != used
    services.down(home)
    assert ended(second["pid"])()
    assert run(home, write=20)["rows"] == 20, "without a holder a run starts its own"


@pytest.mark.long
def test_an_unused_jvm_ends_and_frees_its_memory(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path / "idle").model_copy(
        update={"batch_memory": "1g", "spark_master": "local[1]", "warm_jvm_seconds": 3}
    )
    try:
        services.up(settings, {}, only=set())
        eventually(lambda: gateway.held(settings.home))
        used = run(settings, write=10)["pid"]
        eventually(ended(used), 60)
        eventually(lambda: gateway.held(settings.home) and holder(settings).memory_info().rss < 40 * 2**20, 60)
    finally:
        services.down(settings)


def test_an_old_jvm_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "spark").mkdir()
    young = gateway.Jvm("the same", os.getpid(), 1, "secret", time.time())
    gateway.publish(tmp_path, young)
    lease = gateway.Lease.take(tmp_path, "the same")
    assert lease is not None
    assert gateway.Lease.take(tmp_path, "the same") is None, "it is in use"
    lease.abandon()
    assert gateway.Lease.take(tmp_path, "the same") is None, "it is marked"
    gateway.publish(tmp_path, gateway.Jvm("the same", os.getpid(), 1, "secret", time.time() - gateway.MAX_AGE_SECONDS - 1))
    assert gateway.Lease.take(tmp_path, "the same") is None
    gateway.publish(tmp_path, young)
    assert gateway.Lease.take(tmp_path, "another") is None


def test_what_shapes_a_jvm_is_in_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {"spark.master": "local[1]", "spark.app.name": "a", "spark.sql.shuffle.partitions": "4"}
    same = gateway.identity(properties)
    assert gateway.identity({**properties, "spark.app.name": "b", "spark.sql.shuffle.partitions": "8"}) == same
    assert gateway.identity({**properties, "spark.master": "local[2]"}) != same
    for name in ("AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "SPARK_LOCAL_DIRS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "another")
            assert gateway.identity(properties) != same, name


def test_a_command_of_the_shell_may_use_the_jvm_of_the_services(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    properties = spark_properties(settings, "a", "1g")
    of_the_shell = gateway.identity(properties)
    for name, value in child_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert gateway.identity(properties) == of_the_shell, "a command of the shell has fewer variables than a service"
