"""The checks of `braid doctor`: whether this machine can run braid, and whether the running services are healthy. Changes nothing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from infra.embedded.programs import programs
from infra.embedded.services import port_is_free, process_ids, status
from infra.embedded.supervision import Supervisor
from infra.errors import BraidError
from infra.jars import KAFKA, SPARK
from infra.java import find_java
from infra.kafka import producer_timed_topics
from infra.settings import Settings

_DISK_GB, _MEMORY_GB = 5, 6


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        name: The name of the check.
        ok: Whether the check has passed.
        detail: The state, in words.
        cure: What to do; empty if the check has passed.
    """

    name: str
    ok: bool
    detail: str
    cure: str = ""


def doctor(settings: Settings, topics: Iterable[str] = ()) -> list[Check]:
    """Runs all checks: of the machine, of the services, and of the `topics` of events."""
    machine = [_python(), _java(), *_jars(settings), _disk(settings), _memory(), *_ports(settings)]
    return [*machine, *_services(settings), *_record_times(settings, topics)]


def _python() -> Check:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check("Python", fits, version, "" if fits else "Use Python 3.11, 3.12 or 3.13 and run `make setup`.")


def _java() -> Check:
    try:
        return Check("Java", True, str(find_java()))
    except BraidError as error:
        return Check("Java", False, error.cause, error.cure)


def _jars(settings: Settings) -> list[Check]:
    checks = []
    for wanted in (KAFKA, SPARK):
        count = len(list(wanted.folder(settings.cache_dir).glob("*.jar")))
        checks.append(
            Check(
                f"JARs of {wanted.name}",
                count > 0,
                f"{count} in {settings.cache_dir}",
                "" if count else "`braid up` downloads them.",
            )
        )
    return checks


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
        return []  # the services of this home use the ports
    cure = f"End the program that uses the port, or delete {settings.home / 'ports.json'}; other ports are then chosen."
    taken = [(program.name, port) for program in programs(settings) for port in program.ports if not port_is_free(port)]
    if not taken:
        return [Check("ports", True, "all free")]
    return [Check("ports", False, f"port {port} of {name} is taken by another program", cure) for name, port in taken]


def _services(settings: Settings) -> list[Check]:
    statuses = status(settings)
    if all(service.state == "STOPPED" for service in statuses):
        return [Check("services", True, "no service runs")]
    return [
        Check(service.name, service.healthy or service.state == "STOPPED", f"{service.state}: {service.detail}",
              "" if service.healthy or service.state == "STOPPED" else f"See {settings.home / 'logs' / service.name}.log, or run `braid down` and `braid up`.")
        for service in statuses
    ]  # fmt: skip


def _record_times(settings: Settings, topics: Iterable[str]) -> list[Check]:
    """Checks that the time of each record is its arrival by the broker's clock."""
    kafka = Supervisor(settings).infos().get("kafka")
    if "kafka" in settings.embedded and (kafka is None or kafka.state != "RUNNING"):
        return []  # a client would try for half a minute; `_services` reports a broker that should run
    try:
        others = producer_timed_topics(settings, topics)
    except BraidError as error:
        return [Check("record times", False, error.cause, error.cure)]
    cure = f"Set message.timestamp.type=LogAppendTime for {', '.join(others)}: with a wrong clock of a producer, good events may be refused."
    return [
        Check(
            "record times",
            not others,
            f"by the producers' clocks for {', '.join(others)}" if others else "by the brokers' clocks",
            cure if others else "",
        )
    ]
