"""The holder of the warm JVM, `python -m infra.embedded.warm_jvm`: starts a JVM when a run asks for it, and ends a JVM that is no longer useful.

Reads the requests of `infra.gateway`, and writes the address of the JVM. A holder starts at most one JVM and ends with that JVM. The supervisor
then starts the next holder, which needs only the memory of a bare Python while it waits. The JVM ends with its holder, even if the holder is killed,
because the JVM reads a pipe of the holder.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.gateway import Jvm, holder_path, jvm_path, publish, read, request_path

if TYPE_CHECKING:
    import subprocess

_POLL_SECONDS = 0.1
#: The time that a JVM may take to end by itself.
_END_SECONDS = 5


def main(home: Path, idle_seconds: float) -> None:
    """Waits for a request, starts a JVM, and returns when the JVM has ended.

    Args:
        home: The home of the deployment.
        idle_seconds: The time after which an unused JVM is ended.
    """
    holder_path(home).parent.mkdir(parents=True, exist_ok=True)
    with holder_path(home).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a holder whose supervisor was killed may still run
        jvm_path(home).unlink(missing_ok=True)  # the JVM of an earlier holder ends by itself
        request_path(home).unlink(missing_ok=True)
        gateway, jvm = _wait_for_request(home)
        process = gateway.proc
        try:
            publish(home, jvm)
            request_path(home).unlink(missing_ok=True)
            print(f"JVM {jvm.pid} has started.", flush=True)
            while not (reason := _end_of_use(home, jvm, process, idle_seconds)):
                time.sleep(_POLL_SECONDS)
            print(f"JVM {jvm.pid} ends: {reason}.", flush=True)
        finally:
            jvm_path(home).unlink(missing_ok=True)
            _end(process)


def _wait_for_request(home: Path) -> tuple[Any, Jvm]:
    """Waits for a request that this holder can fulfil, starts a JVM, and returns its gateway and its `Jvm`. Other requests are deleted."""
    while True:
        try:
            wanted = request_path(home).read_text()
        except FileNotFoundError:
            time.sleep(_POLL_SECONDS)
            continue
        from infra.gateway import identity
        from infra.settings import Settings
        from infra.spark import spark_properties

        settings = Settings.load(home)
        properties = spark_properties(settings, "braid batch", settings.batch_memory)
        if identity(properties) == wanted:
            return _launched(properties, wanted)
        print("A run with another environment or other settings asked for a JVM; it starts its own.", flush=True)
        request_path(home).unlink(missing_ok=True)


def _launched(properties: dict[str, str], wanted: str) -> tuple[Any, Jvm]:
    from pyspark import SparkConf
    from pyspark.java_gateway import launch_gateway

    configuration = SparkConf(loadDefaults=False).setAll(list(properties.items()))
    gateway: Any = launch_gateway(configuration)  # type: ignore[no-untyped-call]
    parameters = gateway.gateway_parameters
    return gateway, Jvm(wanted, gateway.proc.pid, parameters.port, parameters.auth_token, time.time())


def _end_of_use(home: Path, jvm: Jvm, process: subprocess.Popen[bytes], idle_seconds: float) -> str | None:
    """Returns the reason why the JVM must end; None if there is no reason. A JVM that a process uses ends only by itself.

    The file is locked only after a check without the lock has found a reason. So a run hardly ever takes the lock of this function for another run.
    """
    if process.poll() is not None:
        return f"it has exited with status {process.returncode}"
    descriptor = os.open(jvm_path(home), os.O_RDWR | os.O_CLOEXEC)
    try:
        if _reason(descriptor, jvm, idle_seconds):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if reason := _reason(descriptor, jvm, idle_seconds):
                jvm_path(home).unlink()
                return reason
    except BlockingIOError:
        pass  # in use
    finally:
        os.close(descriptor)
    return None


def _reason(descriptor: int, jvm: Jvm, idle_seconds: float) -> str | None:
    """Returns the reason why a JVM that no process uses must end; None if there is no reason."""
    if read(descriptor)[1]:
        return "its last run died, or found it unfit for another run"
    if jvm.old:
        return "it is old"
    return "no run has used it for some time" if time.time() - os.fstat(descriptor).st_mtime > idle_seconds else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Closes the JVM's pipe, as the end of this process would, and kills the JVM if it does not end in time."""
    import subprocess

    assert process.stdin is not None
    try:
        process.stdin.close()
        process.wait(_END_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
