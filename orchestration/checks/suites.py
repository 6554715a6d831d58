"""Great Expectations: runs a suite on a data frame and writes its page of the data docs, which the service data-docs shows.

Each expectation has a severity. A failed critical expectation blocks the publication; a failed warning is only shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import dagster as dg
from pyspark.sql import DataFrame

from infra.settings import Settings

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

#: The number of pages in the index of the data docs.
_PAGES = 500
_SITE = "braid"


@dataclass(frozen=True)
class Verdict:
    """The result of a suite.

    Attributes:
        expectations: The number of expectations.
        rows: The number of rows.
        critical: The failed critical expectations, in words.
        warnings: The failed expectations that only warn, in words.
        docs: The address of the suite's page in the data docs.
    """

    expectations: int
    rows: int
    critical: tuple[str, ...]
    warnings: tuple[str, ...]
    docs: str

    def results(self, asset: dg.AssetKey, whole: str, plausible: str) -> tuple[dg.AssetCheckResult, dg.AssetCheckResult]:
        """Returns the results of two checks of an asset.

        Args:
            asset: The asset.
            whole: The name of the check that fails with an error if a critical expectation failed.
            plausible: The name of the check that fails with a warning if another expectation failed.
        """
        metadata: dict[str, Any] = {
            "expectations": self.expectations,
            "rows": self.rows,
            "data docs": dg.MetadataValue.url(self.docs),
        }
        return tuple(
            dg.AssetCheckResult(
                passed=not failed, asset_key=asset, check_name=name, severity=severity,
                metadata={**metadata, "failed": "; ".join(failed) or "none"},
            )
            for name, failed, severity in (
                (whole, self.critical, dg.AssetCheckSeverity.ERROR), (plausible, self.warnings, dg.AssetCheckSeverity.WARN),
            )
        )  # type: ignore[return-value]  # fmt: skip


def joined(verdicts: Mapping[str, Verdict]) -> Verdict:
    """Joins the verdicts of several runs of a suite.

    The page is that of the last run with a failed critical expectation, else of the last run with a failed warning, else of the last run.

    Args:
        verdicts: Subject of the run, such as a day → its verdict.
    """
    every = list(verdicts.values())
    blocked, warned = (
        [verdict for verdict in every if failed(verdict)] for failed in (attrgetter("critical"), attrgetter("warnings"))
    )
    return Verdict(
        sum(verdict.expectations for verdict in every),
        sum(verdict.rows for verdict in every),
        tuple(f"{name}: {words}" for name, verdict in verdicts.items() for words in verdict.critical),
        tuple(f"{name}: {words}" for name, verdict in verdicts.items() for words in verdict.warnings),
        (blocked or warned or every)[-1].docs,
    )


def gx_expectations() -> Any:
    """Imports and returns the module `great_expectations.expectations`.

    The module imports pyspark's client for Spark Connect. If the main module of the process has no file name, that client assumes that its doctests
    run, and ends the process without a message. Dagster's code server starts runs in such processes, so the main module gets a file name here.
    """
    main = sys.modules["__main__"]
    nameless = main.__spec__ is None and not hasattr(main, "__file__")
    if nameless:
        main.__file__ = __file__
    try:
        from great_expectations import expectations
    finally:
        if nameless:
            del main.__file__
    return expectations


def validate(settings: Settings, frame: DataFrame, name: str, expectations: Sequence[Any]) -> Verdict:
    """Runs a suite on a data frame, and adds a page to the data docs.

    Args:
        settings: The settings that name the data docs.
        frame: The data.
        name: The name of the suite.
        expectations: Expectations of Great Expectations, whose `severity` is "critical" or "warning".
    """
    gxe = gx_expectations()
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.add_data_docs_site(
        _SITE,
        {
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(settings.data_docs)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "validation_results_limit": _PAGES},
        },
    )
    batch = (
        context.data_sources.add_or_update_spark("spark", persist=False)
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe(name)
    )
    counted = gxe.ExpectTableRowCountToBeBetween(min_value=0)
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=[counted, *expectations]))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[definition],
        result_format="BASIC",
        actions=[UpdateDataDocsAction(name="docs", site_names=[_SITE])],
    )
    frame = frame.persist()
    try:
        run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
    finally:
        frame.unpersist()
    [(identifier, outcome)] = run.run_results.items()
    [site] = context.get_docs_sites_urls(identifier, site_name=_SITE)
    page = Path(str(site["site_url"]).removeprefix("file://")).relative_to(settings.data_docs)
    failed: dict[str, list[str]] = {"critical": [], "warning": []}
    rows = 0
    for result in outcome.results:
        config = result.expectation_config
        assert config is not None
        if config.type == counted.expectation_type:
            rows = result.result["observed_value"]
        if not result.success:
            severity = "warning" if str(getattr(config.severity, "value", config.severity)) == "warning" else "critical"
            failed[severity].append(_in_words(config, result.result))
    return Verdict(
        len(outcome.results) - 1, rows, tuple(failed["critical"]), tuple(failed["warning"]), f"{settings.data_docs_url}/{page}"
    )


def _in_words(config: Any, result: dict[str, Any]) -> str:
    """Returns a failed expectation in words, such as "expect_column_values_to_not_be_null amount: 3 of 10"."""
    what = f"{config.type} {config.kwargs.get('column') or config.description or ''}".strip()
    if "unexpected_count" in result:
        return f"{what}: {result['unexpected_count']} of {result.get('element_count', '?')}"
    return f"{what}: {result['observed_value']}" if "observed_value" in result else what
