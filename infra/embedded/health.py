"""Health checks of the services, by a request to each service. Reads only."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
import redis
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.flink.cluster import rest_url
from infra.kafka import connected
from infra.settings import Settings

_TIMEOUT_SECONDS = 5
#: The same as `store.keys.PROGRESS_KEY`; this room does not import `store`.
PROGRESS_KEY = "braid/progress"


def ailment(settings: Settings, name: str, started_seconds: int = 0) -> str | None:
    """Returns the reason why a service is not healthy; None for a healthy service.

    Args:
        settings: The settings that name the services.
        name: One of `infra.embedded.programs.service_names`.
        started_seconds: The start of the process, in Unix seconds. Progress of the speed layer before that does not count.
    """
    try:
        if name == "kafka":
            return _kafka(settings)
        if name == "valkey":
            with _store(settings) as store:
                return None if store.ping() else "it does not answer PING"
        if name == "flink-taskmanager":
            return _taskmanager(settings)
        if name == "speed":
            return _speed(settings, started_seconds)
        if name == "dagster-code":
            socket.create_connection(("127.0.0.1", settings.ports.dagster_code), timeout=2).close()
            return None
        if probe := _PROBES.get(name):
            answer = _http().get(probe(settings))
            return None if answer.is_success else f"it answers {answer.status_code}: {answer.text.strip()[:200]}"
        return None  # the daemon has no address; supervisord checks that it runs
    except (KafkaError, redis.RedisError, httpx.HTTPError, OSError, ValueError) as error:
        return f"it does not answer yet ({str(error) or type(error).__name__})"


def url(settings: Settings, name: str) -> str | None:
    """Returns the address of a service, without a password; None for a service without an address."""
    address = {
        "kafka": settings.kafka_bootstrap, "valkey": settings.redis_url, "mlflow": settings.mlflow_tracking_uri,
        "dagster": settings.dagster_url, "serving": settings.serving_url,
        "data-docs": settings.data_docs_url, "flink-jobmanager": rest_url(settings),
    }.get(name)  # fmt: skip
    if address and "@" in address and "://" in address:
        scheme, rest = address.split("://", 1)
        return f"{scheme}://***@{rest.rsplit('@', 1)[1]}"
    return address


@cache
def _http() -> httpx.Client:
    """Returns the HTTP client of this process, with a new connection for each request.

    The client is made once, because a new client reads the certificates of the authorities, which takes tens of milliseconds.
    """
    return httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def _taskmanager(settings: Settings) -> str | None:
    answer = _http().get(f"{rest_url(settings)}/overview")
    return None if answer.is_success and answer.json()["taskmanagers"] else "the JobManager does not know it yet"


_PROBES: dict[str, Callable[[Settings], str]] = {
    "mlflow": lambda settings: f"{settings.mlflow_tracking_uri.rstrip('/')}/health",
    "dagster": lambda settings: f"{settings.dagster_url}/server_info",
    "serving": lambda settings: f"{settings.serving_url}/readyz",
    "flink-jobmanager": lambda settings: f"{rest_url(settings)}/overview",
    "data-docs": lambda settings: settings.data_docs_url,
}


def _kafka(settings: Settings) -> str | None:
    host, _, port = settings.kafka_bootstrap.split(",")[0].rpartition(":")
    socket.create_connection((host, int(port)), timeout=2).close()  # fails quickly, and without log messages, if nothing listens
    with connected(KafkaAdminClient, settings, request_timeout_ms=_TIMEOUT_SECONDS * 1000) as admin:
        admin.list_topics()
    return None


def _speed(settings: Settings, started_seconds: int) -> str | None:
    with _store(settings) as store:
        entry = store.hget(PROGRESS_KEY, "online")
    if entry is None:
        return "it has not written its progress yet"
    if json.loads(entry)["written_at_ms"] < started_seconds * 1000:
        return "it has written no progress since it started"
    return None


def _store(settings: Settings) -> redis.Redis:
    kind: Any = redis.RedisCluster if settings.redis_cluster else redis.Redis
    # One attempt, because the client would by default try a server that hangs eleven times.
    client: redis.Redis = kind.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
    return client
