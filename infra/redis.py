"""The online store's clients: Valkey, Redis or a Redis Cluster, by URL."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from infra.errors import ServiceError
from infra.settings import Settings


def store(settings: Settings) -> Any:
    """A blocking client that answers in bytes."""
    kind = redis.RedisCluster if settings.redis_cluster else redis.Redis
    return kind.from_url(settings.redis_url)


def reached_store(settings: Settings) -> Any:
    """`store`, once it has answered.

    Raises:
        ServiceError: It does not answer.
    """
    try:
        client = store(settings)
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise ServiceError(
            f"The online store does not answer ({type(error).__name__}).", "Run `braid up`, or correct REDIS_URL."
        ) from None
    return client


def async_store(settings: Settings) -> Any:
    """An asyncio client that answers in bytes, within `store_timeout_seconds` or not at all."""
    kind = redis.asyncio.RedisCluster if settings.redis_cluster else redis.asyncio.Redis
    timeout = settings.store_timeout_seconds
    return kind.from_url(
        settings.redis_url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        # Once, at once: for a connection that the server closed while it was idle. Waiting would only use up the deadline.
        retry=AsyncRetry(NoBackoff(), 1),
    )


def meta_key(group: str) -> str:
    """The hash that says what was published of a group: batch_end_ms, fingerprint, published_at_ms, newest_event_ms, entities."""
    return f"braid:{group}"


#: The hash in which the speed layer's queries say how far they are: field = query, value = JSON.
PROGRESS_KEY = "braid:speed"
