"""Runs supervisord, which starts the programs of a home and restarts them when they end; braid talks to it over a unix socket.

Writes `<home>/supervisord.conf` and `<home>/logs`. Guarantees that every process of a home can be found, also after its parent has
died: supervisord's environment contains the variable `HOME_MARK`, which every process that it starts inherits.
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

#: The environment variable that marks every process of a home.
HOME_MARK = "BRAID_SUPERVISED_HOME"
#: The longest path of the socket in bytes. supervisord appends its pid; the system allows 107 bytes in all (103 on macOS).
_LONGEST_SOCKET = 90


@dataclass(frozen=True)
class Info:
    """A program's state in supervisord.

    Attributes:
        name: The name of the program.
        state: STOPPED, STARTING, RUNNING, BACKOFF, EXITED, FATAL or STOPPING.
        pid: The id of its process; None if no process runs.
        start_seconds: The time of its last start, in seconds since 1970.
        description: supervisord's text about the state, such as the uptime or the reason of a failure.
    """

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
        """Returns the path of a program's log."""
        return self._settings.home / "logs" / f"{name}.log"

    def running(self) -> bool:
        """Returns whether supervisord answers."""
        try:
            self._call("getState")
        except ServiceError:
            return False
        return True

    def launch(self, programs: list[Program]) -> bool:
        """Starts supervisord if it does not run. supervisord then starts the helpers among the programs, but no service.

        Returns:
            Whether this call started supervisord.

        Raises:
            ServiceError: supervisord did not start, or it runs with other settings.
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
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._config)],
                env=environment,
                cwd=self._fingerprint.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal then reaches only braid, which ends the services in order
            )
            deadline = time.monotonic() + 60
            while not self.running():
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    lines = output.read().strip().splitlines() or ["it printed no reason"]
                    self.sweep()
                    raise ServiceError(f"The supervisor did not start: {lines[0]}.", f"See {self.log_path('supervisord')}.")
                time.sleep(0.05)
        return True

    def infos(self) -> dict[str, Info]:
        """Returns the state of each program, by name; empty if supervisord does not run."""
        try:
            entries = self._call("getAllProcessInfo")
        except ServiceError:
            return {}
        return {
            entry["name"]: Info(entry["name"], entry["statename"], entry["pid"] or None, entry["start"], entry["description"])
            for entry in entries
        }

    def start(self, name: str) -> None:
        """Starts a program if it does not run.

        Raises:
            ServiceError: supervisord cannot execute the program.
        """
        info = self.infos().get(name)
        if info is None or info.state not in ("RUNNING", "STARTING"):
            for orphan in self.processes(of=name):  # children of a service that was killed; they may still use its port
                _signal(orphan, psutil.Process.kill)
            self._call("startProcess", name, False)

    def stop(self, names: Collection[str]) -> None:
        """Ends programs and their children, all at the same time, and waits. Programs that exceed their stop time are killed."""
        for name in names:
            info = self.infos().get(name)
            if info is not None and info.state in ("RUNNING", "STARTING", "BACKOFF"):
                try:
                    self._call("stopProcess", name, False)
                except ServiceError:
                    continue  # the program has ended by itself
        while any(info.state == "STOPPING" for info in self.infos().values() if info.name in names):
            time.sleep(0.05)

    def shutdown(self) -> None:
        """Ends the programs (Kafka, Valkey and MLflow after those that use them), supervisord, and all other processes of the home."""
        infos = self.infos()
        if infos:
            base = {"kafka", "valkey", "mlflow"}
            try:
                self.stop([name for name in infos if name not in base])
                self.stop([name for name in infos if name in base])
                self._call("shutdown")
            except ServiceError:
                pass  # supervisord has died; `sweep` ends its programs
            deadline = time.monotonic() + 10
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.05)
        self.sweep()
        self._socket().unlink(missing_ok=True)

    def sweep(self) -> None:
        """Ends every process of the home, also orphans of a supervisord that was killed.

        Raises:
            ServiceError: A process does not end.
        """
        for end, seconds in ((psutil.Process.terminate, 15), (psutil.Process.kill, 5), (psutil.Process.kill, 5)):
            # supervisord is the oldest process. It is ended first, because it would start the other processes again.
            left = sorted(self.processes(), key=psutil.Process.create_time)
            for process in left:
                _signal(process, end)
            psutil.wait_procs(left, timeout=seconds)
        if left := self.processes():
            pids = ", ".join(str(process.pid) for process in left)
            raise ServiceError(f"The processes {pids} of {self._settings.home} do not end.", "End them by hand.")

    def processes(self, of: str | None = None) -> list[psutil.Process]:
        """Returns every living process of the home: the processes with its mark and their children. The calling process is left out.

        Args:
            of: The service whose processes are wanted; by default all services.
        """
        by_pid: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get(HOME_MARK) == str(self._settings.home) and (
                    of is None or environment.get("SUPERVISOR_PROCESS_NAME") == of
                ):
                    by_pid.update({member.pid: member for member in (process, *process.children(recursive=True))})
            except (psutil.Error, OSError):
                continue  # the process has ended, or belongs to another user
        by_pid.pop(os.getpid(), None)
        return [process for process in by_pid.values() if _alive(process)]

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
                "logfile": logs / "supervisord.log",
                "logfile_maxbytes": "1MB",
                "logfile_backups": 1,
                "childlogdir": logs,
                "pidfile": self._fingerprint.with_name("supervisord.pid"),
            },
        }
        for program in programs:
            sections[f"program:{program.name}"] = {
                "command": shlex.join([*_nice(program), *program.command(self._settings)]),
                # A folder without Python packages: Python searches the working folder first, and a package in it could hide a package of braid.
                "directory": self._fingerprint.parent,
                "autostart": str(program.helper).lower(),
                "autorestart": "true",
                "startsecs": 1,
                "startretries": 30,
                "stopsignal": "TERM",
                "stopasgroup": "true",
                "killasgroup": "true",
                "stopwaitsecs": program.stop_seconds,
                "redirect_stderr": "true",
                "stdout_logfile_maxbytes": "10MB",
                "stdout_logfile_backups": 2,
                # Escaped here and once more below, because supervisor expands this value twice.
                "stdout_logfile": str(self.log_path(program.name)).replace("%", "%%"),
            }
        lines = []
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{key}={str(value).replace('%', '%%')}" for key, value in values.items()), ""]
        return "\n".join(lines)


def _nice(program: Program) -> list[str]:
    """Returns the prefix of the command of a program with a niceness; empty for niceness 0. `nice` executes the program under its own process id."""
    return ["nice", "-n", str(program.nice)] if program.nice else []


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
