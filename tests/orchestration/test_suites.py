"""A suite's verdict on a data frame, and the page that it links to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from infra.settings import Settings
from orchestration.checks.suites import gx_expectations, validate

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_a_verdict_tells_what_is_grave_from_what_is_not_and_links_the_page_that_shows_it(
    spark: SparkSession, tmp_path: Path
) -> None:
    settings, gxe = Settings.load(tmp_path / "a home"), gx_expectations()
    frame = spark.createDataFrame([(1, 5.0), (2, -1.0), (3, None)], "id INT, amount DOUBLE")
    pages = set()
    for name in ("first", "second"):
        expectations = [
            gxe.ExpectColumnValuesToBeUnique(column="id"),
            gxe.ExpectColumnValuesToNotBeNull(column="amount"),
            gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, severity="warning"),
        ]
        verdict = validate(settings, frame, name, expectations)
        assert (verdict.expectations, verdict.rows) == (3, 3)
        [critical], [warning] = verdict.critical, verdict.warnings
        assert "not_be_null amount" in critical
        assert "between amount" in warning
        page = settings.data_docs / verdict.docs.removeprefix(f"{settings.data_docs_url}/")
        assert page.suffix == ".html"
        assert name in page.read_text()
        pages.add(page)
    assert len(pages) == 2
