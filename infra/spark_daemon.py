"""The process that forks Spark's Python workers: `pyspark.daemon` with two differences.

First, this process imports modules before the fork. Otherwise each worker would import pandas, PyArrow and the modules of braid's tasks, which takes
1 to 2 s of CPU time, and the first rows would wait for it. Spark ends a worker that was idle for a minute, so in a quiet stream an event would wait,
too. Spark itself imports nothing before the fork, because a library may start a thread, which a fork does not copy. Of the libraries here only
Arrow's jemalloc starts a thread, and `import_modules` turns that off.

Second, the garbage collector of a worker skips the imported modules. Spark's worker collects garbage after each task. With the modules of braid's
tasks this would take 100 ms of CPU time, as long as the task of a small micro-batch. `gc.freeze` therefore exempts all objects that exist before the
fork, and all that exist after each of a worker's first tasks.
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
#: The number of tasks after which a worker has imported all modules that it needs.
_FIRST_TASKS = 5
_run_task = daemon.worker
_tasks = count(1)


def worker(sock: socket.socket, authenticated: bool) -> int:
    """Runs a task in a worker. Returns the exit status, as `pyspark.daemon.worker` does."""
    status = _run_task(sock, authenticated)
    if next(_tasks) <= _FIRST_TASKS:
        _freeze()
    return status


def import_modules() -> None:
    """Imports the modules that workers need. The process still has a single thread afterwards."""
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
    # By its name, because the tasks' modules import it: with `__main__` the process would have the module twice.
    import_module("infra.spark_daemon").main()
