"""CPU time: what this process and its children, JVM and Python workers, have used; it depends little on what else the machine does."""

from __future__ import annotations

import psutil


def cpu_seconds() -> float:
    """User and system time of all of them since they started, those that have ended counted where their parent has waited for them."""
    used = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used
