"""The warm JVM of a home, with real JVMs: runs take it in turn, each finds it as new, and it ends when its holder or a run in it dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra import gateway
from infra.embedded import services
from infra.embedded.programs import child_environment
from infra.settings import Settings
from tests.waiting import eventually

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
if orders.get("job"):
    def wait(batches):
        Path(settings.home / "working").write_text(str(os.getpid()))
        time.sleep(600)
        yield from batches
    spark.range(1).mapInArrow(wait, "id bigint").collect()
print(json.dumps(answer), flush=True)
if orders.get("stay"):
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A home with a supervisor, and so with a holder, but without services."""
    settings = Settings.load(tmp_path / "a home").model_copy(
        update={"batch_memory": "1g", "spark_master": "local[1]", "warm_jvm_seconds": 120}
    )
    services.up(settings, {}, only=set())
    eventually(lambda: gateway.held(settings.home))
    yield settings
    services.down(settings)
    assert services.process_ids(settings) == []


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


def test_runs_take_the_jvm_in_turn_and_each_finds_it_as_new(home: Settings) -> None:
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
