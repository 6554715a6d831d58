"""supervisord: the library that keeps the embedded stack running. One per home, spoken to over a socket in the home."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from infra.errors import ServiceError
from infra.programs import Program
from infra.settings import Settings

#: Marks every process of a home, so that none is left behind, whatever happened to its parents.
HOME_MARK = "BRAID_SUPERVISED_HOME"
_QUIET = {"GX_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1", "GIT_PYTHON_REFRESH": "quiet"}


class Supervisor:
    """The supervisord of one home."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config = settings.home / "supervisord.conf"

    def log_path(self, name: str) -> Path:
        """The log of a program."""
        return self._settings.home / "logs" / f"{name}.log"

    def running(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._rpc().supervisor.getState()
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def launch(self, programs: list[Program]) -> None:
        """Starts supervisord, or lets the running one read the configuration again. No program is started.

        Raises:
            ServiceError: supervisord did not come up.
        """
        self.log_path("supervisord").parent.mkdir(parents=True, exist_ok=True)
        self._config.write_text(self._configuration(programs))
        if self.running():
            self._rpc().supervisor.reloadConfig()
            known = {info["group"] for info in self.states()}
            for program in programs:
                if program.name not in known:
                    self._rpc().supervisor.addProcessGroup(program.name)
            return
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self._settings.home)
        deadline = time.monotonic() + 20
        while not self.running():
            if done.returncode or time.monotonic() > deadline:
                raise ServiceError(f"The supervisor did not start: {(done.stderr or done.stdout).strip()[-300:]}.", f"See {self.log_path('supervisord')}.")
            time.sleep(0.05)

    def states(self) -> list[dict[str, Any]]:
        """supervisord's own words on each program; empty where it does not run."""
        try:
            return list(self._rpc().supervisor.getAllProcessInfo())  # type: ignore[call-overload]
        except (OSError, xmlrpc.client.Error):
            return []

    def start(self, name: str) -> None:
        """Starts a program that does not run."""
        state = next((info["statename"] for info in self.states() if info["name"] == name), None)
        if state not in ("RUNNING", "STARTING"):
            try:
                self._rpc().supervisor.startProcess(name, False)
            except xmlrpc.client.Fault as fault:
                raise ServiceError(f"{name} could not be started: {fault.faultString}.", f"See {self.log_path(name)}.") from None

    def stop(self, name: str) -> None:
        """Ends a program and its children."""
        self._rpc().supervisor.stopProcess(name, True)

    def shutdown(self) -> None:
        """Ends every program, then supervisord, then whatever is left of the home's processes."""
        try:
            self._rpc().supervisor.shutdown()
        except (OSError, xmlrpc.client.Error):
            pass
        deadline = time.monotonic() + 75
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.1)
        left = self.processes()
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for process in left:
                try:
                    end(process)
                except psutil.NoSuchProcess:
                    pass
            _, left = psutil.wait_procs(left, timeout=10)

    def processes(self) -> list[psutil.Process]:
        """Every process of the home, found by the mark in its environment."""
        mark, found = str(self._settings.home), []
        for process in psutil.process_iter():
            try:
                if process.environ().get(HOME_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def _socket(self) -> Path:
        path = self._settings.home / "supervisord.sock"
        if len(str(path)) < 100:
            return path
        # The system bounds the length of a socket's path.
        return Path(tempfile.gettempdir()) / f"braid-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.sock"

    def _rpc(self) -> xmlrpc.client.ServerProxy:
        transport = SupervisorTransport(None, None, f"unix://{self._socket()}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def _configuration(self, programs: list[Program]) -> str:
        home, logs = self._settings.home, self._settings.home / "logs"
        common = {**self._settings.environment(), **_QUIET, HOME_MARK: str(home)}
        parts = [
            f"[unix_http_server]\nfile={self._socket()}\nchmod=0700",
            f"[supervisord]\nlogfile={logs}/supervisord.log\nlogfile_maxbytes=10MB\nlogfile_backups=1\npidfile={home}/supervisord.pid\n"
            f"childlogdir={logs}\nenvironment={_environment({HOME_MARK: str(home)})}",
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        ]
        for program in programs:
            command = " ".join(_quote(part) for part in program.command)
            parts.append(
                f"[program:{program.name}]\ncommand={command}\ndirectory={home}\nautostart=false\nautorestart=true\nstartsecs=1\n"
                f"startretries=3\nstopasgroup=true\nkillasgroup=true\nstopwaitsecs={program.stop_seconds}\nredirect_stderr=true\n"
                f"stdout_logfile={self.log_path(program.name)}\nstdout_logfile_maxbytes=20MB\nstdout_logfile_backups=2\n"
                f"environment={_environment({**common, **program.environment})}"
            )
        return "\n\n".join(parts) + "\n"


def _quote(text: str) -> str:
    return '"' + text.replace("%", "%%").replace('"', '\\"') + '"'


def _environment(values: dict[str, str]) -> str:
    return ",".join(f"{key}={_quote(value)}" for key, value in values.items())
