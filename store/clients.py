"""The online store's clients: Valkey, Redis or a cluster of either, by URL."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from infra.settings import Settings

#: How often a patient client tries a command again, about 9 s in all: a cluster has another primary after some 3 s.
_RETRIES = 8


def store(settings: Settings) -> Any:
    """A blocking client that answers in bytes."""
    return _client(settings.redis_url, settings.redis_cluster)


def reading_store(settings: Settings) -> Any:
    """`store`, as the user that only reads."""
    return _client(settings.redis_reader_url or settings.redis_url, settings.redis_cluster)


def patient_store(settings: Settings) -> Any:
    """`store` for writers: one client per process, a forked one gets its own; it tries again for as long as a failover takes."""
    return _patient_client(settings.redis_url, settings.redis_cluster, os.getpid())


class _PackingConnection(redis.asyncio.Connection):
    """A connection that packs a pipeline's commands, each of one word, in C: in Python it is a third of the time of a read of many entities."""

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join([hiredis.pack_command(tuple(command)) for command in commands])]


def async_store(settings: Settings) -> Any:
    """An asyncio client that only reads, in bytes. Its user sets the deadline of a whole read: one per reply would cost as much as the reply."""
    kind = redis.asyncio.RedisCluster if settings.redis_cluster else redis.asyncio.Redis
    # A URL of TLS or of a socket's path brings a class of its own.
    packing: dict[str, Any] = {} if settings.redis_cluster else {"connection_class": _PackingConnection}
    return kind.from_url(
        settings.redis_reader_url or settings.redis_url,
        socket_timeout=None,
        socket_connect_timeout=settings.store_timeout_seconds,
        # Once, at once: for a connection that the server closed while it was idle. Waiting would only use up the deadline.
        retry=AsyncRetry(NoBackoff(), 1),
        **packing,
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
    # Where a script's key stands: the third word. A pipeline would ask the default server for it, once per call, and go on asking when it is dead.
    client.commands_parser.commands["evalsha"].update(flags=[], first_key_pos=3, last_key_pos=3, step_count=1)
    return client
