"""The warm JVM of a home: a Spark JVM that outlives the Dagster run that used it, so that the next run need not start one.

`infra.embedded.warm_jvm`, a process of `braid up`, holds the JVM. A run (this module) asks for it, uses it alone, and gives it back at the
end of its process. If the JVM is in use, unfit or absent, the run starts a JVM of its own.

Guarantees that two processes never use the JVM at the same time, and that no process uses it after another has died in it.
Three files in `<home>/spark` are the protocol:

| file | content | lock |
|---|---|---|
| `warm-jvm` | Line 1: the JVM as JSON. A mark follows while a process uses the JVM. | held by the process that uses the JVM |
| `warm-jvm.request` | The identity of the wanted JVM. | |
| `warm-jvm.holder` | | held by the holder as long as it lives |

Locks are `flock`s, which end with their process. A mark without a lock therefore means that a process died while it used the JVM. The holder
then ends that JVM, together with its jobs. Only the standard library is imported at the start, because an idle holder must be light.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from infra.settings import Settings

#: The age in seconds from which a JVM gets no more runs.
MAX_AGE_SECONDS = 12 * 3_600.0
#: The longest time that a run waits for the holder to start a JVM. The run would need most of this time to start its own JVM.
_START_SECONDS = 45.0
#: The time that Spark may take to stop at the end of a process.
_STOP_SECONDS = 30.0
#: The share of the heap that may be in use after a run. Spark's static caches grow by some megabytes per run.
_KEPT_SHARE = 0.25
_POLL_SECONDS = 0.05
#: Environment variables that change what a JVM and its Python workers do.
_SHAPING = ("AWS_", "AZURE_", "GOOGLE_", "HADOOP_", "JAVA_", "JDK_", "LC_", "LD_", "PYSPARK_", "PYTHON", "SPARK_")
#: Variables with such a prefix that are ignored: they change nothing, Spark sets them in each process that uses it, or they are settings of braid.
_SHAPELESS = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "SPARK_AUTH_SOCKET_TIMEOUT", "SPARK_BUFFER_SIZE", "SPARK_MASTER"}
_OF_A_SESSION = ("spark.app.name", "spark.databricks.", "spark.sql.")
_log = logging.getLogger(__name__)
_allowed = False


@dataclass(frozen=True)
class Jvm:
    """A running gateway JVM.

    Attributes:
        identity: The `identity` with which it was started.
        pid: Its process id.
        port: The loopback port of its Py4J gateway.
        secret: The secret that a client of the gateway must send.
        started_seconds: Its start, in seconds since 1970.
    """

    identity: str
    pid: int
    port: int
    secret: str
    started_seconds: float

    @property
    def old(self) -> bool:
        """Whether the JVM is too old for more runs."""
        return time.time() - self.started_seconds > MAX_AGE_SECONDS


def allow() -> None:
    """Permits this process to use the warm JVM. Only for a process that ends after its work, because the process keeps the JVM until its end."""
    global _allowed  # noqa: PLW0603 - a property of the process
    _allowed = True


def command_session(settings: Settings, name: str) -> SparkSession:
    """Returns the Spark session of a command, by `batch_session`; `name` is the application's name in Spark's logs."""
    from infra.spark import spark_properties

    return batch_session(settings.home, spark_properties(settings, name, settings.batch_memory))


def batch_session(home: Path, properties: Mapping[str, str]) -> SparkSession:
    """Returns the Spark session of this process. The first call creates the session, on the warm JVM of the home if that is possible.

    Args:
        home: The home of the deployment.
        properties: The result of `infra.spark.spark_properties`.
    """
    from pyspark import SparkContext

    from infra.spark import session_of

    fresh = SparkContext._gateway is None  # noqa: SLF001 - the only trace of the JVM that this process already uses
    lease = borrow(home, identity(properties)) if _allowed and fresh else None
    if lease is None:
        return session_of(properties)
    try:
        with _gateway_of(lease.jvm):
            session = session_of(properties)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the warm JVM, a new one does not have it
        _log.warning("The warm JVM %d cannot be used (%s); this run starts a JVM of its own.", lease.jvm.pid, error)
        lease.abandon()
        SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None  # noqa: SLF001
        return session_of(properties)
    _log.info("The run uses the warm JVM %d.", lease.jvm.pid)
    _return_at_exit(lease, session)
    return session


def identity(properties: Mapping[str, str]) -> str:
    """Returns a fingerprint of everything that shapes a JVM: the properties, and the environment of Java, Python and the lake's storage.

    The properties of a session are left out, because each process makes its own session. Settings of braid shape a JVM only through the properties.
    """
    environment = {name: value for name, value in os.environ.items() if name.startswith(_SHAPING) and name not in _SHAPELESS}
    shaping = {key: value for key, value in properties.items() if not key.startswith(_OF_A_SESSION)}
    return hashlib.sha256(json.dumps([shaping, environment], sort_keys=True).encode()).hexdigest()


class Lease:
    """The exclusive use of a JVM, by the lock on its file and a mark in the file."""

    def __init__(self, descriptor: int, jvm: Jvm, length: int) -> None:
        self.jvm = jvm
        self._descriptor, self._length = descriptor, length

    @classmethod
    def take(cls, home: Path, wanted: str) -> Lease | None:
        """Returns the lease of the home's JVM; None if there is no JVM of the identity `wanted`, or if the JVM is in use, marked, old or dead."""
        try:
            descriptor = os.open(jvm_path(home), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            line, mark = read(descriptor)
            jvm = Jvm(**json.loads(line))
            current = os.fstat(descriptor).st_ino == jvm_path(home).stat().st_ino
            if current and not mark and not jvm.old and jvm.identity == wanted:
                os.kill(jvm.pid, 0)
                os.pwrite(descriptor, f"in use by process {os.getpid()}\n".encode(), len(line))
                return cls(descriptor, jvm, len(line))
        except (OSError, ValueError, TypeError):
            pass  # another process has the lock, the file is not whole, or the JVM has ended
        os.close(descriptor)
        return None

    def give_back(self) -> None:
        """Ends the use of a JVM in which Spark has been stopped."""
        os.ftruncate(self._descriptor, self._length)
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Ends the use of a JVM that nobody may use again. Its holder ends it."""
        os.close(self._descriptor)


def borrow(home: Path, wanted: str) -> Lease | None:
    """Returns the lease of the home's JVM. If there is no JVM, the holder is asked to start one.

    Returns:
        None if there is no holder, if the JVM does not start in time, or if `Lease.take` returns None.
    """
    deadline = time.monotonic() + _START_SECONDS
    request = request_path(home)
    if not held(home):
        return None
    if not jvm_path(home).exists():
        write(request, wanted.encode())
        # The holder deletes the request when it has started the JVM, or when it refuses to.
        while request.exists() and held(home) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    return Lease.take(home, wanted)


def held(home: Path) -> bool:
    """Returns whether the home has a holder."""
    try:
        with holder_path(home).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def jvm_path(home: Path) -> Path:
    """Returns the path of the JVM's file, with its secret, its lock and its mark."""
    return home / "spark" / "warm-jvm"


def request_path(home: Path) -> Path:
    """Returns the path of the file by which a run asks for a JVM."""
    return home / "spark" / "warm-jvm.request"


def holder_path(home: Path) -> Path:
    """Returns the path of the file that the holder has locked."""
    return home / "spark" / "warm-jvm.holder"


def read(descriptor: int) -> tuple[bytes, bytes]:
    """Returns the JVM's line, and the mark after the line; the mark is empty if no process has written one."""
    line, separator, mark = os.pread(descriptor, 65_536, 0).partition(b"\n")
    return line + separator, mark


def write(path: Path, content: bytes) -> None:
    """Writes a file that only this user can read. A reader sees either all of it or nothing."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    draft.rename(path)


def publish(home: Path, jvm: Jvm) -> None:
    """Offers a JVM to the runs of the home."""
    write(jvm_path(home), json.dumps(asdict(jvm)).encode() + b"\n")


@contextmanager
def _gateway_of(jvm: Jvm) -> Iterator[None]:
    """Runs a block in which pyspark connects to this JVM instead of starting a JVM."""
    variables = {"PYSPARK_GATEWAY_PORT": str(jvm.port), "PYSPARK_GATEWAY_SECRET": jvm.secret}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:  # a child of this process must not use the JVM
            os.environ.pop(name, None)


def _return_at_exit(lease: Lease, session: SparkSession) -> None:
    """Stops Spark and gives the JVM back when this process ends.

    A separate thread does this. The main thread may have been interrupted during a call of the JVM, and its connection would then wait for
    the end of that call; the connection of another thread does not wait. The thread is started now, because no thread can be started while the
    process ends.
    """
    ending, ended = threading.Event(), threading.Event()

    def wait() -> None:
        ending.wait()
        try:
            if _stopped(lease.jvm, session):
                lease.give_back()
        except Exception:  # noqa: BLE001 - the mark stays, and the holder ends the JVM
            _log.info("The warm JVM %d could not be given back.", lease.jvm.pid, exc_info=True)
        finally:
            ended.set()

    def end() -> None:
        ending.set()
        ended.wait(_STOP_SECONDS)

    threading.Thread(target=wait, name="warm-jvm", daemon=True).start()
    atexit.register(end)


def _stopped(jvm: Jvm, session: SparkSession) -> bool:
    """Stops Spark, and releases the Java objects that the JVM holds for this process. Returns whether the JVM is fit for the next process.

    Py4J holds each Java object that it has returned to a process until the process releases the object. A process does not release them when it ends.
    """
    from py4j.java_gateway import JavaObject
    from pyspark import SparkContext

    os.kill(jvm.pid, 0)  # raises an error if the JVM has ended; Py4J would log several
    java: Any = session._jvm  # noqa: SLF001 - pyspark has no other access to its JVM
    gateway: Any = SparkContext._gateway  # noqa: SLF001
    context = SparkContext._active_spark_context  # noqa: SLF001
    objects = JavaObject("GATEWAY_SERVER", gateway._gateway_client).getGateway().getBindings()  # noqa: SLF001
    session.stop()
    if context is not None:
        context.stop()  # the process may have replaced the session
    java.org.apache.spark.sql.delta.DeltaLog.clearCache()
    contexts = getattr(getattr(java, "org.apache.spark.SparkContext$"), "MODULE$")
    stopped = bool(contexts.getActive().isEmpty())  # checked, because pyspark only warns if `stop` fails
    objects.keySet().removeIf(java.java.util.regex.Pattern.compile(r"o\d+").asMatchPredicate())
    java.java.lang.System.gc()
    heap = java.java.lang.management.ManagementFactory.getMemoryMXBean().getHeapMemoryUsage()
    return stopped and heap.getUsed() < _KEPT_SHARE * heap.getMax()
