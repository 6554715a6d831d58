"""The Spark session: Delta, Kafka, UTC, and Python workers that see braid's rooms."""

from __future__ import annotations

import os
import sys

from pyspark.sql import SparkSession

from infra.jars import SPARK, jars
from infra.java import find_java
from infra.settings import Settings


def spark_session(settings: Settings, name: str, memory: str, extra: dict[str, str] | None = None) -> SparkSession:
    """A session on `settings.spark_master`; the one of this process, if it already runs. Arguments as `spark_properties`."""
    builder = SparkSession.builder
    for key, value in spark_properties(settings, name, memory, extra).items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def spark_properties(settings: Settings, name: str, memory: str, extra: dict[str, str] | None = None) -> dict[str, str]:
    """The properties of a session; also points this process at the Java and the Python that its JVM and its workers need.

    Args:
        settings: Where the lake, the cache and the master are.
        name: Shown in Spark's UI and logs.
        memory: Heap of the driver, such as "2g"; counts only for the first session of a process.
        extra: Spark properties on top.
    """
    os.environ["JAVA_HOME"] = str(find_java())
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    # Else a worker takes a folder of the working directory, such as a project's own features/, for braid's room of that name.
    os.environ["PYTHONSAFEPATH"] = "1"
    scratch = settings.home / "spark"
    scratch.mkdir(parents=True, exist_ok=True)
    log4j = scratch / "log4j2.properties"
    log4j.write_text(_LOG4J)
    return {
        "spark.app.name": name,
        "spark.master": settings.spark_master,
        "spark.jars": ",".join(str(path) for path in jars(SPARK, settings.cache_dir)),
        "spark.driver.memory": memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": " ".join(
            (
                # as a URI, since Log4j takes a comma in a path for two files
                _quoted(f"-Dlog4j2.configurationFile={log4j.as_uri()}"),
                _quoted(f"-Dderby.system.home={scratch}"),
                "-XX:+UseParallelGC",  # on few cores the cheapest
                # A run compiles thousands of methods that are soon over: the optimizing compiler gets those that stay hot.
                "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000",
                "-XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000",
            )
        ),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        # A division by zero in one event must not end the stream: it gives NULL, in both layers.
        "spark.sql.ansi.enabled": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.shuffle.partitions": "4",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.databricks.delta.schema.autoMerge.enabled": "false",
        "spark.sql.streaming.stateStore.providerClass": "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
        **(extra or {}),
    }


def _quoted(option: str) -> str:
    """An option of Java as Spark's launcher reads it; a home may have spaces."""
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
