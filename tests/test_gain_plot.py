"""The picture of what fresh features are worth: it has the figures of the benchmark, and the README's table has the same."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from docs.gain_plot import PICTURE, draw

README = Path(__file__).parents[1] / "README.md"


def texts_of(picture: Path) -> set[str]:
    return {(element.text or "").strip() for element in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")}


def row(scenario: str, measure: str, batch: float, merged: float) -> dict[str, object]:
    return {"scenario": scenario, "measure": measure, "batch only": batch, "merged": merged, "interval": [0.1, 0.2]}


def test_the_picture_has_the_measure_of_each_example_and_the_scenarios_of_fraud(tmp_path: Path) -> None:
    fraud = [
        row("all", "average precision", 0.25, 0.5),
        row("all", "recall at 1 % FPR", 0.5, 0.75),
        row("card testing", "recall at 1 % FPR", 0, 1),
    ]
    draw({"fraud": {"measures": fraud}, "ads": {"measures": [row("all", "AUC", 0.625, 0.75)]}}, tmp_path / "gain.svg")
    labels = {"fraud: average precision", "ads: AUC", "all", "card testing"}
    assert labels | {"0.25 → 0.50", "0.62 → 0.75", "0.50 → 0.75", "0.00 → 1.00"} <= texts_of(tmp_path / "gain.svg")


def test_the_table_of_the_readme_has_the_figures_of_the_picture() -> None:
    pairs = re.findall(
        r"^\|[^|]+\| (?:average precision|recall at 1 % false positives) \| (\S+) \| (\S+) \|", README.read_text(), re.MULTILINE
    )
    assert len(pairs) == 5
    assert {f"{batch} → {merged}" for batch, merged in pairs} <= texts_of(PICTURE)
