"""The class data sharing archive of Spark's classes. A JVM that maps the archive spends a quarter less CPU time on its start.

`make setup` writes the archive beside the package of Spark. Its file name contains a hash of the Java, the Spark and the JARs. Java checks the
JARs, too, and ignores an archive that does not match them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyspark

from infra.jars import SPARK

#: Options that suppress Java's messages about an archive that cannot be written or mapped, because Java works without the archive, too.
QUIETLY = ("-Xlog:cds=off", "-Xlog:cds+dynamic=off")


def class_archive(java: Path, cache: Path) -> Path:
    """Returns the path of the archive for the Java in the folder `java`, this Spark, and its JARs in the folder `cache`."""
    parts = (str(java), pyspark.__file__, pyspark.__version__, str(SPARK.folder(cache)), *SPARK.coordinates)
    return Path(pyspark.__file__).parents[1] / f"spark-classes-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}.jsa"


def class_archive_options(java: Path, cache: Path) -> list[str]:
    """Returns the options with which Java maps the archive; empty if there is no archive."""
    archive = class_archive(java, cache)
    return [f"-XX:SharedArchiveFile={archive}", *QUIETLY] if archive.exists() else []
