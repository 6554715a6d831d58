"""The CPU time of this process and its children (JVM, Python workers). Unlike wall-clock time it hardly depends on other load."""

from __future__ import annotations

import psutil


def cpu_seconds() -> float:
    """The user and system time of this process and its children since their start; an ended child counts if its parent waited for it."""
    used = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used
