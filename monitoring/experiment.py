"""The report of an A/B test: served predictions joined with their outcomes.

Reads `served_features`, and the events of the outcome or the owner's labels. Variants are compared by the measure of the objective
(`models.ranking`): probabilities by AUC, numbers by RMSE, several classes by log loss. In a shadow experiment every variant predicts for every
answer, and two variants are compared on the answers that have both predictions.

The verdict is made once, on the answers up to the moment at which every variant has the declared number of users with an outcome.
Before that moment the verdict is "too early". So the test cannot be stopped on a lucky day. Labels and late events that arrive later for earlier answers
would move that moment and change the figures, so the caller keeps the decision with its report, and gives it to the next one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from features.instants import rfc3339
from features.model import Model
from features.objective import Objective
from features.windows import HOUR_MS
from infra.errors import NotReadyError
from infra.policies import Experiment, VariantName
from infra.settings import Settings
from models.evaluation import CRITERIA, Criterion
from models.outcomes import with_outcome
from models.ranking import Difference, difference, measured
from monitoring.answers import ANSWER, answers_of
from monitoring.live_quality import prediction_of_label

#: The probability that a report shows any difference between variants that are equal.
ALPHA = 0.05
#: A p-value below this one shows a sample ratio mismatch (SRM): the users are not split as declared, and the report cannot be trusted.
SRM_ALPHA = 0.001


@dataclass(frozen=True)
class Arm:
    """The figures of one variant, over its answers with a known outcome.

    Attributes:
        variant: The name of the variant.
        entities: The number of users with such an answer.
        exposures: The number of answers.
        quality: The measure of the answers; None if it is not defined for them, such as an AUC if all outcomes are equal.
        brier: The Brier score of probabilities (smaller is better); None for other predictions. It is also None if the experiment's horizon
            differs from the horizon that the models predict, since the score would then favour the variant with the smaller probabilities.
    """

    variant: VariantName
    entities: int
    exposures: int
    quality: float | None
    brier: float | None


@dataclass(frozen=True)
class Comparison:
    """The comparison of a variant with the first variant.

    Attributes:
        variant: The name of the variant.
        against: The name of the first variant.
        difference: The difference in the measure; None if the measure of either variant is not defined.
    """

    variant: str
    against: str
    difference: Difference | None


@dataclass(frozen=True)
class Decision:
    """The figures of a verdict, which is made once.

    Attributes:
        experiment: The declaration of the experiment.
        decided_at_ms: The time of the last answer that counts for the verdict.
        arms: The figures of each variant.
        comparisons: The comparison of each other variant with the first variant.
    """

    experiment: Experiment
    decided_at_ms: int
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]

    @classmethod
    def read(cls, written: Any, experiment: Experiment) -> Decision | None:
        """Returns the decision that `write` has written; None if it is one on another declaration, or was written by another version of braid."""
        try:
            decision = TypeAdapter(cls).validate_python(written)
        except ValidationError:
            return None
        return decision if decision.experiment == experiment else None

    def write(self) -> dict[str, Any]:
        """Returns the decision as plain values, for JSON."""
        written: dict[str, Any] = TypeAdapter(Decision).dump_python(self, mode="json")
        return written


@dataclass(frozen=True)
class ExperimentReport:
    """The results of an experiment.

    Attributes:
        name: The name of the experiment.
        criterion: The measure by which the variants are compared.
        arms: The figures of each variant.
        comparisons: The comparison of each other variant with the first variant; empty before the verdict.
        confidence: The confidence level of each comparison's interval; the comparisons share the probability of an error (Bonferroni).
        waiting: How many answers have no outcome yet.
        srm_p_value: The p-value of a chi-square test of the users per variant against the declared shares; None if only one variant
            gets users.
        decided_at_ms: The time of the last answer that counts for the verdict; None before the verdict.
        verdict: The verdict in words.
        decision: The figures of the verdict, which later reports must repeat; None before the verdict, and while the variants cannot be compared.
    """

    name: str
    criterion: Criterion
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    confidence: float
    waiting: int
    srm_p_value: float | None
    decided_at_ms: int | None
    verdict: str
    decision: Decision | None = None


def report_experiment(
    spark: SparkSession,
    settings: Settings,
    model: Model,
    experiment: Experiment,
    known_until_ms: int,
    decision: Decision | None = None,
) -> ExperimentReport:
    """Returns the report on all answers of the experiment. Degraded answers count too, because users got them.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        model: The model whose variants are compared.
        experiment: The experiment.
        known_until_ms: The instant up to which all events are in the lake; an outcome after this instant is not known yet.
        decision: The decision of an earlier report; None before the verdict.

    Raises:
        NotReadyError: The experiment has no answers yet.
    """
    horizon_ms = round(experiment.horizon_hours * HOUR_MS)
    points = answers_of(spark, settings, model, F.col("experiment") == experiment.name)
    if points.isEmpty():
        raise NotReadyError(
            f"Nothing was served in the experiment {experiment.name} yet.", "Set BRAID_EXPERIMENT and request predictions."
        )
    answers = with_outcome(spark, settings, model, points, horizon_ms)
    shadows = F.col(f"{ANSWER}.shadows")
    if model.objective is Objective.MULTICLASS:
        of_label = F.expr(f"transform_values({ANSWER}.shadow_predictions, (name, its) -> coalesce(its[label], 0.0D))")
        shadows = F.when(F.col("label").isNotNull(), of_label)
    exposures: pd.DataFrame = answers.select(
        "entity", "q_ms", f"{ANSWER}.variant", "label", prediction_of_label(ANSWER).alias("prediction"), F.to_json(shadows).alias("shadows")
    ).toPandas()  # fmt: skip
    if model.labels is None:
        exposures["label"] = exposures["label"].where(exposures["q_ms"] + horizon_ms <= known_until_ms)
    return judge(experiment, exposures, model.horizon_ms, model.objective, decision)


def judge(
    experiment: Experiment,
    exposures: pd.DataFrame,
    predicted_ms: int,
    objective: Objective = Objective.BINARY,
    decision: Decision | None = None,
) -> ExperimentReport:
    """Returns the report on the answers of an experiment.

    Args:
        experiment: The declaration of the experiment.
        exposures: A row per answer: entity, q_ms, variant, prediction, label (null while the outcome is not known), and
            shadows (JSON: variant → its prediction). For several classes, a prediction is the probability of the label.
        predicted_ms: The horizon that the models predict, in milliseconds.
        objective: What the models predict.
        decision: The decision of an earlier report, whose figures stay; None before the verdict.
    """
    names = list(experiment.shares)
    known = exposures[exposures["label"].notna()]
    confidence = 1 - ALPHA / max(1, len(names) - 1)
    decided_at_ms = decision.decided_at_ms if decision else _decided_at_ms(experiment, known)
    if decision:
        arms, comparisons = decision.arms, decision.comparisons
    else:
        rows = known if decided_at_ms is None else known[known["q_ms"] <= decided_at_ms]
        own_horizon = round(experiment.horizon_hours * HOUR_MS) == predicted_ms
        arms = tuple(_arm(objective, rows, name, own_horizon) for name in names)
        predictions: dict[str, pd.Series] = {name: _predictions(rows, name) for name in names}
        comparisons = tuple(
            Comparison(name, names[0], _difference(experiment, objective, rows, predictions, (names[0], name), confidence))
            for name in names[1:]
            if decided_at_ms is not None
        )
        if decided_at_ms is not None and all(comparison.difference is not None for comparison in comparisons):
            decision = Decision(experiment, decided_at_ms, arms, comparisons)
    report = ExperimentReport(
        name=experiment.name,
        criterion=CRITERIA[objective][0],
        arms=arms,
        comparisons=comparisons,
        confidence=confidence,
        waiting=len(exposures) - len(known),
        srm_p_value=_split_p_value(experiment, exposures),
        decided_at_ms=decided_at_ms,
        verdict="",
        decision=decision,
    )
    variants_of = exposures[["entity", "variant"]].drop_duplicates()["entity"].value_counts()
    return replace(report, verdict=_verdict(experiment, report, int((variants_of > 1).sum())))


def _decided_at_ms(experiment: Experiment, known: pd.DataFrame) -> int | None:
    """Returns the time, in ms, at which the last variant reached `min_entities` users with an outcome; None if a variant has fewer.

    Variants whose declared share is 0 do not count.
    """
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
        return 0.0  # a variant with the share 0 has users
    counts = [int(users.get(name, 0)) for name in shares]
    total = sum(shares.values())
    expected = [sum(counts) * share / total for share in shares.values()]
    return float(chisquare(counts, expected).pvalue) if len(shares) > 1 else None


def _predictions(rows: pd.DataFrame, name: str) -> pd.Series:
    """Returns the variant's prediction for each answer, served or computed as a shadow; NaN if the variant made no prediction."""
    shadows = rows["shadows"].map(lambda text: json.loads(text).get(name) if text else None).astype("float64")
    return rows["prediction"].where(rows["variant"] == name, shadows)


