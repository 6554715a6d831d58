"""Whether a service does its work: asked of the service itself, not of its process. Reads only."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import redis
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from infra.kafka import client_options
from infra.settings import Settings

_TIMEOUT_SECONDS = 5
#: `store.keys.PROGRESS_KEY`: this room imports no other, and must ask the server itself whether it answers.
PROGRESS_KEY = "braid/progress"


def ailment(settings: Settings, name: str, started_seconds: int = 0) -> str | None:
    """What is wrong with a service; None for a healthy one.

    Args:
        settings: Where the services answer.
        name: Which of `infra.embedded.programs.NAMES`.
        started_seconds: When its process started, in Unix seconds; what the speed layer said before that does not count.
    """
    try:
        if name == "kafka":
            return _kafka(settings)
        if name == "valkey":
            return None if _store(settings).ping() else "it does not answer PING"
        if name == "speed":
            return _speed(settings, started_seconds)
        if name == "dagster-code":
            socket.create_connection(("127.0.0.1", settings.ports.dagster_code), timeout=2).close()
            return None
        if probe := _PROBES.get(name):
            answer = httpx.get(probe(settings), timeout=_TIMEOUT_SECONDS, trust_env=False)
            return None if answer.is_success else f"it answers {answer.status_code}: {answer.text.strip()[:200]}"
        return None  # the daemon answers no request; supervisord sees that it runs
    except (KafkaError, redis.RedisError, httpx.HTTPError, OSError, ValueError) as error:
        return f"it does not answer yet ({str(error) or type(error).__name__})"


def url(settings: Settings, name: str) -> str | None:
    """Where a service answers; None for one that only works. A password in it is not shown."""
    found = {
        "kafka": settings.kafka_bootstrap, "valkey": settings.redis_url, "mlflow": settings.mlflow_tracking_uri,
        "dagster": settings.dagster_url, "serving": settings.serving_url,
        "data-docs": settings.data_docs_url,
    }.get(name)  # fmt: skip
    if found and "@" in found and "://" in found:
        scheme, rest = found.split("://", 1)
        return f"{scheme}://***@{rest.rsplit('@', 1)[1]}"
    return found


_PROBES: dict[str, Callable[[Settings], str]] = {
    "mlflow": lambda settings: f"{settings.mlflow_tracking_uri.rstrip('/')}/health",
    "dagster": lambda settings: f"{settings.dagster_url}/server_info",
    "serving": lambda settings: f"{settings.serving_url}/readyz",
    "data-docs": lambda settings: settings.data_docs_url,
}


def _kafka(settings: Settings) -> str | None:
    host, _, port = settings.kafka_bootstrap.split(",")[0].rpartition(":")
    socket.create_connection((host, int(port)), timeout=2).close()  # cheap, and silent where nothing listens
    admin = KafkaAdminClient(**client_options(settings), request_timeout_ms=_TIMEOUT_SECONDS * 1000)
    try:
        admin.list_topics()
    finally:
        admin.close()
    return None


def _speed(settings: Settings, started_seconds: int) -> str | None:
    said = _store(settings).hget(PROGRESS_KEY, "online")
    if said is None:
        return "it has not written its progress yet"
    if json.loads(said)["written_at_ms"] < started_seconds * 1000:
        return "it has written no progress since it started"
    return None


def _store(settings: Settings) -> redis.Redis:
    kind: Any = redis.RedisCluster if settings.redis_cluster else redis.Redis
    found: redis.Redis = kind.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
    return found
