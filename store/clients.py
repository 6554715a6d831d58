"""The online store's clients: Valkey, Redis or a Redis Cluster, by URL."""

from __future__ import annotations

import uuid
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from infra.errors import ServiceError
from infra.settings import Settings


def store(settings: Settings) -> Any:
    """A blocking client that answers in bytes."""
    return _client(settings, settings.redis_url)


def reading_store(settings: Settings) -> Any:
    """`store`, as the user that only reads."""
    return _client(settings, settings.redis_reader_url or settings.redis_url)


def _client(settings: Settings, url: str) -> Any:
    kind = redis.RedisCluster if settings.redis_cluster else redis.Redis
    return kind.from_url(url)


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
    """An asyncio client that only reads, in bytes, within `store_timeout_seconds` or not at all."""
    kind = redis.asyncio.RedisCluster if settings.redis_cluster else redis.asyncio.Redis
    timeout = settings.store_timeout_seconds
    return kind.from_url(
        settings.redis_reader_url or settings.redis_url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        # Once, at once: for a connection that the server closed while it was idle. Waiting would only use up the deadline.
        retry=AsyncRetry(NoBackoff(), 1),
    )


def meta_key(group: str) -> str:
    """The hash that says what was published of a group.

    Its fields: batch_end_ms, fingerprint, declaration (its text), format, published_at_ms, newest_event_ms, entities.
    """
    return f"braid:{group}"


#: The hash in which the speed layer's queries say how far they are: field = query, value = JSON.
PROGRESS_KEY = "braid:speed"
#: What this store's content is told apart by; gone where the content is.
GENERATION_KEY = "braid:generation"


def store_generation(client: Any) -> str:
    """The name of the store's content, which it keeps for as long as it keeps anything; given now where there is none."""
    client.set(GENERATION_KEY, uuid.uuid4().hex[:12], nx=True)
    return str(client.get(GENERATION_KEY).decode())
