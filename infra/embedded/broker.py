"""The embedded Kafka: Apache Kafka in KRaft mode, started from its JARs; one node is broker and controller. Writes `<home>/kafka`."""

from __future__ import annotations

import base64
import subprocess
import uuid

from infra.errors import ServiceError
from infra.jars import KAFKA, jars
from infra.java import find_java
from infra.settings import Settings


def kafka_command(settings: Settings) -> list[str]:
    """Returns the command that starts the broker."""
    return [
        str(find_java() / "bin" / "java"),
        *("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"),
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss",
        *("-cp", f"{KAFKA.folder(settings.cache_dir)}/*"),
        *("kafka.Kafka", str(settings.home / "kafka" / "server.properties")),
    ]


def prepare_kafka(settings: Settings) -> None:
    """Writes the broker's properties, and formats its storage before the first start.

    Raises:
        ServiceError: The storage cannot be formatted.
        SetupError: Java is missing, or the JARs cannot be downloaded.
    """
    folder = settings.home / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    logs = folder / "logs"
    properties.write_text(
        _PROPERTIES.format(broker=settings.ports.kafka, controller=settings.ports.kafka_controller, logs=_escaped(str(logs)))
    )
    jars(KAFKA, settings.cache_dir)
    if (logs / "meta.properties").exists():
        return
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [
        *(str(find_java() / "bin" / "java"), "-Xmx128m", "-XX:+UseSerialGC"),
        *("-cp", f"{KAFKA.folder(settings.cache_dir)}/*"),
        *("kafka.tools.StorageTool", "format", "--ignore-formatted", f"--cluster-id={cluster_id}"),
        *("-c", str(properties)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise ServiceError(
            f"Kafka's storage in {folder} could not be formatted: {reason[-1] if reason else 'Kafka printed no reason'}.",
            "Check that the home is writable and has free space.",
        )


def _escaped(path: str) -> str:
    """Returns a path with the escapes of Java's properties files."""
    return path.replace("\\", "\\\\")


# LogAppendTime: the time of a record is its arrival by the broker's clock, because a producer's clock may be wrong.
# The internal topics have few partitions and the log cleaner a small buffer, because the single node has a small heap.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
log.message.timestamp.type=LogAppendTime
log.retention.hours=168
log.cleaner.dedupe.buffer.size=16777216
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""
