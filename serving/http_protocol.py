"""The HTTP protocol of the server: uvicorn's, changed to send the head and the body of an answer in one system call instead of two.

With two system calls, the first wakes the caller, which then waits for the body. On a machine without an idle core, that costs more than the merge.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a transport that delays the first of two writes and sends both at once."""

    def connection_made(self, transport: Any) -> None:
        """Begins a connection on a transport that delays writes."""
        super().connection_made(_OneWrite(transport, self.loop))  # type: ignore[arg-type]  # it has every attribute of a transport


class _OneWrite:
    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._waiting.append(data)
        if len(self._waiting) > 1:
            self._flush()
        else:  # if no second write follows now, because the body is not ready yet
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._waiting:
            parts, self._waiting = self._waiting, []
            if not self._transport.is_closing():
                self._transport.writelines(parts)


def use_one_write() -> None:
    """Makes the servers of this process use `OneWriteProtocol`. BentoML starts the server, and does not let a service choose the protocol."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{OneWriteProtocol.__name__}"
