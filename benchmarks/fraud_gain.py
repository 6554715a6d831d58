"""What fresh features are worth: a fraud model on merged features compared with the same model on the features of batch alone.

    python -m benchmarks.fraud_gain [--seed 1] [--days 90] [--replicates 1000] [--json]

The data are the simulated purchases of `examples.fraud.transactions`. Each purchase is a label point: its features are computed by
hand-written SQL in DuckDB from strictly earlier events, once as of the purchase (merged) and once as of the last midnight (batch only),
as in braid's training sets. Both models also get the columns of the request (amount, hour) and the amount relative to the card's mean.
Their input is that of the declared model, and both are trained as braid trains. Scenarios 1 to 3 last days or are seen in the request, so fresh features
hardly help; 4 and 5 last minutes or hours.

The first 14 days only fill the windows. Training ends 7 days before the evaluation, because a fraud is known up to 7 days later; the
evaluation is the last quarter of the time. Of each measure the table has both values, their difference and its 95 % interval by a
bootstrap over the days of the evaluation, because the purchases of one attack are not independent. Scenarios 2 and 3 last longer than
a day, so the intervals of these two are somewhat too narrow.

    average precision        the area under the curve of precision and recall; of a scenario: its frauds against all harmless purchases
    recall at 1 % FPR        the share of frauds above the score that 1 % of the harmless purchases exceed
    card precision@100       of the 100 cards with the highest scores of a day, the share that had a fraud on that day; mean over days
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from benchmarks.training_set import range_join_sql
from examples.fraud.definitions import fraud, project
from examples.fraud.transactions import DELAY_DAYS, Report, generate
from features.declaration import FeatureGroup
from features.objective import TrainingData
from features.windows import DAY_MS
from models.training import fitted

#: The days at the beginning that only fill the windows, and the share of the time, at its end, that is for evaluation.
WARM_UP_DAYS, EVALUATION_SHARE = 14, 0.25
BATCH, MERGED = "batch only", "merged"
SCENARIOS = {0: "all", 1: "large amount", 2: "compromised terminal", 3: "stolen card", 4: "card testing", 5: "attacked terminal"}
AVERAGE_PRECISION, RECALL, CARD_PRECISION = "average precision", "recall at 1 % FPR", "card precision@100"
FALSE_POSITIVES, CARDS = 0.01, 100

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """The purchases of the evaluation, ordered by the score of one model, the highest first.

    Attributes:
        scenario: The scenario of each purchase; 0 for none.
        day: The day of each purchase, from 0 on.
        card_precision: The card precision of each day.
    """

    scenario: npt.NDArray[np.int64]
    day: npt.NDArray[np.int64]
    card_precision: Floats

    @classmethod
    def of(cls, rows: pd.DataFrame, scores: Floats) -> Evaluation:
        """The evaluation of the scores of purchases, of which `rows` has `scenario`, `day` and `card_id`."""
        order = np.argsort(-scores, kind="stable")
        scored = rows.assign(score=scores, fraud=rows["scenario"] > 0)
        per_card = scored.groupby(["day", "card_id"]).agg({"score": "max", "fraud": "max"})
        top = per_card.sort_values("score", ascending=False, kind="stable").groupby("day").head(CARDS)
        precision = (top.groupby("day")["fraud"].sum() / CARDS).to_numpy()
        return cls(rows["scenario"].to_numpy()[order], rows["day"].to_numpy()[order], precision)

    def measures(self, times: Floats) -> dict[tuple[str, str], float]:
        """(scenario, measure) → value, if each day counts so many times."""
        weights = times[self.day]
        harmless = np.where(self.scenario == 0, weights, 0.0)
        false = np.cumsum(harmless)
        flagged = np.searchsorted(false, FALSE_POSITIVES * false[-1], side="right")
        values = {(SCENARIOS[0], CARD_PRECISION): float(np.average(self.card_precision, weights=times))}
        for number, name in SCENARIOS.items():
            frauds = np.where(self.scenario > 0 if number == 0 else self.scenario == number, weights, 0.0)
            true = np.cumsum(frauds)
            if true[-1]:
                precision = true / np.maximum(true + false, 1e-9)
                values[name, AVERAGE_PRECISION] = float((precision * frauds).sum() / true[-1])
                values[name, RECALL] = float(true[min(flagged, len(true)) - 1] / true[-1])
        return values


def main(
    n_cards: Annotated[int, typer.Option("--cards", help="Cards.")] = 4_000,
    n_terminals: Annotated[int, typer.Option("--terminals", help="Terminals.")] = 1_000,
    days: Annotated[int, typer.Option(help="Days of purchases.")] = 90,
    seed: Annotated[int, typer.Option(help="Seed of the data and of the bootstrap.")] = 1,
    replicates: Annotated[int, typer.Option(help="Replicates of the bootstrap.")] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares a fraud model on merged features with one on batch features."""
    with tempfile.TemporaryDirectory(prefix="braid-bench-") as folder:
        report = generate(Path(folder), n_cards, n_terminals, days, seed)
        result = compare(report, days, seed, replicates)
    print(json.dumps(result) if as_json else _markdown(result))


