"""The part of `make setup` that runs in the new environment: finds or installs Java and the JARs. Prints their paths as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyspark import SparkContext

from infra.class_archive import QUIETLY, class_archive
from infra.errors import BraidError
from infra.jars import KAFKA, SPARK, JarSet, jars
from infra.java import ensure_java
from infra.settings import Settings
from infra.spark import session_of, spark_properties

#: The longest time that Java may take to write the archive.
_PATIENCE_SECONDS = 300


def main() -> int:
    """Installs what is missing, and prints each step to stderr. Returns the exit status."""
    try:
        home = ensure_java()
        print(f"    Java: {home}", file=sys.stderr, flush=True)
        paths = [str(home / "bin" / "java")]
        cache = Settings().cache_dir.expanduser().absolute()
        with ThreadPoolExecutor(1) as executor:
            of_kafka = executor.submit(_download, KAFKA, cache)
            paths.append(_download(SPARK, cache))
            if not (archive := class_archive(home, cache)).exists():
                print(f"    an archive of Spark's classes, by which Java starts faster: {archive}", file=sys.stderr, flush=True)
                make_class_archive(archive)
            paths.append(of_kafka.result())
        paths += [str(archive)] if archive.exists() else []
    except BraidError as error:
        print(f"make setup: {error}", file=sys.stderr)
        return 1
    print(json.dumps(paths))
    return 0


def _download(wanted: JarSet, cache: Path) -> str:
    """Downloads the JARs of a set if the cache does not have them. Returns their folder."""
    count, folder = len(jars(wanted, cache)), wanted.folder(cache)
    print(f"    JARs of {wanted.name}: {count} in {folder}", file=sys.stderr, flush=True)
    return str(folder)


def make_class_archive(archive: Path) -> None:
    """Runs a small job on Spark. When its Java ends, Java writes the job's classes into the archive.

    An archive that cannot be written is no error: without an archive, Java only starts more slowly.
    """
    draft = archive.with_suffix(".draft")
    with tempfile.TemporaryDirectory() as home:
        properties = spark_properties(Settings.load(Path(home)), "braid setup", "1g")
        properties["spark.driver.extraJavaOptions"] += f' "-XX:ArchiveClassesAtExit={draft}" {" ".join(QUIETLY)}'
        spark = session_of(properties)
        spark.sparkContext.setLogLevel("OFF")
        table = str(Path(home) / "table")
        spark.range(1_000).selectExpr("id", "id % 7 AS part", "CAST(id AS STRING) AS text").write.format("delta").save(table)
        rows = spark.read.format("delta").load(table)
        rows.groupBy("part").count().join(rows, "part").collect()
        stream = spark.readStream.format("delta").load(table).writeStream.format("noop").trigger(availableNow=True)
        stream.option("checkpointLocation", str(Path(home) / "checkpoint")).start().awaitTermination()
        gateway = SparkContext._gateway  # noqa: SLF001 — Java ends, and writes the archive, when its gateway does
        assert gateway is not None
        spark.stop()
        java = gateway.proc
        gateway.shutdown()
        java.stdin.close()
        java.wait(_PATIENCE_SECONDS)
    if draft.exists():
        draft.rename(archive)


if __name__ == "__main__":
    sys.exit(main())
