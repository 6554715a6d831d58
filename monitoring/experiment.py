"""The verdict of an A/B test: what was served to whom, joined with what became of it.

Reads `served_features` and `events`. Variants are compared by AUC (`models.ranking` says why), by answers that both gave where the
others were computed in the shadow.

The verdict is made once: on the answers up to the moment at which every variant had the declared number of users with an outcome.
Before, it is too early; afterwards no later answer changes it. So whoever looks every day is not misled by the best day.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from features.project import Model
from features.windows import HOUR_MS
from infra.errors import NotReadyError
from infra.policies import Experiment, VariantName
from infra.settings import Settings
from models.outcomes import with_outcome
from models.ranking import Difference, Ranking, auc_difference
from monitoring.served import served_of

#: The chance of seeing a difference where there is none, over all comparisons of a report.
ALPHA = 0.05
#: Below this the split is not the one that was declared, and nothing else in the report can be trusted.
SRM_ALPHA = 0.001


@dataclass(frozen=True)
class Arm:
    """One variant: users and answers with an outcome, the AUC of the answers, and their Brier score (smaller is better).

    The score is None where the horizon is not the one that the models predict: it would favour the model that says less.
    """

    variant: VariantName
    entities: int
    exposures: int
    auc: float | None
    brier: float | None


@dataclass(frozen=True)
class Comparison:
    """One variant against the first; None where too little is known."""

    variant: str
    against: str
    auc: Difference | None


@dataclass(frozen=True)
class ExperimentReport:
    """What an experiment has shown so far.

    Attributes:
        name: Of the experiment.
        arms: Its variants.
        comparisons: Each other variant against the first, once the verdict is made.
        confidence: Of the comparisons' intervals: several share the chance of error (Bonferroni).
        waiting: Answers that have no outcome yet.
        srm_p_value: Of the users per variant against the declared shares, by chi square; None without a split.
        decided_at_ms: Up to which answer the arms and comparisons count, once the verdict is made; None before.
        verdict: In words.
    """

    name: str
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    confidence: float
    waiting: int
    srm_p_value: float | None
    decided_at_ms: int | None
    verdict: str


def report_experiment(
    spark: SparkSession, settings: Settings, model: Model, experiment: Experiment, known_until_ms: int
) -> ExperimentReport:
    """The report on all answers of the experiment, degraded ones too: they are what the users got.

    Args:
        spark: The session.
        settings: Where the lake is.
        model: The model whose variants are compared.
        experiment: Which one.
        known_until_ms: Up to when all events are in the lake: an outcome beyond is not known.

    Raises:
        NotReadyError: Nothing was served in the experiment yet.
    """
    horizon_ms = round(experiment.horizon_hours * HOUR_MS)
    served = served_of(spark, settings, model.group).where(F.col("experiment") == experiment.name)
    points = served.select("entity", "q_ms", "variant", "prediction", F.to_json("shadows").alias("shadows"))
    exposures = with_outcome(spark, settings, model, points, horizon_ms).toPandas() if not served.isEmpty() else pd.DataFrame()
    if exposures.empty:
        raise NotReadyError(
            f"Nothing was served in the experiment {experiment.name} yet.", "Set BRAID_EXPERIMENT and ask for predictions."
        )
    exposures["label"] = exposures["label"].where(exposures["q_ms"] + horizon_ms <= known_until_ms)
    return judge(experiment, exposures, model.horizon_ms)


def judge(experiment: Experiment, exposures: pd.DataFrame, predicted_ms: int) -> ExperimentReport:
    """The report on exposures.

    Args:
        experiment: Shares, and at how many users the verdict is made.
        exposures: entity, q_ms, variant, prediction, label (0, 1, or none while it is not known), shadows (JSON: variant →
            prediction).
        predicted_ms: The horizon that the models predict.
    """
    names = list(experiment.shares)
    known = exposures[exposures["label"].notna()]
    decided_at_ms = _decided_at_ms(experiment, known)
    rows = known if decided_at_ms is None else known[known["q_ms"] <= decided_at_ms]
    said: dict[str, pd.Series] = {name: _said(rows, name) for name in names}
    confidence = 1 - ALPHA / max(1, len(names) - 1)
    split = _split_p_value(experiment, exposures)
    comparisons = tuple(
        Comparison(name, names[0], _difference(experiment, rows, said, names[0], name, confidence))
        for name in names[1:]
        if decided_at_ms is not None
    )
    own_horizon = round(experiment.horizon_hours * HOUR_MS) == predicted_ms
    report = ExperimentReport(
        experiment.name, tuple(_arm(rows, name, own_horizon) for name in names), comparisons, confidence, len(exposures) - len(known),
        split, decided_at_ms, "",
    )  # fmt: skip
    variants_of = exposures[["entity", "variant"]].drop_duplicates()["entity"].value_counts()
    return replace(report, verdict=_verdict(experiment, report, int((variants_of > 1).sum())))


def _decided_at_ms(experiment: Experiment, known: pd.DataFrame) -> int | None:
    """When every variant that gets users had enough of them; None before."""
    reached = []
    for name, share in experiment.shares.items():
        first = known[known["variant"] == name].groupby("entity")["q_ms"].min().sort_values()
        if share and len(first) < experiment.min_entities:
            return None
        reached += [int(first.iloc[experiment.min_entities - 1])] if share else []
    return max(reached)


def _split_p_value(experiment: Experiment, exposures: pd.DataFrame) -> float | None:
    from scipy.stats import chisquare

    users = exposures.groupby("variant")["entity"].nunique()
    shares = {name: share for name, share in experiment.shares.items() if share}
    if set(users.index) - set(shares):
        return 0.0  # a variant that is to get nobody has somebody
    counts = [int(users.get(name, 0)) for name in shares]
    total = sum(shares.values())
    expected = [sum(counts) * share / total for share in shares.values()]
    return float(chisquare(counts, expected).pvalue) if len(shares) > 1 else None


def _said(rows: pd.DataFrame, name: str) -> pd.Series:
    """What the variant has predicted for each answer, itself or in the shadow; NaN where it has not."""
    shadows = rows["shadows"].map(lambda text: json.loads(text).get(name) if text else None).astype("float64")
    return rows["prediction"].where(rows["variant"] == name, shadows)


def _difference(
    experiment: Experiment, rows: pd.DataFrame, said: dict[str, pd.Series], first: str, second: str, confidence: float
) -> Difference | None:
    both = said[first].notna() & said[second].notna()
    masks = (both, both) if experiment.shadow else (rows["variant"] == first, rows["variant"] == second)
    before, after = (
        Ranking(rows.loc[mask, "entity"].to_numpy(), rows.loc[mask, "label"].to_numpy(), said[name][mask].to_numpy())
        for mask, name in zip(masks, (first, second), strict=True)
    )
    return auc_difference(before, after, paired=experiment.shadow, confidence=confidence)


def _arm(rows: pd.DataFrame, name: VariantName, own_horizon: bool) -> Arm:
    mine = rows[rows["variant"] == name]
    auc = Ranking(mine["entity"].to_numpy(), mine["label"].to_numpy(), mine["prediction"].to_numpy()).auc()
    brier = float(((mine["prediction"] - mine["label"]) ** 2).mean()) if own_horizon and len(mine) else None
    return Arm(name, mine["entity"].nunique(), len(mine), None if pd.isna(auc) else auc, brier)


def _verdict(experiment: Experiment, report: ExperimentReport, moved: int) -> str:
    if moved:
        return f"{moved} users were answered by several variants: the shares were changed. Begin anew under another name."
    if report.srm_p_value is not None and report.srm_p_value < SRM_ALPHA:
        return f"The users are not split as declared (p = {report.srm_p_value:.2g}): look for the fault before believing any difference."
    if report.decided_at_ms is None:
        fewest = min((arm for arm in report.arms if experiment.shares[arm.variant]), key=lambda arm: arm.entities)
        return f"Too early: {fewest.entities} of {experiment.min_entities} users of {fewest.variant} have an outcome."
    if len(report.arms) == 1:
        return "There is one variant, so nothing to compare."
    when = datetime.fromtimestamp(report.decided_at_ms / 1_000, UTC).isoformat(timespec="seconds")
    found = [
        f"Decided once, on the answers up to {when}, when every variant had {experiment.min_entities} users; later ones do not change it."
    ]
    for one in report.comparisons:
        if one.auc is None:
            found.append(f"{one.variant} and {one.against} cannot be compared: the outcomes are all of one kind.")
            continue
        interval = f"{100 * report.confidence:.4g} % interval {one.auc.low:+.4f} to {one.auc.high:+.4f}"
        if not one.auc.shown:
            found.append(f"No difference between {one.variant} and {one.against} is shown (AUC {one.auc.value:+.4f}, {interval}).")
        else:
            how = "better" if one.auc.value > 0 else "worse"
            found.append(f"{one.variant} ranks {how} than {one.against} (AUC {one.auc.value:+.4f}, {interval}).")
    return " ".join(found)