def compare(report: Report, days: int, seed: int, replicates: int) -> dict[str, Any]:
    """The figures of both models, and the intervals of their differences."""
    began = time.monotonic()
    rows = label_points(report)
    print(f"features of {len(rows):,} purchases in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    day = (rows["q_ms"] - report.begin_ms) // DAY_MS
    first = days - int(days * EVALUATION_SHARE)
    train, later = rows[(day >= WARM_UP_DAYS) & (day < first - DELAY_DAYS[1])], rows[day >= first].assign(day=day - first)
    models: dict[str, Any] = {}
    evaluations = {}
    for name, prefix in ((BATCH, "batch_"), (MERGED, "")):
        frauds = (train["scenario"] > 0).to_numpy()
        data = TrainingData(fraud.vector.names, fraud.vector.matrix(train, prefix), frauds, train["q_ms"].to_numpy())
        booster = fitted(data)
        scores = np.asarray(booster.predict(fraud.vector.matrix(later, prefix), num_threads=2))
        evaluations[name] = Evaluation.of(later, scores)
        gains = dict(zip(booster.feature_name(), booster.feature_importance("gain"), strict=True))
        models[name] = {"rounds": booster.best_iteration, "gain": sorted(gains, key=lambda column: -gains[column])[:6]}
    frauds = later[later["scenario"] > 0]
    counts = {name: len(frauds) if not number else int((frauds["scenario"] == number).sum()) for number, name in SCENARIOS.items()}
    fraud_cards = frauds.groupby("day")["card_id"].nunique().clip(upper=CARDS)
    return {
        "purchases": report.purchases,
        "fraud_share": round(report.fraud_share, 5),
        "train_rows": len(train),
        "evaluation_rows": len(later),
        "evaluation_days": days - first,
        "evaluation_frauds": counts,
        "best_card_precision": round(float(fraud_cards.sum() / CARDS / (days - first)), 4),
        "models": models,
        "measures": differences(evaluations, days - first, seed, replicates),
    }


def label_points(report: Report) -> pd.DataFrame:
    """Each purchase with its features at its own time, and under `batch_` those at the last midnight before it.

    Columns: `q_ms`, `card_id`, `terminal_id`, `amount`, `scenario`, and the features by their names in the model.
    """
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for source in project.sources:
            path = getattr(report, source.name)
            connection.execute(
                f"CREATE TABLE {source.table} AS SELECT * EXCLUDE (amount, event_timestamp), amount::DECIMAL(18, 6) AS amount, "
                f"epoch_ms(event_timestamp::TIMESTAMPTZ) AS ts_ms FROM read_csv('{path}', all_varchar = false)"
            )
        connection.execute(
            f"CREATE TABLE points AS SELECT card_id, terminal_id, amount::DOUBLE AS amount, scenario, epoch_ms(time::TIMESTAMPTZ) AS q_ms, "
            f"q_ms - q_ms % {DAY_MS} AS midnight_ms FROM read_csv('{report.labels}')"
        )
        selected, joins = ["points.* EXCLUDE (midnight_ms)"], []
        for entry in fraud.vector.inputs:
            group, prefix = entry.group, entry.prefix
            for kind, instant in (("", "q_ms"), ("batch_", "midnight_ms")):
                table = f"{kind}{group.name}"
                _features(connection, group, instant, table)
                selected += [f"{table}.{name} AS {kind}{prefix}{name}" for name in group.feature_names]
                joins.append(f"JOIN {table} ON {table}.entity = points.{group.entity} AND {table}.q_ms = points.{instant}")
        return connection.execute(f"SELECT {', '.join(selected)} FROM points {' '.join(joins)} ORDER BY points.q_ms, card_id").df()


def _features(connection: duckdb.DuckDBPyConnection, group: FeatureGroup, instant: str, table: str) -> None:
    """Makes a table with the features of a group at an instant of the points. Columns: `entity`, `q_ms`, the features."""
    connection.execute(f"CREATE OR REPLACE VIEW e AS SELECT * FROM {group.source.table}")
    connection.execute(f"CREATE OR REPLACE VIEW l AS SELECT DISTINCT {group.entity} AS entity, {instant} AS q_ms FROM points")
    connection.execute(f"CREATE TABLE {table} AS {range_join_sql(group, '//')}")


def differences(evaluations: dict[str, Evaluation], days: int, seed: int, replicates: int) -> list[dict[str, Any]]:
    """Per scenario and measure: both values, and the difference with its interval."""
    values = {name: evaluation.measures(np.ones(days)) for name, evaluation in evaluations.items()}
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[str, str], list[float]] = {key: [] for key in values[MERGED]}
    for _ in range(replicates):
        times = rng.multinomial(days, np.full(days, 1 / days)).astype(np.float64)
        merged, batch = (evaluations[name].measures(times) for name in (MERGED, BATCH))
        for key in merged:
            drawn[key].append(merged[key] - batch[key])
    return [
        {
            "scenario": scenario,
            "measure": measure,
            BATCH: round(values[BATCH][scenario, measure], 4),
            MERGED: round(values[MERGED][scenario, measure], 4),
            "difference": round(values[MERGED][scenario, measure] - values[BATCH][scenario, measure], 4),
            "interval": [round(float(bound), 4) for bound in np.quantile(drawn[scenario, measure], [0.025, 0.975])],
        }
        for scenario in SCENARIOS.values()
        for measure in (AVERAGE_PRECISION, RECALL, CARD_PRECISION)
        if (scenario, measure) in values[MERGED]
    ]


def _markdown(result: dict[str, Any]) -> str:
    sentence = (
        f"{result['purchases']:,} purchases, {result['fraud_share']:.2%} of them fraud; trained on {result['train_rows']:,}, evaluated on "
        f"{result['evaluation_rows']:,} of {result['evaluation_days']} days. A perfect model has a card precision@100 of {result['best_card_precision']:.3f}."
    )
    lines = [
        sentence,
        "",
        f"| frauds | measure | {BATCH} | {MERGED} | difference | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["measures"]:
        low, high = row["interval"]
        frauds = f"{row['scenario']} ({result['evaluation_frauds'][row['scenario']]:,})"
        lines.append(
            f"| {frauds} | {row['measure']} | {row[BATCH]:.3f} | {row[MERGED]:.3f} | {row['difference']:+.3f} | {low:+.3f} to {high:+.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
