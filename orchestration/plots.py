"""Plots as metadata: pictures in Markdown, which Dagster's UI shows beside the asset."""

import base64
from io import BytesIO

import dagster as dg
import pandas as pd
from matplotlib.figure import Figure


def png(image: bytes) -> dg.MarkdownMetadataValue:
    """A picture."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(image).decode()})")


def feature_distributions(values: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """A histogram per column, up to its 99th percentile."""
    figure = Figure(figsize=(3 * len(values.columns), 2.2))
    for index, name in enumerate(values.columns):
        column = values[name].astype("float64").dropna()
        axes = figure.add_subplot(1, len(values.columns), index + 1)
        axes.hist(column.clip(upper=column.quantile(0.99)) if len(column) else [], bins=30)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=6)
    target = BytesIO()
    figure.tight_layout()
    figure.savefig(target, format="png", dpi=80)
    return png(target.getvalue())
