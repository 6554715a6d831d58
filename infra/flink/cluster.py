"""A cluster of Flink on this machine: the configuration and the commands of the JobManager, the TaskManager and the SQL client. Writes `<home>/flink`."""

from __future__ import annotations

from pathlib import Path

from infra.flink.distribution import distribution
from infra.java import find_java
from infra.settings import Settings

#: The largest number of sources of a deployment: each source has a job, and each job needs a slot.
_SLOTS = 16
#: The exports and opens of Java's modules, as in Flink's own scripts.
_MODULES = (
    *(f"--add-exports=jdk.compiler/com.sun.tools.javac.{part}=ALL-UNNAMED" for part in ("api", "file", "parser", "tree", "util")),
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    *(
        f"--add-opens=java.base/{part}=ALL-UNNAMED"
        for part in (
            "java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect", "java.text", "java.time", "java.util",
            "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks",
        )
    ),
)  # fmt: skip


def rest_url(settings: Settings) -> str:
    """Returns the address of the JobManager's REST interface and web pages."""
    return f"http://127.0.0.1:{settings.ports.flink_rest}"


def jobmanager_command(settings: Settings) -> list[str]:
    """Returns the command that starts the JobManager. The JobManager has no state that outlives its process."""
    program = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    return [*_java(settings, "192m"), program, "--configDir", str(_folder(settings)), "--executionMode", "cluster"]


def taskmanager_command(settings: Settings) -> list[str]:
    """Returns the command that starts the only TaskManager."""
    program = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
    return [*_java(settings, "256m"), "-XX:MaxDirectMemorySize=160m", program, "--configDir", str(_folder(settings))]


def sql_client_command(settings: Settings, script: Path) -> list[str]:
    """Returns the command that submits the statements of a file. Run the command with the variables of `sql_client_environment`."""
    options = _java(settings, "256m", "-XX:TieredStopAtLevel=1")
    options[-1] = f"{options[-1]}:{distribution(settings)}/opt/*"
    return [*options, "org.apache.flink.table.client.SqlClient", "embedded", "-f", str(script)]


def sql_client_environment(settings: Settings) -> dict[str, str]:
    """Returns the environment variables by which the SQL client finds the cluster's configuration and Flink's libraries."""
    return {"FLINK_CONF_DIR": str(_folder(settings)), "FLINK_LIB_DIR": str(distribution(settings) / "lib")}


def prepare_flink(settings: Settings) -> None:
    """Installs Flink if it is missing, and writes the configuration of the cluster.

    Raises:
        SetupError: Flink or Java cannot be installed.
    """
    distribution(settings)
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log4j.properties").write_text(_LOG4J)
    ports = settings.ports
    values = {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.bind-host": "127.0.0.1",
        "jobmanager.rpc.port": ports.flink_rpc,
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": ports.flink_rest,
        "web.submit.enable": "false",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": _SLOTS,
        "taskmanager.cpu.cores": 1,
        # The sizes by which the TaskManager plans its memory. The bounds of its JVM are options of its command.
        "taskmanager.memory.framework.heap.size": "64m",
        "taskmanager.memory.task.heap.size": "192m",
        "taskmanager.memory.framework.off-heap.size": "64m",
        "taskmanager.memory.task.off-heap.size": "32m",
        "taskmanager.memory.network.min": "32m",
        "taskmanager.memory.network.max": "32m",
        "taskmanager.memory.managed.size": "0m",
        "taskmanager.memory.jvm-metaspace.size": "192m",
        "taskmanager.memory.jvm-overhead.min": "64m",
        "taskmanager.memory.jvm-overhead.max": "64m",
        # On a busy machine an actor system takes longer to start than Flink waits by default.
        "pekko.startup-timeout": "60 s",
        "heartbeat.interval": "2 s",
        "heartbeat.timeout": "8 s",
        "execution.target": "remote",
        "execution.attached": "false",
        "parallelism.default": 1,
        # A job's only state is its offsets, so a checkpoint is small. A restarted TaskManager continues from the last checkpoint.
        "execution.checkpointing.interval": "10 s",
        "execution.checkpointing.mode": "AT_LEAST_ONCE",
        "execution.checkpointing.storage": "filesystem",
        "execution.checkpointing.dir": (settings.home / "flink" / "checkpoints").as_uri(),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": 2_147_483_647,
        "restart-strategy.fixed-delay.delay": "1 s",
        "execution.buffer-timeout.interval": "5 ms",
        "pipeline.object-reuse": "true",
        "table.local-time-zone": "UTC",
        "io.tmp.dirs": str(settings.home / "flink" / "tmp"),
    }
    (settings.home / "flink" / "tmp").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("".join(f'{name}: "{value}"\n' for name, value in values.items()))


def _folder(settings: Settings) -> Path:
    return settings.home / "flink" / "conf"


def _java(settings: Settings, heap: str, *options: str) -> list[str]:
    folder = distribution(settings)
    return [
        str(find_java() / "bin" / "java"),
        *(f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:MaxMetaspaceSize=192m", "-XX:+ExitOnOutOfMemoryError", *options),
        *_MODULES,
        f"-Dlog4j.configurationFile={(_folder(settings) / 'log4j.properties').as_uri()}",
        *("-cp", f"{folder}/lib/*"),
    ]


_LOG4J = """\
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss} %p %c{1} %m%n
"""
