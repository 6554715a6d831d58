"""The process that forks Spark's Python workers: Spark's own, but that a worker looks at its modules for garbage no more than a few times.

Spark's worker collects garbage behind each task. With the modules that braid's tasks import that takes 100 ms of CPU time, as long as the task of a small micro-batch,
and the next task waits for it. What is there after the first tasks, mostly these modules, is taken out of the collection here.
"""

from __future__ import annotations

import gc
import socket
from itertools import count

from pyspark import daemon

#: Tasks until a worker has imported what it needs.
_FIRST_TASKS = 5
_run_task = daemon.worker
_tasks = count(1)


def worker(sock: socket.socket, authenticated: bool) -> int:
    """Runs a task in a worker; gives its exit status, as `pyspark.daemon.worker`."""
    status = _run_task(sock, authenticated)
    if next(_tasks) <= _FIRST_TASKS:
        gc.collect()
        gc.freeze()
    return status


daemon.worker = worker

if __name__ == "__main__":
    daemon.manager()
