"""Plots as Dagster metadata: PNG images in Markdown, which Dagster's UI shows on the page of the asset."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd

from monitoring.experiment import ExperimentReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(image: bytes) -> dg.MarkdownMetadataValue:
    """Returns metadata that shows a PNG image."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(image).decode()})")


def feature_distributions(values: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """Plots a histogram per numeric column, with values above the 99th percentile clipped to it."""
    values = values.select_dtypes("number")
    figure = _blank(3 * max(1, len(values.columns)), 2.2)
    for index, name in enumerate(values.columns):
        column = values[name].astype("float64").dropna()
        axes = figure.add_subplot(1, len(values.columns), index + 1)
        axes.hist(column.clip(upper=column.quantile(0.99)) if len(column) else [], bins=30)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=6)
    return _figure(figure)


def rates(table: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """Plots a bar per feature: the shares of cells that were served without a value, with an extra value, or with another value.

    Args:
        table: `monitoring.consistency.ConsistencyReport.table`.
    """
    figure = _blank(6, 0.4 * len(table) + 1)
    axes = figure.add_subplot(title="share of cells", xlim=(0, max(0.01, table[["mismatch_rate"]].to_numpy().max(initial=0))))
    left = [0.0] * len(table)
    for name in ("missing_rate", "extra_rate", "other"):
        share = table["mismatch_rate"] - table["missing_rate"] - table["extra_rate"] if name == "other" else table[name]
        axes.barh(table["feature"], share, left=left, label=name.removesuffix("_rate"))
        left = [a + b for a, b in zip(left, share, strict=True)]
    axes.legend(fontsize=7)
    return _figure(figure)


def intervals(report: ExperimentReport) -> dg.MarkdownMetadataValue:
    """Plots the difference in the measure between each variant and the first variant, with its confidence interval."""
    figure = _blank(6, 0.6 * len(report.comparisons) + 1)
    axes = figure.add_subplot(title=f"{report.criterion.words}, difference to the first variant")
    axes.axvline(0, color="grey", linestyle=":")
    for place, comparison in enumerate(report.comparisons):
        if comparison.difference is not None:
            axes.plot([comparison.difference.low, comparison.difference.high], [place, place])
            axes.plot(comparison.difference.value, place, "o")
    labels = [f"{comparison.variant} – {comparison.against}" for comparison in report.comparisons]
    axes.set_yticks(range(len(report.comparisons)), labels)
    return _figure(figure)


def _blank(width: float, height: float) -> Figure:
    """Returns an empty figure of a width and height in inches.

    It imports matplotlib here, because the import takes a second: each process of Dagster imports this module, and few of them draw.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _figure(figure: Figure) -> dg.MarkdownMetadataValue:
    target = BytesIO()
    figure.tight_layout()
    figure.savefig(target, format="png", dpi=80)
    return png(target.getvalue())
