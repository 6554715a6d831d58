"""Checks whether a deployment's own services run, before a command writes to their ports.

If the services of a home do not run, its ports may be in use by another program or another deployment, to which the command must not write.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from infra.embedded import services
from infra.embedded.programs import programs
from infra.embedded.supervision import Supervisor
from infra.errors import ServiceError
from infra.settings import Settings

#: The signals that end a command: Ctrl-C, `kill`, and a closed terminal.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def runs(settings: Settings, name: str) -> bool:
    """Returns whether a service runs under this home's supervisor; True for an external service, which braid does not start."""
    if name not in {program.name for program in programs(settings)}:
        return True
    info = Supervisor(settings).infos().get(name)
    return info is not None and info.state == "RUNNING"


def require(settings: Settings, *names: str) -> None:
    """Checks that the home's own services run.

    Raises:
        ServiceError: One of the services does not run.
    """
    for name in names:
        if not runs(settings, name):
            raise ServiceError(f"The service {name} of {settings.home} does not run.", "Start it by `braid up --detach`.")


@contextmanager
def until_ended(settings: Settings) -> Iterator[None]:
    """Ends every process of the home at the end of the block, also after an error or one of the signals `ENDINGS`.

    In the block, each of these signals raises KeyboardInterrupt. While the processes are being ended, the signals are ignored.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    handlers = {ending: signal.signal(ending, interrupt) for ending in ENDINGS}
    try:
        yield
    finally:
        for ending in ENDINGS:
            signal.signal(ending, signal.SIG_IGN)
        try:
            services.down(settings)
        finally:
            for ending, handler in handlers.items():
                signal.signal(ending, handler)
