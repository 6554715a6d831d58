"""What the online store's servers are set to do: whether they may drop what they hold."""

from __future__ import annotations

from typing import Any

import redis


def evicting_policies(client: Any) -> set[str]:
    """The policies by which a server of the store drops keys when its memory is full; empty where none does.

    By INFO, which the writer of the store may ask for. A server without a bound on its memory drops nothing, whatever its policy.
    """
    answer = client.info(
        "memory", **({"target_nodes": redis.RedisCluster.PRIMARIES} if isinstance(client, redis.RedisCluster) else {})
    )
    servers = [answer] if "maxmemory" in answer else answer.values()
    return {one["maxmemory_policy"] for one in servers if one["maxmemory"] and one["maxmemory_policy"] != "noeviction"}
