"""The archive of Spark's classes: Java maps it where `make setup` has made it, and works without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from infra.class_archive import class_archive, class_archive_options
from infra.java import find_java
from infra.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.skipif(not psutil.LINUX, reason="the memory of another process is looked at")
def test_the_java_of_a_session_maps_the_archive(spark: SparkSession, settings: Settings) -> None:
    archive = class_archive(find_java(), settings.cache_dir)
    if not archive.exists():
        pytest.skip("`make setup` has made no archive here")
    [java] = [child for child in psutil.Process().children() if child.name() == "java"]
    assert spark.range(1).count() == 1
    assert str(archive) in {mapped.path for mapped in java.memory_maps()}


def test_without_an_archive_there_is_no_option(tmp_path: Path) -> None:
    assert class_archive_options(tmp_path / "another-java", tmp_path) == []
    assert class_archive(tmp_path, tmp_path / "a cache") != class_archive(tmp_path, tmp_path / "another"), (
        "Java maps it for JARs of the same paths alone"
    )
