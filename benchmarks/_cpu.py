"""The CPU time of a process and its children (JVM, Python workers). Unlike wall-clock time it hardly depends on other load."""

from __future__ import annotations

import psutil


def cpu_seconds(pid: int | None = None) -> float:
    """Returns the user and system time in seconds of a process, by default this process, and of its children since their start.

    A child that has ended counts if its parent has waited for it.
    """
    used, parent = 0.0, psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used
