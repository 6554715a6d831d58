"""The Spark session of a process: with Delta and Kafka, in UTC."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import SparkSession

from infra.class_archive import class_archive_options
from infra.jars import SPARK, jars
from infra.java import find_java
from infra.settings import Settings
from infra.spark_daemon import MODULES

#: The modules that the tasks of a batch import, by their names, because `infra` does not import the room `batch`.
_BATCH_MODULES = "batch.point_in_time,batch.publish,batch.tiles"


def spark_session(settings: Settings, name: str, memory: str, extra: dict[str, str] | None = None) -> SparkSession:
    """Returns the Spark session of this process on `settings.spark_master`, created at the first call. For the arguments see `spark_properties`."""
    return session_of(spark_properties(settings, name, memory, extra))


def session_of(properties: Mapping[str, str]) -> SparkSession:
    """Returns the Spark session of this process, created with these properties at the first call."""
    builder = SparkSession.builder
    for key, value in properties.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def spark_properties(settings: Settings, name: str, memory: str, extra: dict[str, str] | None = None) -> dict[str, str]:
    """Returns the properties of a session. Also sets the environment variables for Spark's Java and Python.

    Args:
        settings: The settings that name the master, the home and the cache of JARs.
        name: The name of the application in Spark's logs.
        memory: The heap of the driver, such as "2g". It has an effect only for the first session of a process.
        extra: More Spark properties, which override those here.
    """
    java = find_java()
    os.environ["JAVA_HOME"] = str(java)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    # Otherwise a worker would import a folder of the working directory, such as a project's own features/, instead of braid's room of that name.
    os.environ["PYTHONSAFEPATH"] = "1"
    scratch = settings.home / "spark"
    scratch.mkdir(parents=True, exist_ok=True)
    log4j = scratch / "log4j2.properties"
    log4j.write_text(_LOG4J)
    present = jars(SPARK, settings.cache_dir)
    return {
        "spark.app.name": name,
        "spark.master": settings.spark_master,
        "spark.jars": ",".join(map(str, present)),
        "spark.driver.memory": memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": " ".join(
            (
                # A URI, because Log4j reads a path with a comma as two files.
                _quoted(f"-Dlog4j2.configurationFile={log4j.as_uri()}"),
                _quoted(f"-Dderby.system.home={scratch}"),
                "-XX:+UseParallelGC",  # the collector with the least CPU time on few cores
                # A short run calls thousands of methods for a short time only, so the optimizing compiler (C2) compiles only those called often.
                "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000",
                "-XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000",
                # By default Java interprets methods of more than 8,000 bytes for ever. Spark generates one that judges the events of a source.
                "-XX:-DontCompileHugeMethods",
                *map(_quoted, class_archive_options(java, settings.cache_dir)),
            )
        ),
        **(_without_chmod(present) if settings.spark_master.startswith("local") else {}),
        # Over TCP on the loopback, the first rows for a Python worker often wait for 40 ms, the delay of an acknowledgement.
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.python.daemon.module": "infra.spark_daemon",
        f"spark.executorEnv.{MODULES}": _BATCH_MODULES,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        # Without ANSI mode a division by zero yields NULL in both layers. With ANSI mode a single such event would end the stream.
        "spark.sql.ansi.enabled": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.shuffle.partitions": "4",
        # The number of tasks in which VACUUM lists folders. The default, 10,000, takes minutes of CPU time for a table of three files.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "8",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.databricks.delta.schema.autoMerge.enabled": "false",
        **(extra or {}),
    }


def _without_chmod(present: list[Path]) -> dict[str, str]:
    """Returns properties for local files with another implementation than Hadoop's, which starts a `chmod` for each file that it creates."""
    jar = next(path for path in present if path.name.startswith("hadoop-bare"))
    return {
        # The launcher of Spark needs the class before it reads `spark.jars`.
        "spark.driver.extraClassPath": str(jar),
        "spark.hadoop.fs.file.impl": "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem",
    }


def _quoted(option: str) -> str:
    """Returns a Java option in the quotes that Spark's launcher needs, because the path of a home may contain spaces."""
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_LOG4J = """\
status = error
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss} %p %c{1}: %m%n
"""
