"""Great Expectations: a suite run on a data frame, and its page in the data docs, which the service data-docs shows.

An expectation says how grave it is that it does not hold: a critical one keeps what was checked from going on, a warning is shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from pyspark.sql import DataFrame

from infra.settings import Settings

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

#: Pages of the data docs that the index lists.
_PAGES = 500
_SITE = "braid"


@dataclass(frozen=True)
class Verdict:
    """What a suite found.

    Attributes:
        expectations: How many there were.
        rows: Of the data frame.
        critical: The critical ones that do not hold, in words.
        warnings: Those that only warn.
        docs: The address of the suite's page in the data docs.
    """

    expectations: int
    rows: int
    critical: tuple[str, ...]
    warnings: tuple[str, ...]
    docs: str

    def results(self, asset: dg.AssetKey, whole: str, plausible: str) -> tuple[dg.AssetCheckResult, dg.AssetCheckResult]:
        """The verdict as two checks of an asset: `whole`, which errors, and `plausible`, which warns."""
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


def gx_expectations() -> Any:
    """The module `great_expectations.expectations`.

    It imports pyspark's client for Spark Connect, which takes a process without a main module for a run of its own doctests and ends it
    without a word; a run that Dagster's code server has spawned is such a process.
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
    """Runs a suite on a data frame and adds a page to the data docs.

    Args:
        settings: Where the data docs are.
        frame: What is checked.
        name: Of the suite.
        expectations: Great Expectations' own; `severity` is "critical" unless they say "warning".
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
    [(identifier, found)] = run.run_results.items()
    [site] = context.get_docs_sites_urls(identifier, site_name=_SITE)
    page = Path(str(site["site_url"]).removeprefix("file://")).relative_to(settings.data_docs)
    failed: dict[str, list[str]] = {"critical": [], "warning": []}
    rows = 0
    for one in found.results:
        config = one.expectation_config
        assert config is not None
        if config.type == counted.expectation_type:
            rows = one.result["observed_value"]
        if not one.success:
            grave = "warning" if str(getattr(config.severity, "value", config.severity)) == "warning" else "critical"
            failed[grave].append(_in_words(config, one.result))
    return Verdict(
        len(found.results) - 1, rows, tuple(failed["critical"]), tuple(failed["warning"]), f"{settings.data_docs_url}/{page}"
    )


def _in_words(config: Any, result: dict[str, Any]) -> str:
    """An expectation that does not hold, such as "expect_column_values_to_not_be_null amount: 3 of 10"."""
    what = f"{config.type} {config.kwargs.get('column') or config.description or ''}".strip()
    if "unexpected_count" in result:
        return f"{what}: {result['unexpected_count']} of {result.get('element_count', '?')}"
    return f"{what}: {result['observed_value']}" if "observed_value" in result else what
