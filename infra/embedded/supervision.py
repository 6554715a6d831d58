"""supervisord, the library that keeps the embedded stack running: one per home, spoken to over a unix socket.

Writes `<home>/supervisord.conf` and `<home>/logs`. Guarantees that every process of a home can be found again, whatever became of
its parents: supervisord's environment carries the home's mark, and all that it starts inherits it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from infra.embedded.programs import Program, child_environment
from infra.errors import ServiceError
from infra.settings import Settings

#: The variable that marks every process of a home.
HOME_MARK = "BRAID_SUPERVISED_HOME"
#: supervisord binds a socket of this path with its pid appended; the system bounds the whole at 107 bytes (103 on macOS).
_LONGEST_SOCKET = 90


@dataclass(frozen=True)
class Info:
    """What supervisord knows of a program. `state` in its own words: STOPPED, STARTING, RUNNING, BACKOFF, EXITED, FATAL, STOPPING."""

    name: str
    state: str
    pid: int | None
    start_seconds: int
    description: str


class Supervisor:
    """The supervisord of one home."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config = settings.home / "supervisord.conf"
        self._fingerprint = settings.home / "run" / "settings.sha256"

    def log_path(self, name: str) -> Path:
        """The log of a program."""
        return self._settings.home / "logs" / f"{name}.log"

    def running(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._call("getState")
        except ServiceError:
            return False
        return True

    def launch(self, programs: list[Program]) -> bool:
        """Starts supervisord where it does not run. No program is started.

        Returns:
            Whether it was started now.

        Raises:
            ServiceError: It did not come up, or runs with other settings.
        """
        settings = self._settings
        fingerprint = hashlib.sha256(json.dumps(settings.environment(), sort_keys=True).encode()).hexdigest()
        if self.running():
            if self._fingerprint.exists() and self._fingerprint.read_text() != fingerprint:
                raise ServiceError(
                    f"The services of {settings.home} run with other settings.", "Run `braid down`, then `braid up` again."
                )
            return False
        self.sweep()
        for folder in (self._fingerprint.parent, self.log_path("supervisord").parent, self._socket().parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._socket().unlink(missing_ok=True)
        self._config.write_text(self._configuration(programs))
        self._fingerprint.write_text(fingerprint)
        environment = {**os.environ, **child_environment(settings), HOME_MARK: str(settings.home)}
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._config)],
                # A session of its own: Ctrl-C in the terminal reaches braid, which then ends the services in their order.
                env=environment, cwd=self._fingerprint.parent, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
            deadline = time.monotonic() + 60
            while not self.running():
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    reason = said.read().strip().splitlines() or ["it said nothing"]
                    self.sweep()
                    raise ServiceError(f"The supervisor did not start: {reason[0]}.", f"See {self.log_path('supervisord')}.")
                time.sleep(0.05)
        return True

    def infos(self) -> dict[str, Info]:
        """What supervisord knows of each program, by name; empty where it does not run."""
        try:
            answer = self._call("getAllProcessInfo")
        except ServiceError:
            return {}
        return {
            one["name"]: Info(one["name"], one["statename"], one["pid"] or None, one["start"], one["description"]) for one in answer
        }  # fmt: skip

    def start(self, name: str) -> None:
        """Starts a program that does not run.

        Raises:
            ServiceError: It cannot be executed.
        """
        info = self.infos().get(name)
        if info is None or info.state not in ("RUNNING", "STARTING"):
            for orphan in self.processes(of=name):  # of a service that was killed alone; it would hold the port
                _signal(orphan, psutil.Process.kill)
            self._call("startProcess", name, False)

    def stop(self, names: Collection[str]) -> None:
        """Ends programs together, with their children, and waits for it; those that are not finished in their time are killed."""
        for name in names:
            info = self.infos().get(name)
            if info is not None and info.state in ("RUNNING", "STARTING", "BACKOFF"):
                try:
                    self._call("stopProcess", name, False)
                except ServiceError:
                    continue  # it ended by itself meanwhile
        while any(info.state == "STOPPING" for info in self.infos().values() if info.name in names):
            time.sleep(0.05)

    def shutdown(self) -> None:
        """Ends every program, the last started first, then supervisord, then whatever is left of the home's processes."""
        infos = self.infos()
        if infos:
            base = {"kafka", "valkey", "mlflow"}
            try:
                self.stop([name for name in infos if name not in base])
                self.stop([name for name in infos if name in base])
                self._call("shutdown")
            except ServiceError:
                pass  # it died meanwhile; the sweep finds what it left
            deadline = time.monotonic() + 10
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.05)
        self.sweep()
        self._socket().unlink(missing_ok=True)

    def sweep(self) -> None:
        """Ends every process of the home that is still there: orphans of a supervisord that was killed."""
        for end, seconds in ((psutil.Process.terminate, 15), (psutil.Process.kill, 5), (psutil.Process.kill, 5)):
            # supervisord first, which is the oldest: it would start the others again
            left = sorted(self.processes(), key=psutil.Process.create_time)
            for process in left:
                _signal(process, end)
            psutil.wait_procs(left, timeout=seconds)
        if left := self.processes():
            pids = ", ".join(str(process.pid) for process in left)
            raise ServiceError(f"The processes {pids} of {self._settings.home} do not end.", "End them by hand.")

    def processes(self, of: str | None = None) -> list[psutil.Process]:
        """Every living process of the home but this one: those that carry its mark, and their children.

        Args:
            of: Only the processes of this service.
        """
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get(HOME_MARK) == str(self._settings.home) and (
                    of is None or environment.get("SUPERVISOR_PROCESS_NAME") == of
                ):
                    found.update({one.pid: one for one in (process, *process.children(recursive=True))})
            except (psutil.Error, OSError):
                continue  # ended meanwhile, or another user's
        found.pop(os.getpid(), None)
        return [process for process in found.values() if _alive(process)]

    def _socket(self) -> Path:
        path = self._settings.home / "run" / "supervisor.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET:
            return path
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"braid-{os.getuid()}-{name}" / "supervisor.sock"

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket()}")
        try:
            return getattr(xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise ServiceError(
                f"The supervisor refused {method} {' '.join(map(str, arguments))}: {fault.faultString}.", "See `braid status`."
            ) from None
        except (OSError, xmlrpc.client.ProtocolError) as error:
            raise ServiceError(f"The supervisor of {self._settings.home} does not answer: {error}.", "Run `braid up`.") from None
        finally:
            transport.close()

    def _configuration(self, programs: list[Program]) -> str:
        logs = self.log_path("supervisord").parent
        sections: dict[str, dict[str, object]] = {
            "unix_http_server": {"file": self._socket(), "chmod": "0700"},
            "supervisorctl": {"serverurl": f"unix://{self._socket()}"},
            "rpcinterface:supervisor": {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
            "supervisord": {
                "logfile": logs / "supervisord.log", "logfile_maxbytes": "1MB", "logfile_backups": 1, "childlogdir": logs,
                "pidfile": self._fingerprint.with_name("supervisord.pid"),
            },
        }  # fmt: skip
        for program in programs:
            sections[f"program:{program.name}"] = {
                "command": shlex.join(program.command(self._settings)),
                # An empty folder: Python puts the working folder on its path, where a folder could hide a room of that name.
                "directory": self._fingerprint.parent,
                "autostart": "false", "autorestart": "true", "startsecs": 1, "startretries": 30,
                "stopsignal": "TERM", "stopasgroup": "true", "killasgroup": "true", "stopwaitsecs": program.stop_seconds,
                "redirect_stderr": "true", "stdout_logfile_maxbytes": "10MB", "stdout_logfile_backups": 2,
                # supervisor expands this one twice
                "stdout_logfile": str(self.log_path(program.name)).replace("%", "%%"),
            }  # fmt: skip
        lines = []
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{key}={str(value).replace('%', '%%')}" for key, value in values.items()), ""]
        return "\n".join(lines)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, end: Any) -> None:
    try:
        end(process)
    except psutil.NoSuchProcess:
        pass
