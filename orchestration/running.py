"""Whether a deployment's own services run: asked before a command writes to whatever answers on their ports.

A home whose services do not run holds its ports in name only: another program, even another deployment, may have taken one.
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

#: Ctrl-C, a plain kill, a terminal that is closed.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def runs(settings: Settings, name: str) -> bool:
    """Whether the service runs under this home's supervisor; True for one that braid does not run itself."""
    if name not in {program.name for program in programs(settings)}:
        return True
    info = Supervisor(settings).infos().get(name)
    return info is not None and info.state == "RUNNING"


def require(settings: Settings, *names: str) -> None:
    """Makes sure that the services are the home's own and run.

    Raises:
        ServiceError: One of them does not.
    """
    for name in names:
        if not runs(settings, name):
            raise ServiceError(f"The service {name} of {settings.home} does not run.", "Start it by `braid up --detach`.")


@contextmanager
def until_ended(settings: Settings) -> Iterator[None]:
    """Ends every process of the home when the block is left: at its end, by an error, by Ctrl-C, by SIGTERM or SIGHUP.

    Each of the signals raises KeyboardInterrupt in the block. None of them interrupts the ending itself.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in ENDINGS}
    try:
        yield
    finally:
        for one in ENDINGS:
            signal.signal(one, signal.SIG_IGN)
        try:
            services.down(settings)
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
