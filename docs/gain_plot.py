"""Draws docs/images/gain.svg: what fresh features are worth in the examples.

    python -m benchmarks.example_gain --json > gain.json && python -m docs.gain_plot gain.json

Reads what `example_gain` prints, or `braid bench example_gain --json`. The picture has no background, and its colours contrast with white
and with black pages.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PICTURE = Path(__file__).parent / "images" / "gain.svg"
#: The colours of words and lines, of the features of batch alone, and of merged features.
GREY, BATCH, MERGED = "#737b85", "#c9822b", "#2f81f7"
#: The measure that stands for an example in the picture.
MEASURES = {
    "fraud": "average precision",
    "moderation": "average precision",
    "recommendation": "NDCG@10",
    "ads": "AUC",
    "search": "NDCG@10",
}
#: The example whose scenarios are shown, and their measure.
SCENARIOS_OF, SCENARIO_MEASURE = "fraud", "recall at 1 % FPR"

Row = tuple[str, Mapping[str, Any]]


def draw(results: Mapping[str, Any], target: Path) -> None:
    """Draws the picture.

    Args:
        results: Example → its figures, as `benchmarks.example_gain` prints them.
        target: The file of the SVG.
    """
    of_examples = [
        (f"{name}: {measure}", row)
        for name, measure in MEASURES.items()
        if name in results
        for row in results[name]["measures"]
        if (row["scenario"], row["measure"]) == ("all", measure)
    ]
    of_scenarios = [(row["scenario"], row) for row in results[SCENARIOS_OF]["measures"] if row["measure"] == SCENARIO_MEASURE]
    # Text stays text, so that the viewer's font is used; the same figures give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "braid", "font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        examples, scenarios = figure.subplots(1, 2)
        _panel(examples, "each example, on later days", of_examples)
        _panel(scenarios, f"{SCENARIOS_OF}: {SCENARIO_MEASURE}, by scenario", of_scenarios)
        figure.legend(*examples.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, labelcolor=GREY)
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _panel(axes: Axes, title: str, rows: Sequence[Row]) -> None:
    """A line per row, from the value on batch features to that on merged features, with the 95 % interval of the latter."""
    axes.set_title(title, color=GREY, loc="left", fontsize=12)
    for place, (_, row) in enumerate(rows):
        batch, merged = row["batch only"], row["merged"]
        low, high = (batch + bound for bound in row["interval"])
        axes.plot([low, high], [place, place], color=MERGED, linewidth=6, alpha=0.35, solid_capstyle="round")
        axes.plot([batch, merged], [place, place], color=GREY, linewidth=1)
        axes.plot(
            batch, place, "o", color=BATCH, markersize=8, label="features of the last midnight (batch only)" if not place else None
        )
        axes.plot(
            merged,
            place,
            "o",
            color=MERGED,
            markersize=8,
            label="merged features, with the 95 % interval of the gain" if not place else None,
        )
        axes.annotate(
            f"{batch:.2f} → {merged:.2f}",
            (1.04, place),
            xycoords=axes.get_yaxis_transform(),
            color=GREY,
            verticalalignment="center",
        )
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(colors=GREY, length=0)
    axes.grid(axis="x", color=GREY, alpha=0.3)
    for spine in axes.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    printed = json.loads(Path(sys.argv[1]).read_text())
    draw(printed.get("example_gain", printed), PICTURE)
