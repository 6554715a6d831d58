"""The process that forks Spark's Python workers: Spark's own, with two differences.

Modules are imported before the fork. Each worker of Spark imports pandas and PyArrow, and then what braid's tasks need: 1 to 2 s of CPU time, and the first rows wait for
it. Spark ends a worker that was idle for a minute, so in a quiet stream an event would wait as well. Spark imports nothing before the fork because a library may start a
thread, which a fork does not copy. Of these libraries only Arrow's jemalloc does, and it is told not to.

A worker looks at its modules for garbage no more than a few times. Spark's worker collects garbage behind each task, which with the modules of braid's tasks takes 100 ms of
CPU time, as long as the task of a small micro-batch. What is there before the fork and after the first tasks is taken out of the collection.
"""

from __future__ import annotations

import gc
import os
import socket
from importlib import import_module
from itertools import count

from pyspark import daemon

#: The environment variable with the modules of the tasks, separated by commas.
MODULES = "BRAID_WORKER_MODULES"
_LIBRARIES = ("pyspark.worker", "pandas", "pyarrow.compute")
#: Tasks until a worker has imported what it needs.
_FIRST_TASKS = 5
_run_task = daemon.worker
_tasks = count(1)


def worker(sock: socket.socket, authenticated: bool) -> int:
    """Runs a task in a worker; gives its exit status, as `pyspark.daemon.worker`."""
    status = _run_task(sock, authenticated)
    if next(_tasks) <= _FIRST_TASKS:
        _freeze()
    return status


def import_modules() -> None:
    """Imports what workers need. The process still has one thread afterwards."""
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    for name in (*_LIBRARIES, *filter(None, os.environ.get(MODULES, "").split(","))):
        import_module(name)
    _freeze()


def _freeze() -> None:
    gc.collect()
    gc.freeze()


def main() -> None:
    """Forks workers until Spark ends."""
    daemon.worker = worker
    import_modules()
    daemon.manager()


if __name__ == "__main__":
    import_module("infra.spark_daemon").main()  # by the name that modules of the tasks import, so that it is there once
