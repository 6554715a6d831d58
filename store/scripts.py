"""What the server must decide and do in one step: small Lua scripts, each step about one key, so that they run alike on a server and on a cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError


class Script:
    """A script, called by its digest; a server that does not know it yet is given its text.

    Args:
        text: In Lua. Times of different calls may interleave, so each is right whatever came before.
    """

    def __init__(self, text: str) -> None:
        self._text, self._digest = text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: Any, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The results of calls, made in one round trip per server.

        Args:
            client: The client.
            calls: Of each the key, or a list of keys that are on the same server, and then the arguments.

        Raises:
            RedisError: A call failed.
        """
        results: list[Any] = [NoScriptError()] * len(calls)
        for attempt in range(3):
            left = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
            if not left:
                break
            if attempt:  # a server that was started anew, or became primary, knows no scripts
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
