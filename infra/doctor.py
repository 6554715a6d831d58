"""What `braid doctor` says: whether this machine can run braid, and whether what runs is well. Changes nothing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from infra.embedded.programs import programs
from infra.embedded.services import port_is_free, process_ids, status
from infra.errors import BraidError
from infra.jars import KAFKA, SPARK
from infra.java import find_java
from infra.kafka import producer_timed_topics
from infra.settings import Settings

_DISK_GB, _MEMORY_GB = 5, 6


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What.
        ok: Whether braid can work with it.
        detail: What was found.
        cure: What to do; empty where it is well.
    """

    name: str
    ok: bool
    detail: str
    cure: str = ""


def doctor(settings: Settings, topics: Iterable[str] = ()) -> list[Check]:
    """All checks, the ground first; `topics` are those of events."""
    ground = [_python(), _java(), *_jars(settings), _disk(settings), _memory(), *_ports(settings)]
    return [*ground, *_services(settings), *_record_times(settings, topics)]


def _python() -> Check:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Check("Python", fits, found, "" if fits else "Use Python 3.11, 3.12 or 3.13 and run `make setup`.")


def _java() -> Check:
    try:
        return Check("Java", True, str(find_java()))
    except BraidError as error:
        return Check("Java", False, error.cause, error.cure)


def _jars(settings: Settings) -> list[Check]:
    found = []
    for wanted in (KAFKA, SPARK):
        count = len(list(wanted.folder(settings.cache_dir).glob("*.jar")))
        found.append(
            Check(
                f"JARs of {wanted.name}",
                count > 0,
                f"{count} in {settings.cache_dir}",
                "" if count else "`braid up` downloads them.",
            )
        )
    return found


def _disk(settings: Settings) -> Check:
    free = shutil.disk_usage(settings.home).free / 2**30
    fits = free >= _DISK_GB
    return Check(
        "disk", fits, f"{free:.0f} GiB free in {settings.home}", "" if fits else f"Free {_DISK_GB} GiB, or choose another home."
    )


def _memory() -> Check:
    free = psutil.virtual_memory().available / 2**30
    fits = free >= _MEMORY_GB
    cure = f"The demo needs about {_MEMORY_GB} GiB; end other programs, or lower BRAID_BATCH_MEMORY and BRAID_SPEED_MEMORY."
    return Check("memory", fits, f"{free:.1f} GiB available", "" if fits else cure)


def _ports(settings: Settings) -> list[Check]:
    if process_ids(settings):
        return []  # they are taken, and should be; the services' own checks say the rest
    cure = f"End the program that has it, or delete {settings.home / 'ports.json'} so that other ports are chosen."
    taken = [(program.name, port) for program in programs(settings) for port in program.ports if not port_is_free(port)]
    if not taken:
        return [Check("ports", True, "all free")]
    return [Check("ports", False, f"port {port} of {name} is taken by another program", cure) for name, port in taken]


def _services(settings: Settings) -> list[Check]:
    found = status(settings)
    if all(one.state == "STOPPED" for one in found):
        return [Check("services", True, "none runs")]
    return [
        Check(one.name, one.healthy or one.state == "STOPPED", f"{one.state}: {one.detail}",
              "" if one.healthy or one.state == "STOPPED" else f"See {settings.home / 'logs' / one.name}.log, or run `braid down` and `braid up`.")
        for one in found
    ]  # fmt: skip


def _record_times(settings: Settings, topics: Iterable[str]) -> list[Check]:
    """Whether the brokers' clocks say when a message arrived."""
    if "kafka" in settings.embedded and not process_ids(settings):
        return []
    try:
        others = producer_timed_topics(settings, topics)
    except BraidError as error:
        return [Check("record times", False, error.cause, error.cure)]
    cure = f"Set message.timestamp.type=LogAppendTime for {', '.join(others)}: a producer's clock can refuse good events, or let bad ones pass."
    return [
        Check(
            "record times",
            not others,
            f"the producers' for {', '.join(others)}" if others else "the brokers'",
            cure if others else "",
        )
    ]
