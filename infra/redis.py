"""The online store's clients: Valkey, Redis or a Redis Cluster, by URL."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio

from infra.settings import Settings


def store(settings: Settings) -> Any:
    """A blocking client that answers in bytes."""
    kind = redis.RedisCluster if settings.redis_cluster else redis.Redis
    return kind.from_url(settings.redis_url)


def async_store(settings: Settings) -> Any:
    """An asyncio client that answers in bytes, within `store_timeout_seconds` or not at all."""
    kind = redis.asyncio.RedisCluster if settings.redis_cluster else redis.asyncio.Redis
    timeout = settings.store_timeout_seconds
    return kind.from_url(settings.redis_url, socket_timeout=timeout, socket_connect_timeout=timeout)


def meta_key(group: str) -> str:
    """The hash that says what was published of a group: batch_end_ms, fingerprint, published_at_ms, newest_event_ms, entities."""
    return f"braid:{group}"


#: The hash in which the speed layer's queries say how far they are: field = query, value = JSON.
PROGRESS_KEY = "braid:speed"
