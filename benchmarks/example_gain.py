"""The gain by fresh features: compares the models of the examples on merged features with the same models on the features of batch alone.

    python -m benchmarks.example_gain [fraud ads …] [--seed 1] [--replicates 1000] [--json]

The data are simulated (`examples.NAME`). The features of each label point are computed by hand-written SQL in DuckDB from strictly earlier
events, once as of the label point (merged) and once as of the last midnight (batch only), as in braid's training sets. Both models have the inputs of
the declared model, with its request columns and derived features, and are trained as braid trains.

The first days only fill the windows. The evaluation is the last quarter of the time. The days until a label is known lie between training and
evaluation. For each measure (`benchmarks._measures`) the table has both values, their difference, and the 95 % interval of the difference by a
bootstrap over the days of the evaluation, because the label points of one episode are not independent. Episodes that last longer than a day make the
intervals somewhat too narrow. A scenario is measured on its own label points; if it has positives only, on its positives and all negatives.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from benchmarks._label_points import label_points
from benchmarks._measures import MEASURES, Floats
from examples import NAMES
from examples.example import Example, Gain
from features.model import Model
from features.objective import TrainingData
from features.windows import DAY_MS
from models.training import fitted

#: The last share of the time, which is for evaluation.
EVALUATION_SHARE = 0.25
BATCH, MERGED = "batch only", "merged"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Examples. Default: all with a simulation.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the data and of the bootstrap.")] = 1,
    replicates: Annotated[int, typer.Option(help="Replicates of the bootstrap.")] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares the models of examples on merged features with the same models on batch features."""
    examples = [importlib.import_module(f"examples.{name}.example").example for name in names or NAMES]
    results = {example.name: compare(example, seed, replicates) for example in examples if example.gain is not None}
    print(json.dumps(results) if as_json else "\n\n".join(_markdown(name, result) for name, result in results.items()))


def compare(example: Example, seed: int, replicates: int) -> dict[str, Any]:
    """Returns the figures of both models of an example, and the intervals of their differences."""
    declared = example.gain
    assert declared is not None
    module, _, attribute = example.project.partition(":")
    model: Model = getattr(importlib.import_module(module), attribute).model(None)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="braid-bench-") as folder:
        events, labels = declared.generate(Path(folder), seed)
        rows = label_points(model, events, labels)
    print(
        f"{example.name}: features of {len(rows):,} label points in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True
    )
    day = (rows["q_ms"] - rows["q_ms"].min()) // DAY_MS
    days = int(day.max()) + 1
    first = days - int(days * EVALUATION_SHARE)
    rows = rows.assign(day=day - first, subject=rows[model.vector.inputs[0].key])
    train, later = rows[(day >= declared.warm_up_days) & (day < first - declared.known_after_days)], rows[day >= first]
    scores: dict[str, Floats] = (
        {} if declared.baseline is None else {declared.baseline: later[declared.baseline].to_numpy(dtype=np.float64)}
    )
    models: dict[str, Any] = {}
    for name, prefix in ((BATCH, "batch_"), (MERGED, "")):
        labels = train["label"].to_numpy() > 0
        booster = fitted(TrainingData(model.vector.names, model.vector.matrix(train, prefix), labels, train["q_ms"].to_numpy()))
        scores[name] = np.asarray(booster.predict(model.vector.matrix(later, prefix), num_threads=2))
        gains = dict(zip(booster.feature_name(), booster.feature_importance("gain"), strict=True))
        models[name] = {"rounds": booster.best_iteration, "gain": sorted(gains, key=lambda column: -gains[column])[:6]}
    return {
        "label_points": len(rows),
        "positives": round(float((rows["label"] > 0).mean()), 5),
        "train_rows": len(train),
        "evaluation_rows": len(later),
        "evaluation_days": days - first,
        "models": models,
        "measures": differences(declared, later, scores, days - first, seed, replicates),
    }


def differences(
    declared: Gain, rows: pd.DataFrame, scores: dict[str, Floats], days: int, seed: int, replicates: int
) -> list[dict[str, Any]]:
    """Returns for each scenario and measure the values, and the difference between merged and batch only with its interval."""
    whole = [("all", measure, np.ones(len(rows), dtype=bool)) for measure in (*declared.measures, *declared.overall)]
    parts = [(name, measure, _mask(rows, number)) for number, name in declared.scenarios.items() for measure in declared.measures]
    rng, results = np.random.default_rng(seed), []
    draws = rng.multinomial(days, np.full(days, 1 / days), size=replicates).astype(np.float64)
    for scenario, measure, mask in [*whole, *parts]:
        chosen = rows[mask]
        if not (chosen["label"] > 0).any():
            continue
        of_draw = {name: MEASURES[measure](chosen, values[mask]) for name, values in scores.items()}
        values = {name: function(np.ones(days)) for name, function in of_draw.items()}
        drawn = [of_draw[MERGED](times) - of_draw[BATCH](times) for times in draws]
        results.append(
            {
                "scenario": scenario,
                "label_points": len(chosen),
                "positives": int((chosen["label"] > 0).sum()),
                "measure": measure,
                **{name: round(value, 4) for name, value in values.items()},
                "difference": round(values[MERGED] - values[BATCH], 4),
                "interval": [round(float(bound), 4) for bound in np.nanquantile(drawn, [0.025, 0.975])],
            }
        )
    return results


def _mask(rows: pd.DataFrame, scenario: int) -> npt.NDArray[np.bool_]:
    """Returns a mask of the label points of a scenario, and of all negatives if the scenario has no negatives."""
    own, negative = (rows["scenario"] == scenario).to_numpy(), (rows["label"] == 0).to_numpy()
    return own if (own & negative).any() else own | negative


def _markdown(name: str, result: dict[str, Any]) -> str:
    known = {"scenario", "label_points", "positives", "measure", "difference", "interval"}
    columns = [column for column in result["measures"][0] if column not in known]
    sentence = (
        f"{name}: {result['label_points']:,} label points, {result['positives']:.2%} of them positive; trained on {result['train_rows']:,}, "
        f"evaluated on {result['evaluation_rows']:,} of {result['evaluation_days']} days."
    )
    lines = [
        sentence,
        "",
        f"| label points (positive) | measure | {' | '.join(columns)} | difference | 95 % interval |",
        f"|{'---|' * (len(columns) + 4)}",
    ]
    for row in result["measures"]:
        low, high = row["interval"]
        values = " | ".join(f"{row[column]:.3f}" for column in columns)
        points = f"{row['scenario']}: {row['label_points']:,} ({row['positives']:,})"
        lines.append(f"| {points} | {row['measure']} | {values} | {row['difference']:+.3f} | {low:+.3f} to {high:+.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
