"""Answers of models with several inputs, request columns, joined outcomes and labels of the owner's own: what becomes of them in monitoring.

On real Delta tables and MLflow's registry in SQLite. The records have the form in which serving logs them, as `tests/serving/test_answer_log`
holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient
from pyspark.sql import functions as F

from batch.load import load_events
from braid import Model, Outcome, RequestColumn
from features.sources import EventSource
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.policies import Experiment
from infra.settings import Settings
from models.outcomes import LABEL_JOIN, with_outcome
from models.registry import CHAMPION
from models.training_set import build_training_set
from monitoring.drift import feature_drift
from monitoring.experiment import report_experiment
from monitoring.live_quality import LiveQuality, live_quality
from monitoring.logged_training_set import logged_training_set
from monitoring.served import SCHEMA, TABLE
from tests.payments import cards, chargebacks, fraud, payments, relay

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

START = int(datetime(2026, 5, 18, 9, tzinfo=UTC).timestamp() * 1_000)
COUNT = 240
KNOWN = START + 10 * DAY_MS
HALVES = Experiment(name="halves", model="fraud", shares={"champion": 0.5, "batch_only": 0.5}, horizon_hours=2, min_entities=10)


def text(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1_000, UTC).isoformat(timespec="milliseconds")


def load(spark: SparkSession, settings: Settings, source: EventSource, rows: Sequence[Mapping[str, Any]]) -> None:
    path = Path(settings.home, f"{source.name}.jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load_events(spark, settings, source, path).loaded == len(rows)


def records_of(
    model: Model, answer: str, q_ms: int, ids: Sequence[Any], values: Sequence[Sequence[Any]], **its: Any
) -> list[dict[str, Any]]:
    """The records of one answer; `its` are fields of the first."""
    return [
        {
            "served_id": f"{answer}-{place}", "group": entry.group.name, "fingerprint": entry.group.fingerprint, "entity": str(entity),
            "q_ms": q_ms, "served_at_ms": q_ms + 5, "features_at_ms": q_ms, "batch_end_ms": START,
            "features": dict(zip(entry.group.feature_names, features, strict=True)), "degraded": [], "degraded_features": [],
            "answer_id": answer, "input": entry.name,
            **({"model": model.name, "model_version": "1", "variant": "champion", "shadows": {}, **its} if place == 0 else {}),
        }
        for place, (entry, entity, features) in enumerate(zip(model.vector.inputs, ids, values, strict=True))
    ]  # fmt: skip


def paid_ms(n: int) -> int:
    return START + n * 10 * MINUTE_MS


def is_fraud(n: int) -> bool:
    return n % 3 == 0


def asked(n: int, **its: Any) -> list[dict[str, Any]]:
    """The answer about a payment, a second before it."""
    values = [[n, n / 2, [1.0]], [n + 1, n + 2], [n + 3, n + 0.25]]
    its = {
        "request": {"amount": 1_000.0 + n, "channel": None if n % 2 else "web"}, "outcome_id": f"p{n}",
        "prediction": 0.9 if is_fraud(n) else 0.1, **its,
    }  # fmt: skip
    ids = [n % 20, f"t/{n % 5}", f"{n % 20}/t~1{n % 5}"]
    return records_of(fraud, its.pop("answer_id", f"a{n}"), paid_ms(n) - 1_000, ids, values, **its)


@dataclass(frozen=True)
class Lake:
    """A lake with payments, charge-backs, and the answers about the payments."""

    spark: SparkSession
    settings: Settings

    def log(self, records: Sequence[Mapping[str, Any]]) -> None:
        lines = self.spark.createDataFrame([(json.dumps(record),) for record in records], "line STRING")
        rows = lines.select(F.from_json("line", SCHEMA).alias("record")).select("record.*")
        rows.write.format("delta").mode("append").save(self.settings.table(TABLE))


@pytest.fixture(scope="module")
def lake_of_payments(spark: SparkSession, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    home = tmp_path_factory.mktemp("answers")
    update = {"lake_uri": str(home / "lake"), "home": home, "mlflow_tracking_uri": f"sqlite:///{home}/mlflow.db"}
    lake = Lake(spark, settings.model_copy(update=update))
    paid = [
        {"payment_id": f"p{n}", "card_id": n % 20, "terminal_id": f"t/{n % 5}", "amount": 10.0 + n % 7, "channel": "web" if n % 2 else "chip",
         "paid_at": text(paid_ms(n))}
        for n in range(COUNT)
    ]  # fmt: skip
    load(spark, lake.settings, payments, paid)
    returned = [
        {"chargeback_id": f"c{n}", "payment_id": f"p{n}", "reason": "fraud" if is_fraud(n) else "other", "told_at": text(paid_ms(n) + HOUR_MS)}
        for n in range(COUNT)
        if is_fraud(n) or n % 7 == 0
    ]  # fmt: skip
    # One that comes after the horizon of 2 hours.
    returned.append({"chargeback_id": "late", "payment_id": "p1", "reason": "fraud", "told_at": text(paid_ms(1) + 2 * HOUR_MS)})
    load(spark, lake.settings, chargebacks, returned)
    lake.log([record for n in range(COUNT) for record in asked(n)])
    client = MlflowClient(lake.settings.mlflow_tracking_uri)
    build_training_set(spark, lake.settings, fraud, KNOWN)
    for model in (fraud, relay):
        client.create_registered_model(model.name)
        tags = {"fingerprint": model.vector.fingerprint, "auc": "0.75", "training_set_version": "0"}
        version = client.create_model_version(model.name, "nowhere", tags=tags)
        client.set_registered_model_alias(model.name, CHAMPION, version.version)
    return lake


def test_answers_become_a_training_set_like_that_of_the_events(lake_of_payments: Lake) -> None:
    spark, settings = lake_of_payments.spark, lake_of_payments.settings
    wrong = [
        *asked(2, answer_id="twice")[1:],  # a record that was lost
        *asked(3, answer_id="unnamed", outcome_id=None),
        *asked(4, answer_id="again"),  # the same request, served later with other values
        *asked(5, answer_id="degraded"),
    ]
    for record in wrong:
        if record["answer_id"] == "again":
            record["served_at_ms"] += 1_000
            record["features"] = dict.fromkeys(record["features"])
        if record["answer_id"] == "degraded":
            record["served_at_ms"] = 0
            record["degraded"] = ["stale"] if record["input"] == "terminal_terminals" else []
    lake_of_payments.log(wrong)
    logged = logged_training_set(spark, settings, fraud, KNOWN)
    assert logged.dtypes == spark.read.format("delta").load(settings.table(fraud.training_table)).dtypes
    rows = logged.orderBy("q_ms").collect()
    assert [row["q_ms"] for row in rows] == [paid_ms(n) - 1_000 for n in range(COUNT)]
    assert [row["label"] for row in rows] == [int(is_fraud(n)) for n in range(COUNT)]
    assert {row["split"] for row in rows} == {"train", "gap", "evaluation"}
    for n, row in enumerate(rows):
        assert (row["entity"], row["card_id"], row["terminal_id"]) == (n % 20, n % 20, f"t/{n % 5}")
        assert (float(row["amount"]), row["channel"]) == (1_000.0 + n, None if n % 2 else "web")
        assert (row["payments_1h"], row["mean_amount_1d"], row["terminal_payments_1d"], row["pair_spend_3d"]) == (
            n,
            n / 2,
            n + 2,
            n + 0.25,
        )
        assert (row["batch_payments_1h"], row["batch_pair_payments_3d"]) == (0, 0), "nothing was paid before batch_end"
    early = logged_training_set(spark, settings, fraud, paid_ms(10))
    assert early.count() == 0, "no outcome is known yet"


def test_live_quality_of_a_joined_outcome_counts_the_answers_that_name_it(lake_of_payments: Lake) -> None:
    spark, settings = lake_of_payments.spark, lake_of_payments.settings
    before = live_quality(spark, settings, fraud, KNOWN)
    assert before is not None
    assert (before.metric, before.value, before.evaluated) == ("AUC", 1.0, 0.75)
    assert before.answers >= COUNT
    lake_of_payments.log(
        [
            *asked(6, answer_id="q-unnamed", outcome_id=None, prediction=0.0),
            *asked(6, answer_id="q-degraded", prediction=0.0, degraded_inputs=["terminal_terminals"]),
            *asked(6, answer_id="q-other", prediction=0.0, model_version="2"),
        ]
    )
    assert live_quality(spark, settings, fraud, KNOWN) == before
    lake_of_payments.log(asked(6, answer_id="q-wrong", prediction=0.0))
    after = live_quality(spark, settings, fraud, KNOWN)
    assert after is not None
    assert after.answers == before.answers + 1
    assert after.value is not None
    assert 0.9 < after.value < 1


def test_drift_covers_request_columns_and_derived_features(lake_of_payments: Lake) -> None:
    drift = feature_drift(lake_of_payments.spark, lake_of_payments.settings, fraud, {})
    assert drift is not None
    assert set(drift) == {"amount", "channel", "amount_to_mean", "channel_bucket", "hour"}, "no version of a view is known"
    assert drift["amount"] == 1.0, "all amounts are larger than any of the training set"
    assert drift["channel"] == pytest.approx(0.5, abs=0.05), "half of the requests have none"
    assert drift["hour"] < 0.05, "the times of day are the same"


def test_an_experiment_knows_the_joined_outcomes_of_its_answers(lake_of_payments: Lake) -> None:
    # A card keeps its variant; the champion is always right, and the other variant is always wrong.
    records = [
        record
        for n in range(80)
        for variant in ["batch_only" if n % 20 < 10 else "champion"]
        for record in asked(
            n, answer_id=f"e{n}", experiment="halves", variant=variant, model_version="7",
            prediction=0.9 if is_fraud(n) is (variant == "champion") else 0.1,
        )
    ]  # fmt: skip
    lake_of_payments.log(records)
    report = report_experiment(lake_of_payments.spark, lake_of_payments.settings, fraud, HALVES, KNOWN)
    assert [(arm.variant, arm.entities) for arm in report.arms] == [("champion", 10), ("batch_only", 10)]
    assert report.waiting == 0
    assert [arm.quality for arm in report.arms] == [1.0, 0.0]
    assert "Decided once" in report.verdict


def test_labels_of_the_owner_belong_to_the_answer_of_their_keys_and_time(lake_of_payments: Lake) -> None:
    spark, settings = lake_of_payments.spark, lake_of_payments.settings
    assert live_quality(spark, settings, relay, KNOWN) == LiveQuality("1", 0, "AUC", None, 0.75), "no labels were loaded"
    lake_of_payments.log(
        [
            record
            for n in range(COUNT)
            for record in records_of(
                relay, f"r{n}", START + n, [f"t/{n % 5}", "t/1"], [[n, n], [n, n]], request={"minutes": n}, prediction=n % 2 / 2
            )
        ]
    )
    assert relay.labels is not None
    labels = [
        {"label_id": f"l{n}", "terminal_id": f"t/{n % 5}", "other_terminal_id": "t/1" if n else "t/2", "minutes": n, "label": n % 2,
         "time": text(START + n)}
        for n in range(COUNT)
    ]  # fmt: skip
    load(spark, settings, relay.labels, labels)
    assert live_quality(spark, settings, relay, KNOWN) == LiveQuality("1", COUNT - 1, "AUC", 1.0, 0.75), (
        "one is of another terminal"
    )
    rows = logged_training_set(spark, settings, relay, KNOWN).orderBy("q_ms").collect()
    assert [(row["minutes"], row["label"], row["payments_1h"], row["other_payments_1d"]) for row in rows] == [
        (n, n % 2, n, n) for n in range(1, COUNT)
    ]


def test_the_event_that_an_answer_is_about_is_no_outcome_of_itself(spark: SparkSession, lake: Settings) -> None:
    large = Model("large", (cards,), Outcome(at="amount > 0", where="amount > 100", within="2h"))
    amounts = {1: [200], 2: [5, 200], 3: [200, 300], 4: [5], 5: [0, 200]}
    rows = [
        {"payment_id": f"{card}-{place}", "card_id": card, "amount": amount, "paid_at": text(START + place * MINUTE_MS)}
        for card, each in amounts.items()
        for place, amount in enumerate(each)
    ]
    load(spark, lake, payments, rows)
    points = spark.createDataFrame([(card, START - 1_000) for card in (*amounts, 6)], "entity BIGINT, q_ms BIGINT")
    labels = {row["entity"]: row["label"] for row in with_outcome(spark, lake, large, points).collect()}
    assert labels == {1: 0, 2: 1, 3: 1, 4: 0, 5: 0, 6: 0}


def test_an_empty_value_that_an_outcome_is_joined_by_is_none_and_no_negative_label(spark: SparkSession, lake: Settings) -> None:
    channel = RequestColumn("channel")
    large = Model(
        "large", (cards,), Outcome(at="amount > 0", where="amount > 100", join="channel", within="2h"), request=(channel,)
    )
    paid = [(1, "", 5), (2, "web", 5), (3, "web", 200), (4, "", 200), (5, "x" * 600, 5), (6, None, 5), (7, "chip", 5)]
    rows = [
        {"payment_id": f"p{card}", "card_id": card, "amount": amount, "channel": channel, "paid_at": text(START + card * MINUTE_MS)}
        for card, channel, amount in paid
    ]
    load(spark, lake, payments, rows)
    build_training_set(spark, lake, large, KNOWN)
    built = spark.read.format("delta").load(lake.table(large.training_table)).collect()
    assert {row["entity"]: row["label"] for row in built} == {2: 1, 3: 0, 7: 0}
    points = spark.createDataFrame(
        [(card, START, channel) for card, channel, _ in paid], f"entity BIGINT, q_ms BIGINT, {LABEL_JOIN} STRING"
    )
    labels = {row["entity"]: row["label"] for row in with_outcome(spark, lake, large, points).collect()}
    assert {card: label for card, label in labels.items() if label is not None} == {2: 1, 3: 1, 7: 0}