def _difference(
    experiment: Experiment,
    objective: Objective,
    rows: pd.DataFrame,
    predictions: dict[str, pd.Series],
    names: tuple[str, str],
    confidence: float,
) -> Difference | None:
    both = predictions[names[0]].notna() & predictions[names[1]].notna()
    masks = (both, both) if experiment.shadow else tuple(rows["variant"] == name for name in names)
    before, after = (
        measured(
            objective, rows.loc[mask, "entity"].to_numpy(), rows.loc[mask, "label"].to_numpy(), predictions[name][mask].to_numpy()
        )
        for mask, name in zip(masks, names, strict=True)
    )
    return difference(before, after, paired=experiment.shadow, confidence=confidence)


def _arm(objective: Objective, rows: pd.DataFrame, name: VariantName, own_horizon: bool) -> Arm:
    mine = rows[rows["variant"] == name]
    quality = measured(objective, *(mine[column].to_numpy() for column in ("entity", "label", "prediction"))).value()
    has_brier = objective is Objective.BINARY and own_horizon and len(mine)
    brier = float(((mine["prediction"] - mine["label"]) ** 2).mean()) if has_brier else None
    return Arm(name, mine["entity"].nunique(), len(mine), None if pd.isna(quality) else quality, brier)


def _verdict(experiment: Experiment, report: ExperimentReport, moved: int) -> str:
    if moved:
        return f"{moved} users got answers of several variants, because the shares were changed. Start an experiment with another name."
    if report.srm_p_value is not None and report.srm_p_value < SRM_ALPHA:
        return f"The users are not split as declared (p = {report.srm_p_value:.2g}): find the reason before you use any difference."
    if report.decided_at_ms is None:
        fewest = min((arm for arm in report.arms if experiment.shares[arm.variant]), key=lambda arm: arm.entities)
        return f"Too early: {fewest.entities} of {experiment.min_entities} users of {fewest.variant} have an outcome."
    if len(report.arms) == 1:
        return "The experiment has a single variant, so there is no comparison."
    when = rfc3339(report.decided_at_ms)
    sentences = [
        f"Decided once, on the answers up to {when}, when every variant had {experiment.min_entities} users; later ones do not change it."
    ]
    for comparison in report.comparisons:
        variant, against, interval = comparison.variant, comparison.against, comparison.difference
        if interval is None:
            sentences.append(
                f"{variant} and {against} cannot be compared: too few users, or too few outcomes of a kind. Start an experiment with another name and a larger min_entities."
            )
            continue
        figures = f"{report.criterion.words} {interval.value:+.4f}, {100 * report.confidence:.4g} % interval {interval.low:+.4f} to {interval.high:+.4f}"
        if not interval.shown:
            sentences.append(f"No difference between {variant} and {against} is shown ({figures}).")
        else:
            more_is_better = report.criterion.more_is_better
            verb, how = "ranks" if more_is_better else "predicts", "better" if (interval.value > 0) is more_is_better else "worse"
            sentences.append(f"{variant} {verb} {how} than {against} ({figures}).")
    return " ".join(sentences)
