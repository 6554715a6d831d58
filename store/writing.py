"""The speed layer's side of the online store: one client per process, and what the server can do."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from infra.settings import Settings

#: How often a command is tried again before the query fails and the supervisor starts the process anew.
_RETRIES = 5


def online_store(settings: Settings) -> Any:
    """The client of this process; a forked one gets its own."""
    return _client(settings.redis_url, settings.redis_cluster, os.getpid())


def expiring_command(store: Any) -> str | None:
    """The server's command by which a field of a hash expires, or None before Redis 7.4.

    HSETEX (Valkey 9, Redis 8) writes and expires in one, HPEXPIRE expires what was written. Without either, publishing a view
    prunes the tiles that it covers.
    """
    return _expiring_command(store)


@cache
def _client(url: str, cluster: bool, _pid: int) -> Any:
    options = {"retry": Retry(ExponentialBackoff(cap=2, base=0.1), _RETRIES)}
    if cluster:
        return redis.RedisCluster.from_url(url, **options)
    return redis.Redis.from_url(url, retry_on_error=[redis.ConnectionError, redis.TimeoutError], **options)


@cache
def _expiring_command(store: Any) -> str | None:
    for command in ("HSETEX", "HPEXPIRE"):
        try:
            store.execute_command(command)
        except redis.ResponseError as error:
            if "unknown command" not in str(error).lower():
                return command
    return None
