"""The JARs of Kafka and of Spark's connectors. The Ivy that pyspark ships downloads them once, into braid's cache."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import distribution
from itertools import repeat
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from infra.errors import SetupError
from infra.java import find_java


@dataclass(frozen=True)
class JarSet:
    """Maven coordinates whose JARs lie in one folder, with all dependencies or without any (`transitive`)."""

    name: str
    coordinates: tuple[str, ...]
    transitive: bool = True

    def folder(self, cache_dir: Path) -> Path:
        """Returns the folder of the JARs. Its name contains the versions, so JARs of different versions never mix."""
        versions = "_".join(coordinate.split(":", 1)[1].replace(":", "-") for coordinate in self.coordinates)
        return cache_dir / "jars" / f"{self.name}_{versions}"


SPARK = JarSet(
    "spark",
    (
        "io.delta:delta-spark_4.2_2.13:4.4.0",
        "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",
        "com.globalmentor:hadoop-bare-naked-local-fs:0.1.0",
    ),
)
KAFKA = JarSet("kafka", ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36"))
#: The JARs that the package of Apache Flink lacks: the connector of Kafka, whose JAR contains its dependencies, and the base of Flink's SQL client.
FLINK = JarSet(
    "flink", ("org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2", "org.apache.flink:flink-sql-gateway:2.2.1"), transitive=False
)
#: The folder of pyspark's JARs. pyspark is not imported for it, because the import is slow and most commands need only this folder.
_PYSPARK_JARS = Path(str(distribution("pyspark").locate_file("pyspark/jars")))


def jars(wanted: JarSet, cache_dir: Path) -> list[Path]:
    """Returns the JARs of a set. They are downloaded if the cache does not have them.

    Raises:
        SetupError: The JARs cannot be downloaded.
    """
    folder = wanted.folder(cache_dir)
    if not folder.is_dir():
        _retrieve(wanted, folder)
    return sorted(folder.glob("*.jar"))


def _retrieve(wanted: JarSet, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        complete = Path(draft) / "complete"
        complete.mkdir()
        drafts = [Path(draft) / str(number) for number in range(len(wanted.coordinates))]
        # Ivy waits for the network most of the time. Its runs may not share a cache at the same time.
        with ThreadPoolExecutor(len(drafts)) as executor:
            list(executor.map(_ivy, wanted.coordinates, drafts, repeat(wanted.transitive)))
        # JARs that pyspark already ships are left out: two versions of one class on the class path would conflict.
        present = {_artifact(path) for path in _PYSPARK_JARS.glob("*.jar")} if wanted is SPARK else ()
        for path in sorted(Path(draft).glob("[0-9]*/*.jar")):
            if _artifact(path) not in present:
                shutil.move(path, complete / path.name)
        try:
            complete.rename(folder)
        except OSError:
            if not folder.is_dir():  # if the folder exists now, another process was faster
                raise


def _artifact(path: Path) -> str:
    """Returns the name of a JAR without its version."""
    return re.split(r"-(?=\d)", path.stem.removesuffix("-shaded"))[0] if not path.name.startswith("spark-") else path.stem


@retry(retry=retry_if_exception_type(SetupError), stop=stop_after_attempt(3), wait=wait_exponential(2), reraise=True)
def _ivy(coordinate: str, into: Path, transitive: bool) -> None:
    organisation, module, revision = coordinate.split(":")
    ivy = next(_PYSPARK_JARS.glob("ivy-*.jar"))
    command = [
        *(find_java() / "bin" / "java", "-jar", ivy),
        *("-cache", into / "cache"),
        *("-dependency", organisation, module, revision),
        *("-confs", "default"),
        *(() if transitive else ("-notransitive",)),
        *("-retrieve", f"{into}/[artifact]-[revision](-[classifier]).[ext]"),
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode or not list(into.glob(f"{module}-{revision}.jar")):
        lines = [line.strip() for line in done.stdout.splitlines() if "::" in line or "ERROR" in line or "WARN" in line]
        raise SetupError(
            f"The JARs of {coordinate} could not be downloaded ({'; '.join(lines[:3])[:300] or 'Ivy failed'}).",
            "Check the network and try again.",
        )
