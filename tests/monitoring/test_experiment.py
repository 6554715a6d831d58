"""The verdict of an A/B test: said once, at the declared number of users, and only where the split is the declared one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from batch.events import append_events
from features.windows import DAY_MS, HOUR_MS
from infra.errors import NotReadyError
from infra.policies import Experiment
from infra.settings import Settings
from monitoring import experiment as experiments
from monitoring.experiment import Decision, ExperimentReport, report_experiment
from monitoring.served import SCHEMA, TABLE
from serving.variants import assigned
from tests.declarations import repurchase, user_events

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HALVES = Experiment(name="halves", shares={"champion": 0.5, "batch_only": 0.5}, horizon_hours=48, min_entities=100)
SHADOW = HALVES.model_copy(update={"shadow": True})
NOISE = {"champion": 0.5, "batch_only": 1.5, "challenger": 0.5}


def exposures(seed: int, users: int, experiment: Experiment = HALVES, noise: dict[str, float] = NOISE) -> pd.DataFrame:
    """Answers in the order of time; the less noise, the better the variant."""
    source = np.random.default_rng(seed)
    user = source.permutation(np.repeat(np.arange(users), source.integers(1, 5, users))) + seed * 100_000
    known = np.random.default_rng(1).normal(0, 1, users)[user % 100_000]
    predictions = {name: 1 / (1 + np.exp(-(known + source.normal(0, noise[name], len(user))))) for name in experiment.shares}
    variant = [assigned(experiment, int(user_id)) for user_id in user]
    return pd.DataFrame(
        {
            "entity": user, "q_ms": np.arange(len(user)), "variant": variant, "label": (known + source.normal(0, 1, len(user)) > 0).astype(float),
            "prediction": [predictions[name][i] for i, name in enumerate(variant)],
            "shadows": [json.dumps({name: predictions[name][i] for name in predictions if name != variant[i]} if experiment.shadow else {}) for i in range(len(user))],
        }
    )  # fmt: skip


def judge(experiment: Experiment, rows: pd.DataFrame) -> ExperimentReport:
    return experiments.judge(experiment, rows, repurchase.horizon_ms)


def auc_differences(report: ExperimentReport) -> dict[str, Any]:
    return {comparison.variant: comparison.difference for comparison in report.comparisons}


@pytest.mark.parametrize("experiment", [HALVES, SHADOW], ids=["apart", "in the shadow"])
def test_a_better_model_wins(experiment: Experiment) -> None:
    report = judge(experiment, exposures(1, 600, experiment))
    assert auc_differences(report)["batch_only"].high < 0
    assert auc_differences(report)["batch_only"].paired is experiment.shadow
    assert "batch_only ranks worse than champion" in report.verdict
    assert "Decided once" in report.verdict and "every variant had 100 users" in report.verdict


@pytest.mark.parametrize("experiment", [HALVES, SHADOW], ids=["apart", "in the shadow"])
def test_of_equal_models_none_wins_but_by_chance(experiment: Experiment) -> None:
    equal = dict.fromkeys(NOISE, 1.0)
    wins = sum("ranks" in judge(experiment, exposures(seed, 300, experiment, equal)).verdict for seed in range(1, 101))
    assert wins <= 12, "five of a hundred, give or take three standard errors"


def test_looking_every_day_does_not_change_the_verdict() -> None:
    rows = exposures(2, 600)
    reports = [judge(HALVES, rows.head(n)) for n in range(100, len(rows), 150)]
    early = [report for report in reports if report.decided_at_ms is None]
    decided = [report for report in reports if report.decided_at_ms is not None]
    assert early and len(decided) > 3
    assert all("Too early" in report.verdict and not report.comparisons for report in early)
    assert len({(report.verdict, report.decided_at_ms, report.arms) for report in decided}) == 1
    assert min(arm.entities for arm in decided[0].arms) == 100


def test_labels_and_late_events_that_come_after_the_verdict_do_not_change_it() -> None:
    rows = exposures(2, 600)
    # People label in the order of their work: first the answers of odd numbers, later the others, and some labels are corrected.
    first = rows.assign(label=rows["label"].where(rows["q_ms"] % 2 == 1))
    made = judge(HALVES, first)
    assert made.decided_at_ms is not None
    corrected = rows.assign(label=rows["label"].where(rows["q_ms"] % 11 > 0, 1 - rows["label"]))
    anew = judge(HALVES, corrected)
    assert (anew.decided_at_ms, anew.comparisons) != (made.decided_at_ms, made.comparisons), "by itself it would be another one"
    made_before = Decision.read(json.loads(json.dumps(made.decision.write())), HALVES)
    later = experiments.judge(HALVES, corrected, repurchase.horizon_ms, decision=made_before)
    assert (later.verdict, later.decided_at_ms, later.arms, later.comparisons) == (
        made.verdict, made.decided_at_ms, made.arms, made.comparisons,
    )  # fmt: skip
    assert later.decision == made.decision
    assert later.waiting == 0
    assert (
        Decision.read(made.decision.write(), SHADOW)
        is Decision.read({"verdict": "?"}, HALVES)
        is Decision.read(None, HALVES)
        is None
    )
    # What spoils the experiment is said all the same.
    spoilt = pd.concat([corrected, corrected.tail(1).assign(variant="challenger")])
    assert (
        "got answers of several variants" in experiments.judge(HALVES, spoilt, repurchase.horizon_ms, decision=made_before).verdict
    )


def test_too_early_counts_users_with_an_outcome() -> None:
    rows = exposures(3, 400)
    rows.loc[rows["q_ms"] > 100, "label"] = np.nan
    report = judge(HALVES, rows)
    assert report.waiting == len(rows) - 101
    assert report.verdict.startswith("Too early: ")
    assert judge(HALVES, rows.assign(label=np.nan)).verdict == "Too early: 0 of 100 users of champion have an outcome."


def test_a_broken_split_is_found_before_anything_is_believed() -> None:
    rows = exposures(4, 800)
    lost = rows[
        (rows["variant"] == "champion") | (rows["entity"] % 3 > 0)
    ]  # as if a third of one variant's answers were not logged
    report = judge(HALVES, lost)
    assert report.srm_p_value < 0.001
    assert "not split as declared" in report.verdict
    assert "not split as declared" in judge(HALVES, rows[rows["variant"] == "champion"]).verdict
    unasked = HALVES.model_copy(update={"shares": {"champion": 1.0, "batch_only": 0.0}})
    assert "not split as declared" in judge(unasked, rows).verdict
    right = sum(judge(HALVES, exposures(seed, 300)).srm_p_value < 0.05 for seed in range(10, 60))
    assert right <= 8, "a split by the assignment itself is right"


def test_users_that_changed_their_variant_spoil_the_experiment() -> None:
    rows = exposures(5, 400)
    rows.loc[rows.index[-1], "variant"] = "batch_only" if rows["variant"].iloc[-1] == "champion" else "champion"
    rows.loc[rows.index[-2], "entity"] = rows["entity"].iloc[-1]
    rows.loc[rows.index[-2], "variant"] = "batch_only" if rows["variant"].iloc[-1] == "champion" else "champion"
    assert "got answers of several variants" in judge(HALVES, rows).verdict


def test_a_variant_of_no_share_is_compared_in_the_shadow() -> None:
    only = Experiment(name="only", shares={"champion": 1.0, "batch_only": 0.0}, shadow=True, min_entities=100)
    report = judge(only, exposures(6, 300, only))
    assert "batch_only ranks worse than champion" in report.verdict
    assert report.srm_p_value is None


def test_too_few_outcomes_of_a_kind_are_no_comparison_and_the_verdict_says_what_to_do() -> None:
    rows = exposures(1, 600).assign(label=0.0)
    rows.loc[rows.groupby("variant").head(2).index, "label"] = 1.0
    report = judge(HALVES, rows)
    assert all(arm.quality is not None for arm in report.arms)
    assert auc_differences(report) == {"batch_only": None}
    assert "too few outcomes of a kind" in report.verdict
    # In the shadow both variants have predicted for one user alone, such as where one of them began to answer late.
    shadows = exposures(1, 600, SHADOW)
    shadows.loc[shadows["entity"] != shadows["entity"].iloc[0], "shadows"] = "{}"
    assert "too few users" in judge(SHADOW, shadows).verdict


def test_several_variants_share_the_chance_of_error() -> None:
    three = Experiment(name="three", shares={"champion": 0.4, "challenger": 0.3, "batch_only": 0.3}, min_entities=250)
    report = judge(three, exposures(7, 1_500, three))
    assert report.confidence == pytest.approx(0.975)
    assert "97.5 % interval" in report.verdict
    assert "No difference between challenger and champion is shown" in report.verdict
    assert "batch_only ranks worse" in report.verdict


def test_probabilities_are_compared_only_at_the_horizon_that_they_are_of() -> None:
    rows = exposures(8, 300)
    assert {arm.brier for arm in judge(HALVES, rows).arms} == {None}
    week = HALVES.model_copy(update={"horizon_hours": 168})
    assert all(0 < arm.brier < 1 for arm in judge(week, rows).arms)
    assert "cannot be compared" in judge(HALVES, rows.assign(label=1.0)).verdict


def test_what_was_served_is_joined_with_what_became_of_it(spark: SparkSession, lake: Settings) -> None:
    base = 1_780_000_000_000
    experiment = HALVES.model_copy(update={"min_entities": 2})
    with pytest.raises(NotReadyError, match="Nothing was served"):
        report_experiment(spark, lake, repurchase, experiment, base)
    users = {name: [n for n in range(40) if assigned(experiment, n) == name][:3] for name in experiment.shares}
    served = [
        (f"{user}-{at}", "", "user_features", "", str(user), base + at * HOUR_MS, 0, 0, "{}", None, None, 0, ["degraded"], None, "halves", name,
         "m", "1", 0.5 + at / 100, {}, *[None] * 7)
        for name, three in users.items() for user in three for at in (0, 1, 30)
    ]  # fmt: skip
    served.append((*served[0][:14], "another experiment", *served[0][15:]))
    served.append((*served[0][:14], *[None] * 13))  # of /features
    spark.createDataFrame(served, SCHEMA).write.format("delta").save(lake.table(TABLE))
    bought = {users["champion"][0]: base + 48 * HOUR_MS, users["champion"][1]: base - 1, users["batch_only"][0]: base}
    events = [(f"e{user}", user, "s", "PURCHASE", None, None, None, None, at, at, "stream", 0, 0, 0) for user, at in bought.items()]
    schema = """event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DECIMAL(18,6), event_timestamp TIMESTAMP,
        item_id STRING, properties MAP<STRING,STRING>, ts_ms BIGINT, arrival_ms BIGINT, origin STRING, kafka_partition INT,
        kafka_offset BIGINT, _order BIGINT"""
    append_events(spark, lake, user_events, spark.createDataFrame(events, schema))
    report = report_experiment(spark, lake, repurchase, experiment, base + 50 * HOUR_MS)
    assert report.waiting == 6, "those at 30 h have no outcome yet"
    assert [(arm.entities, arm.exposures) for arm in report.arms] == [(3, 3), (3, 3)], "up to when both had two users"
    # The purchase after exactly 48 h is outside [q, q + 48 h) of the answer at 0 h; of batch_only one at q itself is inside.
    assert "cannot be compared" in report.verdict, "no user of the champion has bought within the horizon"
    later = report_experiment(spark, lake, repurchase, experiment, base + 10 * DAY_MS)
    assert (later.waiting, later.verdict) == (0, report.verdict)
