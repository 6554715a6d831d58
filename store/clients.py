"""The clients of the online store: connections to Valkey, Redis or a cluster of either, by the URLs of the settings."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from infra.settings import Settings

#: How often a patient client retries a command, about 9 s in all. A cluster has a new primary after some 3 s.
_RETRIES = 8


def store(settings: Settings) -> Any:
    """Returns a blocking client whose replies are bytes."""
    return _client(settings.redis_url, settings.redis_cluster)


def reading_store(settings: Settings) -> Any:
    """Returns a client like that of `store`, which connects as the read-only user."""
    return _client(settings.redis_reader_url or settings.redis_url, settings.redis_cluster)


def patient_store(settings: Settings) -> Any:
    """Returns a client like that of `store`, which retries for as long as a failover takes. Each process has one, a forked process its own."""
    return _patient_client(settings.redis_url, settings.redis_cluster, os.getpid())


def async_store(settings: Settings) -> Any:
    """Returns an asyncio client, which connects as the read-only user and whose replies are bytes.

    The caller sets the deadline of a whole read. A timeout per reply would cost as much as the reply.
    """
    kind = redis.asyncio.RedisCluster if settings.redis_cluster else redis.asyncio.Redis
    return kind.from_url(
        settings.redis_reader_url or settings.redis_url,
        socket_timeout=None,
        socket_connect_timeout=settings.store_timeout_seconds,
        # One retry without a pause, for a connection that the server closed while it was idle. A pause would only use up the deadline.
        retry=AsyncRetry(NoBackoff(), 1),
    )


def _client(url: str, cluster: bool) -> Any:
    return _cluster(url) if cluster else redis.Redis.from_url(url)


@cache
def _patient_client(url: str, cluster: bool, _pid: int) -> Any:
    options = {"retry": Retry(ExponentialBackoff(cap=2, base=0.1), _RETRIES)}
    if cluster:
        return _cluster(url, **options)
    return redis.Redis.from_url(url, retry_on_error=[redis.ConnectionError, redis.TimeoutError], **options)


def _cluster(url: str, **options: Any) -> Any:
    client = redis.RedisCluster.from_url(url, **options)
    # The key of a script is the third word of the call. Without this entry a pipeline asks the default server for the place of the key at each call,
    # even when that server is dead.
    client.commands_parser.commands["evalsha"].update(flags=[], first_key_pos=3, last_key_pos=3, step_count=1)
    return client
