"""The embedded stack: up, down, status. Every part is the real one; what is configured elsewhere is only asked for its health."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import redis
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from infra.errors import ServiceError
from infra.programs import programs
from infra.settings import Settings
from infra.supervision import Supervisor

#: Called with a service's name and "starting" or "healthy".
Progress = Callable[[str, str], None]
NAMES = ("kafka", "valkey", "mlflow", "speed", "serving", "dagster", "dagster-daemon")


@dataclass(frozen=True)
class ServiceStatus:
    """How a service is.

    `state` is supervisord's (RUNNING, STOPPED, FATAL, …), "EXTERNAL" for one that this deployment does not run, "DOWN" for none.
    """

    name: str
    state: str
    healthy: bool
    pid: int | None
    url: str | None


def up(settings: Settings, topics: Mapping[str, int], only: Collection[str] | None = None, on_progress: Progress | None = None,
       timeout_seconds: float = 180) -> None:  # fmt: skip
    """Starts what does not run and returns when all is healthy. Safe to call again.

    Args:
        settings: The deployment.
        topics: Kafka topics to create, with their number of partitions.
        only: Start these services alone.
        on_progress: Told of each step.
        timeout_seconds: How long a stage may take.

    Raises:
        ServiceError: A service ends or does not get healthy; names its log.
    """
    supervisor = Supervisor(settings)
    wanted = [program for program in programs(settings) if only is None or program.name in only]
    _refuse_taken_ports(settings, supervisor, [program.name for program in wanted])
    supervisor.launch(programs(settings))
    say = on_progress or (lambda name, state: None)
    for stage in (0, 1):
        names = [program.name for program in wanted if program.stage == stage]
        for name in names:
            say(name, "starting")
            supervisor.start(name)
        _wait_healthy(settings, supervisor, names, say, timeout_seconds)
        if stage == 0 and topics and (only is None or "kafka" in only):
            create_topics(settings, topics)


def down(settings: Settings) -> None:
    """Ends every process of the home; nothing is left. Safe to call again."""
    Supervisor(settings).shutdown()


def kill(settings: Settings, name: str) -> None:
    """SIGKILLs a service with its children; supervisord starts it again."""
    info = next((info for info in Supervisor(settings).states() if info["name"] == name and info["pid"]), None)
    if info:
        process = psutil.Process(info["pid"])
        for one in [*process.children(recursive=True), process]:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                pass


def status(settings: Settings) -> list[ServiceStatus]:
    """How each service is, checked now."""
    states = {info["name"]: info for info in Supervisor(settings).states()}
    own = {program.name for program in programs_names(settings)}
    result = []
    for name in NAMES:
        info = states.get(name)
        state = "EXTERNAL" if name not in own else info["statename"] if info else "DOWN"
        running = state in ("EXTERNAL", "RUNNING")
        pid = info["pid"] or None if info else None
        result.append(ServiceStatus(name, state, running and is_healthy(settings, name, pid), pid, _url(settings, name)))
    return result


def is_healthy(settings: Settings, name: str, pid: int | None = None) -> bool:
    """Whether the service does its work, asked of itself."""
    try:
        if name == "kafka":
            admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, request_timeout_ms=5_000)
            try:
                admin.list_topics()
            finally:
                admin.close()
            return True
        if name == "valkey":
            return bool(redis.Redis.from_url(settings.redis_url, socket_timeout=2).ping())
        if name == "speed":
            raw = redis.Redis.from_url(settings.redis_url, socket_timeout=2).hget("braid:speed", "online")
            return raw is not None and (pid is None or json.loads(raw).get("pid") == pid)  # type: ignore[arg-type]
        if name == "dagster-daemon":
            return True  # supervisord sees that it runs; it answers no request
        path = {"mlflow": "/health", "dagster": "/server_info", "serving": "/livez"}[name]
        return httpx.get(f"{_url(settings, name)}{path}", timeout=5).is_success
    except (KafkaError, redis.RedisError, httpx.HTTPError, OSError, ValueError):
        return False


def create_topics(settings: Settings, topics: Mapping[str, int]) -> None:
    """Creates the topics that do not exist."""
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    try:
        missing = {name: {"num_partitions": n} for name, n in topics.items() if name not in admin.list_topics()}
        if missing:
            admin.create_topics(missing)
    except TopicAlreadyExistsError:
        pass
    finally:
        admin.close()


def programs_names(settings: Settings) -> list:  # type: ignore[type-arg]
    """The programs of this deployment, without side effects where it has never been up."""
    return programs(settings) if (settings.home / "supervisord.conf").exists() else []


def _url(settings: Settings, name: str) -> str | None:
    return {
        "kafka": settings.kafka_bootstrap, "valkey": settings.redis_url, "mlflow": settings.mlflow_tracking_uri,
        "dagster": settings.dagster_url, "serving": settings.serving_url,
    }.get(name)  # fmt: skip


def _wait_healthy(settings: Settings, supervisor: Supervisor, names: list[str], say: Progress, timeout_seconds: float) -> None:
    waiting, deadline = list(names), time.monotonic() + timeout_seconds
    while waiting:
        states = {info["name"]: info for info in supervisor.states()}
        for name in list(waiting):
            info = states.get(name, {"statename": "DOWN", "pid": 0})
            if info["statename"] == "RUNNING" and is_healthy(settings, name, info["pid"]):
                say(name, "healthy")
                waiting.remove(name)
            elif info["statename"] in ("FATAL", "EXITED", "DOWN") or time.monotonic() > deadline:
                log = supervisor.log_path(name)
                happened = "ends at once" if info["statename"] == "FATAL" else f"did not get healthy ({info['statename']})"
                raise ServiceError(f"{name} {happened}; its log ends: {_last_lines(log)}", f"See {log}.")
        time.sleep(0.2)


def _refuse_taken_ports(settings: Settings, supervisor: Supervisor, names: Collection[str]) -> None:
    own = {process.pid for process in supervisor.processes()}
    ports = {getattr(settings.ports, name): name for name in names if hasattr(settings.ports, name)}
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS lets only root look; the service itself will say so then
        return
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports and connection.pid not in own:
            raise ServiceError(
                f"Port {connection.laddr.port}, which {ports[connection.laddr.port]} needs, is taken by process {connection.pid}.",
                f"End that process, or delete {settings.home / 'ports.json'} to choose other ports.",
            )


def _last_lines(path: Path, n: int = 5) -> str:
    try:
        return " | ".join(path.read_text(errors="replace").splitlines()[-n:])
    except OSError:
        return "(no log)"
