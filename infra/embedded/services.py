"""The embedded stack of a home: starts, ends and restarts its services, and reports their health.

The services are the real ones (Apache Kafka, Valkey, MLflow, …). A service whose address the settings name is external: braid only
checks its health. `up` takes Kafka's topics as an argument, because this room does not import the project's declarations.
"""

from __future__ import annotations

import fcntl
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.embedded.health import ailment, url
from infra.embedded.programs import Program, programs, service_names
from infra.embedded.supervision import Info, Supervisor
from infra.errors import ServiceError
from infra.kafka import create_topics
from infra.settings import Settings

#: A callback with a service's name and its step, "starting" or "healthy". After the creation of Kafka's topics it gets "topics" and "created".
Progress = Callable[[str, str], None]
_ENDED = ("BACKOFF", "EXITED", "FATAL", "STOPPED", "STOPPING")


@dataclass(frozen=True)
class ServiceStatus:
    """The status of a service.

    Attributes:
        name: One of `infra.embedded.programs.service_names`.
        state: The state in supervisord (RUNNING, STARTING, STOPPED, BACKOFF, FATAL, …); EXTERNAL for a service that braid does not run.
        pid: The id of its process; None if no process runs, or if the service is external.
        url: The address of the service; None if it has no address.
        healthy: Whether the health check has just succeeded.
        detail: The uptime, or the reason why the service is not healthy.
    """

    name: str
    state: str
    pid: int | None
    url: str | None
    healthy: bool
    detail: str


def up(
    settings: Settings,
    topics: Mapping[str, int],
    only: Collection[str] | None = None,
    on_progress: Progress | None = None,
    timeout_seconds: float = 300,
) -> None:
    """Starts the services that do not run, and returns when all services are healthy. A second call changes nothing.

    Each service is started as soon as the services that it needs are healthy. If this call started supervisord and then fails, it
    ends supervisord and all services.

    Args:
        settings: The settings of the deployment.
        topics: Topic → number of partitions, for the Kafka topics to create.
        only: The services to start; by default all services.
        on_progress: Called at each step.
        timeout_seconds: The longest time that a service may take to become healthy.

    Raises:
        ServiceError: A port is taken, or a service ends or does not become healthy; the error contains the last lines of its log.
    """
    report = on_progress or (lambda name, step: None)
    supervisor = Supervisor(settings)
    with _alone(settings):
        launched = supervisor.launch(programs(settings))
        try:
            _start(settings, supervisor, topics, only, report, timeout_seconds)
        except BaseException:
            if launched:
                supervisor.shutdown()
            raise


def down(settings: Settings) -> None:
    """Ends every process of the home, also orphans of a supervisor that was killed. A second call changes nothing."""
    Supervisor(settings).shutdown()


def status(settings: Settings) -> list[ServiceStatus]:
    """Returns the status of each service, checked now."""
    infos = Supervisor(settings).infos()
    own = {program.name for program in programs(settings)}
    statuses = []
    for name in service_names(settings):
        info = infos.get(name) if name in own else None
        state = "EXTERNAL" if name not in own else info.state if info else "STOPPED"
        if state in ("EXTERNAL", "RUNNING", "STARTING"):
            wrong = ailment(settings, name, info.start_seconds if info else 0)
        else:
            wrong = info.description if info and info.description else "not started"
        detail = wrong or (info.description if info else "answers")
        statuses.append(ServiceStatus(name, state, info.pid if info else None, url(settings, name), wrong is None, detail))
    return statuses


def restart(settings: Settings, name: str) -> None:
    """Ends a service, starts it again and waits until it is healthy.

    Raises:
        ServiceError: The service is external, or it does not become healthy.
    """
    supervisor = Supervisor(settings)
    _info(supervisor, settings, name)
    supervisor.stop([name])
    supervisor.start(name)
    wait_healthy(settings, [name])


