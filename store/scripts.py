"""Lua scripts for what the server must decide and do in one step. Each step uses one key, so a script runs alike on a server and on a cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError


class Script:
    """A script that is called by its digest. Its text is loaded into a server that does not know it yet.

    Args:
        text: The text in Lua. Calls of several processes may interleave, so each call must be right whatever call preceded it.
    """

    def __init__(self, text: str) -> None:
        self._text, self._digest = text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: Any, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Returns the results of calls, in their order. All calls are made in one round trip per server.

        Args:
            client: The client of the store.
            calls: Per call the key, or a list of keys on the same server, followed by the arguments.

        Raises:
            RedisError: A call failed.
        """
        results: list[Any] = [NoScriptError()] * len(calls)
        for attempt in range(3):
            left = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
            if not left:
                break
            if attempt:  # a server that has restarted, or has become primary, knows no scripts
                client.script_load(self._text)
            pipeline = client.pipeline(transaction=False)
            for index in left:
                key, *arguments = calls[index]
                keys = key if isinstance(key, list) else [key]
                pipeline.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
            for index, result in zip(left, pipeline.execute(raise_on_error=False), strict=True):
                results[index] = result
        if error := next((result for result in results if isinstance(result, Exception)), None):
            raise error
        return results
