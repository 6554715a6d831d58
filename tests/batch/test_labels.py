"""The owner's own labels: of a label that is loaded again, the last value counts."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from batch.labels import LABEL
from batch.load import load_events
from infra.settings import Settings
from tests.payments import relay

_HEADER = "terminal_id,other_terminal_id,minutes,time,label\n"
_TIME = "2026-11-01T11:30:00Z"


def _load(spark: SparkSession, lake: Settings, path: Path, text: str) -> tuple[int, int, int]:
    path.write_text(text)
    assert relay.labels is not None
    report = load_events(spark, lake, relay.labels, path, correctable=LABEL)
    return report.loaded, report.duplicates, report.quarantined


def _labels(spark: SparkSession, lake: Settings) -> list[tuple[str, int, int]]:
    assert relay.labels is not None
    rows = spark.read.format("delta").load(lake.table(relay.labels.table)).collect()
    return sorted((row["terminal_id"], row["minutes"], row["label"]) for row in rows)


def test_a_verdict_that_is_withdrawn_replaces_the_first_also_without_ids(
    spark: SparkSession, lake: Settings, tmp_path: Path
) -> None:
    first = f"{_HEADER}a,b,1,{_TIME},0\na,b,2,{_TIME},0\n"
    assert _load(spark, lake, tmp_path / "first.csv", first) == (2, 0, 0)
    assert _load(spark, lake, tmp_path / "first.csv", first) == (0, 2, 0)
    assert _load(spark, lake, tmp_path / "fraud.csv", f"{_HEADER}a,b,2,{_TIME},1\n") == (1, 0, 0)
    assert _labels(spark, lake) == [("a", 1, 0), ("a", 2, 1)]
    assert _load(spark, lake, tmp_path / "withdrawn.csv", f"{_HEADER}a,b,2,{_TIME},0\n") == (1, 0, 0)
    assert _labels(spark, lake) == [("a", 1, 0), ("a", 2, 0)]


def test_rows_that_are_equal_but_for_their_label_are_two_labels(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    assert _load(spark, lake, tmp_path / "twice.csv", f"{_HEADER}a,b,1,{_TIME},0\na,b,1,{_TIME},1\n") == (2, 0, 0)
    assert _labels(spark, lake) == [("a", 1, 0), ("a", 1, 1)]


def test_the_last_label_of_an_id_counts_also_within_a_file_and_at_another_time(
    spark: SparkSession, lake: Settings, tmp_path: Path
) -> None:
    header = f"label_id,{_HEADER}"
    first = f"{header}l1,a,b,1,{_TIME},0\nl2,a,b,2,{_TIME},0\nl1,a,b,1,{_TIME},1\n"
    assert _load(spark, lake, tmp_path / "first.csv", first) == (2, 1, 0)
    assert _labels(spark, lake) == [("a", 1, 1), ("a", 2, 0)]
    assert _load(spark, lake, tmp_path / "second.csv", f"{header}l2,a,b,2,2026-10-24T11:30:00Z,1\n") == (1, 0, 0)
    assert _labels(spark, lake) == [("a", 1, 1), ("a", 2, 1)]