def kill(settings: Settings, name: str) -> None:
    """Kills a service and all its children by SIGKILL, and returns when supervisord has started the service again. For tests of faults.

    Raises:
        ServiceError: The service does not run.
    """
    supervisor = Supervisor(settings)
    before = _info(supervisor, settings, name)
    if before.pid is None:
        raise ServiceError(f"The service {name} does not run ({before.state}).", "Run `braid up`.")
    for process in [psutil.Process(before.pid), *supervisor.processes(of=name)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    while (now := _info(supervisor, settings, name)).pid in (before.pid, None) and now.state not in ("FATAL", "STOPPED"):
        time.sleep(0.05)


def process_ids(settings: Settings) -> list[int]:
    """Returns the ids of all processes of the home: the supervisor, the services, and their children."""
    return sorted(process.pid for process in Supervisor(settings).processes())


def wait_healthy(settings: Settings, names: Collection[str], timeout_seconds: float = 300) -> None:
    """Returns when the services are healthy. External services are checked too.

    Raises:
        ServiceError: A service ends, or does not become healthy within `timeout_seconds`.
    """
    supervisor = Supervisor(settings)
    own = {program.name for program in programs(settings)}
    watches = [_Watch(settings, supervisor, name, timeout_seconds, name in own) for name in names]
    while watches:
        for watch in list(watches):
            if watch.healthy():
                watches.remove(watch)
        time.sleep(0.1 if watches else 0)


def _start(
    settings: Settings,
    supervisor: Supervisor,
    topics: Mapping[str, int],
    only: Collection[str] | None,
    report: Progress,
    timeout_seconds: float,
) -> None:
    own = {program.name: program for program in programs(settings)}
    names = service_names(settings)
    wanted = [name for name in names if only is None or name in only]
    if strangers := [name for name in only or () if name not in names]:
        raise ServiceError(f"There is no service {strangers[0]}.", f"The services are {', '.join(names)}.")
    waiting, watches, done = list(wanted), list[_Watch](), set[str]()
    while waiting or watches:
        for name in list(waiting):
            needs = {need for need in own[name].after if need in wanted} if name in own else set()
            if needs <= done:
                waiting.remove(name)
                if name in own:
                    report(name, "starting")
                    _start_one(settings, supervisor, own[name])
                watches.append(_Watch(settings, supervisor, name, timeout_seconds, name in own))
        for watch in list(watches):
            if watch.healthy():
                watches.remove(watch)
                report(watch.name, "healthy")
                if watch.name == "kafka" and topics:
                    create_topics(settings, topics)
                    report("topics", "created")
                done.add(watch.name)
        time.sleep(0.1 if watches else 0)


def _start_one(settings: Settings, supervisor: Supervisor, program: Program) -> None:
    info = supervisor.infos().get(program.name)
    if info is not None and info.state in ("RUNNING", "STARTING"):
        return
    for orphan in supervisor.processes(of=program.name):  # children of a service that has ended; they may still use its port
        try:
            orphan.kill()
        except psutil.NoSuchProcess:
            continue
    for port in program.ports:
        _refuse_taken(port, program.name, settings)
    if program.prepare:
        program.prepare(settings)
    supervisor.start(program.name)


class _Watch:
    """Watches a service from its start until it is healthy."""

    def __init__(self, settings: Settings, supervisor: Supervisor, name: str, timeout_seconds: float, supervised: bool) -> None:
        self.name = name
        self._settings, self._supervisor, self._supervised = settings, supervisor, supervised
        self._timeout_seconds, self._deadline = timeout_seconds, time.monotonic() + timeout_seconds
        self._pid: int | None = None

    def healthy(self) -> bool:
        """Returns whether the service is healthy now.

        Raises:
            ServiceError: The service ended, or `timeout_seconds` have passed.
        """
        info = self._supervisor.infos().get(self.name) if self._supervised else None
        if self._supervised:
            if info is None:
                raise ServiceError(f"The supervisor ended while {self.name} was starting.", "Run `braid up` again.")
            self._pid = self._pid or info.pid
            if info.state in _ENDED or info.pid != self._pid:
                raise self._error(f"The service {self.name} ended before it was healthy ({info.description or info.state})")
        wrong = ailment(self._settings, self.name, info.start_seconds if info else 0)
        if wrong is None and (info is None or info.state == "RUNNING"):
            return True
        if time.monotonic() > self._deadline:
            where = f" at {url(self._settings, self.name)}" if url(self._settings, self.name) else ""
            raise self._error(
                f"The service {self.name}{where} is not healthy after {self._timeout_seconds:.0f} s: {wrong or 'it is still starting'}"
            )
        return False

    def _error(self, cause: str) -> ServiceError:
        if not self._supervised:
            return ServiceError(f"{cause}.", "Check the address in the environment, and check that the service runs.")
        log = self._supervisor.log_path(self.name)
        lines = last_lines(log)
        return ServiceError(
            f"{cause}; its log ends:\n{lines}\n" if lines else f"{cause} and wrote no log.", f"The whole log is {log}."
        )


def last_lines(log: Path) -> str:
    """Returns the last eight lines of a log, without blank lines; empty if the log does not exist."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return "\n".join(f"  {line[:300]}" for line in lines[-8:])


def _info(supervisor: Supervisor, settings: Settings, name: str) -> Info:
    info = supervisor.infos().get(name)
    if info is None:
        raise ServiceError(f"The home {settings.home} does not run the service {name}.", "See `braid status`, or run `braid up`.")
    return info


def _refuse_taken(port: int, name: str, settings: Settings) -> None:
    if port_is_free(port):
        return
    try:
        holders = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
        ]
        who = f"{psutil.Process(holders[0]).name()}, process {holders[0]}" if holders else "another program"
    except psutil.Error:
        who = "another program"  # macOS shows the owner of a port to root only
    raise ServiceError(
        f"Port {port}, which {name} needs, is taken by {who}.",
        f"End that program, or delete {settings.home / 'ports.json'} while no service of this home runs; other ports are then chosen.",
    )


def port_is_free(port: int) -> bool:
    """Returns whether a service can listen on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the previous run may be in TIME_WAIT
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    with socket.socket() as probe:  # a second check, because some systems let two programs bind the same port
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Runs a block that only one process per home enters at a time: a second `up` waits for the first."""
    folder = settings.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
