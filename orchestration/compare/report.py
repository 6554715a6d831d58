"""The figures of a comparison as a table for the terminal, as Markdown and as a plot."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

#: Variant, such as "lambda/spark", → its figures.
Figures = Mapping[str, Mapping[str, Any]]
#: Figure, in the order of the table → its name in the table.
MEASURES = {
    "freshness_p50_ms": "freshness p50, ms",
    "freshness_p99_ms": "freshness p99, ms",
    "freshness_max_ms": "freshness max, ms",
    "cpu_ms_per_event": "CPU of the speed layer per event, ms",
    "speed_memory_mib": "memory of the speed layer, MiB",
    "peak_memory_mib": "memory of all processes, peak, MiB",
    "store_kib": "online store, KiB",
    "seconds_to_answers": "from a loaded history to answers, s",
    "seconds_after_lost_store": "after a lost store, s",
    "seconds_after_changed_declaration": "after a changed declaration, s",
    "cells_compared": "cells compared with brute force",
    "cells_different": "cells that differ",
    "entities_degraded": "entities marked as degraded",
}
#: The measures of the plot. The colours contrast with white and with black pages.
PLOTTED = tuple(MEASURES)[:-3]
GREY, BAR = "#737b85", "#2f81f7"


def table(figures: Figures) -> Table:
    """Returns a table for the terminal, with a row per measure and a column per variant."""
    shown = Table("", *figures)
    for row in _rows(figures):
        shown.add_row(*row)
    return shown


def markdown(figures: Figures) -> str:
    """Returns the same table as Markdown."""
    lines = [f"| | {' | '.join(figures)} |", f"|---{'|---' * len(figures)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in _rows(figures))])


def plot(figures: Figures, target: Path) -> None:
    """Plots a bar per variant for each measure, and writes the plot to a file, whose suffix names the format (.svg, .png, .pdf)."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = 4
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "braid", "font.size": 9}):
        rows = -(-len(PLOTTED) // columns)
        figure = Figure(figsize=(12, rows * (0.7 + 0.3 * len(figures))), layout="constrained")
        places = list(figure.subplots(rows, columns).flat)
        for axes in places[len(PLOTTED) :]:
            axes.set_axis_off()
        for axes, measure in zip(places, PLOTTED, strict=False):
            values = [of_variant.get(measure) or 0 for of_variant in figures.values()]
            bars = axes.barh(list(figures), values, color=BAR, height=0.6)
            axes.bar_label(bars, [_text(value) for value in values], color=GREY, padding=2)
            axes.set_title(textwrap.fill(MEASURES[measure], 26), color=GREY, loc="left", fontsize=9)
            axes.tick_params(colors=GREY, length=0)
            axes.set_xticks([])
            axes.set_xlim(0, max(*values, 1e-9) * 1.35)
            axes.invert_yaxis()
            for spine in axes.spines.values():
                spine.set_visible(False)
        metadata = {"Date": None, "Creator": None} if target.suffix == ".svg" else None
        figure.savefig(target, transparent=True, metadata=metadata)


def _rows(figures: Figures) -> list[list[str]]:
    """Returns a row per measure: its name, and the figure of each variant as text."""
    return [[name, *(_text(of_variant.get(measure)) for of_variant in figures.values())] for measure, name in MEASURES.items()]


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"
