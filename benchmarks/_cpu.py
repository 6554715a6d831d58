"""The CPU time of a process and its children (JVM, Python workers). Unlike wall-clock time it hardly depends on other load."""

from __future__ import annotations

import psutil


def cpu_seconds(pid: int | None = None) -> float:
    """The user and system time of a process, this one by default, and its children since their start; an ended child counts if its parent waited for it."""
    used, parent = 0.0, psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used
