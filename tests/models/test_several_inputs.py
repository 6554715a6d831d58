"""A model over two groups with request columns and derived features: from events to its training set and to predictions over HTTP.

On real Spark, Delta, Valkey, MLflow and BentoML. The oracle of the training set is Python over the list of payments.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import dagster as dg
import httpx
import numpy as np
import pandas as pd
import pytest
from kafka import KafkaConsumer
from typer.testing import CliRunner

from batch.load import load_events
from batch.publish import publish_view
from batch.tiles import build_tiles, stale_days
from batch.view import build_view
from features.declaration.versions import Change
from features.expressions import expression
from features.instants import rfc3339
from features.vector import RequestColumn
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.embedded import services
from infra.kafka import SERVED_TOPIC
from infra.settings import Settings
from models.promotion import promote
from models.training import train_models
from models.training_set import build_training_set
from orchestration.cli import app
from orchestration.execution import use_deployment
from orchestration.materialized import VIEW_VERSION
from orchestration.names import online_key
from orchestration.plan import model_plans
from tests.payments import card_at_terminal, cards, chargebacks, fraud, payments, project, relay, terminals
from tests.waiting import eventually

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: The first test pays for the events, the training set and the services.
pytestmark = pytest.mark.timeout(1_800)
START = int(datetime(2026, 5, 18, tzinfo=UTC).timestamp() * 1_000)
#: The instant of the last payments. Views end there, so what is served then is batch alone, and the training set has the same instant.
LAST = START + 6 * DAY_MS + 13 * HOUR_MS + 7 * MINUTE_MS
HORIZON_MS = 2 * HOUR_MS


def text(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1_000, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Built:
    """The events, and what was built from them."""

    settings: Settings
    spark: SparkSession
    payments: pd.DataFrame
    chargebacks: pd.DataFrame
    rows: pd.DataFrame


def events() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Payments, the last forty of them at one instant by different cards; and charge-backs, some of which come too late or are no fraud."""
    source = np.random.default_rng(5)
    n = 2_400
    at = np.sort(source.integers(START, LAST, n - 40))
    frame = pd.DataFrame(
        {
            "payment_id": [f"p{index}" for index in range(n)],
            "card_id": np.concatenate([source.integers(0, 60, n - 40), np.arange(40)]),
            "terminal_id": [f"t{index}" if index % 9 else None for index in source.integers(0, 30, n)],
            "amount": np.round(source.gamma(2, 20, n), 2),
            "channel": source.choice(["chip", "web", None], n),
            "at_ms": np.concatenate([at, np.full(40, LAST)]),
        }
    )
    frame.loc[source.random(n) < 0.05, "amount"] = 0  # no label points
    returned = frame[source.random(n) < 0.3].copy()
    returned["told_ms"] = returned["at_ms"] + source.integers(0, 2 * HORIZON_MS, len(returned))
    returned["reason"] = source.choice(["fraud", "fraud", "other"], len(returned))
    return frame, returned


def load(spark: SparkSession, settings: Settings, folder: Path, paid: pd.DataFrame, returned: pd.DataFrame) -> None:
    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = folder / name
        path.write_text("\n".join(json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows))
        return path

    rows = [{**row, "paid_at": text(row.pop("at_ms"))} for row in paid.to_dict("records")]
    assert load_events(spark, settings, payments, write("payments.jsonl", rows)).loaded == len(rows)
    rows = [
        {"chargeback_id": f"c-{row['payment_id']}", "payment_id": row["payment_id"], "reason": row["reason"], "told_at": text(row["told_ms"])}
        for row in returned.to_dict("records")
    ]  # fmt: skip
    assert load_events(spark, settings, chargebacks, write("chargebacks.jsonl", rows)).loaded == len(rows)


@pytest.fixture(scope="module")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Built]:
    home = tmp_path_factory.mktemp("several")
    settings = Settings.load(home, f"{Path(__file__).parents[1] / 'payments.py'}:project").model_copy(
        update={"served_share": 1.0, "store_timeout_seconds": 5}
    )
    paid, returned = events()
    load(spark, settings, home, paid, returned)
    build_training_set(spark, settings, fraud, LAST + HORIZON_MS + 1)
    rows = spark.read.format("delta").load(settings.table(fraud.training_table)).toPandas()
    try:
        services.up(settings, {SERVED_TOPIC: 1}, only={"kafka", "valkey", "mlflow", "serving"})
        for group in project.groups:
            build_tiles(spark, settings, group, stale_days(spark, settings, group))
            build_view(spark, settings, group, LAST)
            publish_view(spark, settings, group)
        report = train_models(settings, fraud, rows, 0, None)
        assert report.candidate_version is not None, report.reason
        assert promote(settings, fraud, report.candidate_version, rows).promoted
        yield Built(settings, spark, paid, returned, rows)
    finally:
        services.down(settings)


def expected(paid: pd.DataFrame, returned: pd.DataFrame, payment: Any, q_ms: int) -> dict[str, Any]:
    """The features and the label of a payment, from the list of all events."""

    def hopped(group: Any, index: int, *columns: str) -> pd.DataFrame:
        start_ms = int(group.features[index].window.start_ms(q_ms))
        own = paid
        for column in columns:
            own = own[own[column] == payment[column]]
        return own[(own["at_ms"] >= start_ms) & (own["at_ms"] < q_ms)]

    outcomes = returned[(returned["payment_id"] == payment["payment_id"]) & (returned["reason"] == "fraud")]
    amounts = hopped(cards, 1, "card_id")["amount"]
    known = payment["terminal_id"] is not None
    pair = hopped(card_at_terminal, 0, "card_id", "terminal_id")["amount"]
    return {
        "label": int(((outcomes["told_ms"] > q_ms) & (outcomes["told_ms"] < q_ms + HORIZON_MS)).any()),
        "payments_1h": len(hopped(cards, 0, "card_id")),
        "mean_amount_1d": amounts.mean() if len(amounts) else None,
        "terminal_payments_1h": len(hopped(terminals, 0, "terminal_id")) if known else None,
        "terminal_payments_1d": len(hopped(terminals, 1, "terminal_id")) if known else None,
        "pair_payments_3d": len(pair) if known else None,
        "pair_spend_3d": pair.sum() if known else None,
    }


def test_each_payment_is_a_label_point_with_the_features_of_card_and_terminal_and_its_own_outcome(built: Built) -> None:
    rows, paid = built.rows, built.payments
    points = paid[paid["amount"] > 0]
    first, last = rows["q_ms"].min(), rows["q_ms"].max()
    boundary_ms = int(last - (last - first) * 0.2)
    gap = (points["at_ms"] < boundary_ms) & (points["at_ms"] >= boundary_ms - HORIZON_MS)
    assert len(rows) == len(points)
    assert (rows["split"] == "gap").sum() == gap.sum() > 0
    assert (rows["q_ms"] == LAST).sum() > 30
    joined = rows.merge(points, left_on=["entity", "q_ms"], right_on=["card_id", "at_ms"], suffixes=("", "_paid"), validate="1:1")
    assert len(joined) == len(rows)
    sample = joined.sample(250, random_state=1)
    assert sample["label"].nunique() == 2
    for row in sample.to_dict("records"):
        payment = {name: row[name] for name in ("payment_id", "card_id")} | {"terminal_id": row["terminal_id_paid"]}
        for name, value in expected(paid, built.chargebacks, payment, row["q_ms"]).items():
            if value is None:
                assert pd.isna(row[name]), (name, row)
            else:
                assert row[name] == pytest.approx(value, rel=1e-12), (name, row)
        midnight = expected(paid, built.chargebacks, payment, row["q_ms"] // DAY_MS * DAY_MS)
        assert row["batch_payments_1h"] == midnight["payments_1h"]


def test_events_after_a_label_point_move_no_feature_of_it(
    built: Built, spark: SparkSession, lake: Settings, tmp_path: Path
) -> None:
    middle = START + 3 * DAY_MS
    paid, returned = (frame.copy() for frame in (built.payments, built.chargebacks))
    after = paid["at_ms"] > middle
    paid.loc[after, "amount"] = paid.loc[after, "amount"] * 7 + 1
    more = paid[after].assign(payment_id=lambda frame: "x" + frame["payment_id"])
    load(spark, lake, tmp_path, pd.concat([paid, more]), returned[returned["told_ms"] <= middle])
    build_training_set(spark, lake, fraud, LAST + HORIZON_MS + 1)
    changed = spark.read.format("delta").load(lake.table(fraud.training_table)).toPandas()
    features = [name for name in built.rows.columns if name not in ("label", "split", "amounts", "batch_amounts")]
    before, now = (
        frame[frame["q_ms"] <= middle][features].sort_values(["q_ms", "entity"]).reset_index(drop=True)
        for frame in (built.rows, changed)
    )
    assert len(before) > 500
    pd.testing.assert_frame_equal(before, now)


def test_training_sets_that_are_built_at_once_are_each_whole(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    paid, returned = (frame.head(200) for frame in events())
    load(spark, lake, tmp_path, paid, returned[returned["payment_id"].isin(paid["payment_id"])])
    rows = int((paid["amount"] > 0).sum())
    for _ in range(2):  # the first time the table is new
        with ThreadPoolExecutor(3) as pool:
            builds = [pool.submit(build_training_set, spark, lake, fraud, LAST + HORIZON_MS + 1) for _ in range(3)]
        for build in builds:
            report = build.result()
            table = spark.read.format("delta").option("versionAsOf", report.delta_version).load(lake.table(fraud.training_table))
            assert (table.count(), report.rows) == (rows, rows)


def test_labels_of_the_owner_get_the_features_of_their_time(built: Built) -> None:
    paid = built.payments
    labels = [
        {"label_id": f"l{n}", "terminal_id": f"t{n % 30}", "other_terminal_id": f"t{(n * 7) % 30}", "minutes": n, "label": n % 2, "time": text(START + DAY_MS + n * HOUR_MS + 1)}
        for n in range(80)
    ]  # fmt: skip
    labels.append({**labels[0], "label_id": "lx", "label": None})
    path = built.settings.home / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, labels)))
    arguments = ["--home", str(built.settings.home), "training-set", "--model", "relay", "--labels", str(path), "--json"]
    with mock.patch.dict(os.environ, {"BRAID_PROJECT": built.settings.project}):
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["loaded"]["loaded"], report["loaded"]["quarantined"]) == (80, 1)
    assert report["rows"] == 80, "also those of the gap between training and evaluation"
    assert report["train"] + report["evaluation"] > 70
    rows = built.spark.read.format("delta").load(built.settings.table(relay.training_table)).toPandas()
    assert set(relay.vector.names) <= set(rows.columns)
    for row in rows.to_dict("records"):
        assert row["label"] == row["minutes"] % 2
        for key, prefix in (("entity", ""), ("other_terminal_id", "other_")):
            start_ms = int(terminals.features[0].window.start_ms(row["q_ms"]))
            within = (paid["terminal_id"] == row[key]) & (paid["at_ms"] >= start_ms) & (paid["at_ms"] < row["q_ms"])
            assert row[f"{prefix}payments_1h"] == within.sum(), row

    with mock.patch.dict(os.environ, {"BRAID_PROJECT": built.settings.project}):
        use_deployment(built.settings)
        with dg.DagsterInstance.get() as instance:  # a blocking check has kept the later view out
            metadata = {VIEW_VERSION: 0, "batch_end": rfc3339(START + 2 * DAY_MS)}
            instance.report_runless_asset_event(dg.AssetMaterialization(online_key(terminals), metadata=metadata))
        done = CliRunner().invoke(app, [*arguments[:-3], "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == 24, "the labels of a day"


def ask(built: Built, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{built.settings.serving_url}{path}", json={"at": LAST, **body}, timeout=20)


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    context = {"amount": float(row["amount"])} | ({"channel": row["channel"]} if row["channel"] else {})
    return {"card_id": row["entity"], "terminal_id": row["terminal_id"], "context": context}


def asked(built: Built) -> pd.DataFrame:
    rows = built.rows[(built.rows["q_ms"] == LAST) & built.rows["terminal_id"].notna()]
    eventually(lambda: ask(built, "/predict", **request_of(rows.to_dict("records")[0])).is_success)
    return rows


def test_a_prediction_is_made_on_the_numbers_of_the_training_set(built: Built) -> None:
    rows = asked(built)
    matrix = fraud.vector.matrix(rows)
    for row, numbers in zip(rows.to_dict("records"), matrix.tolist(), strict=True):
        answer = ask(built, "/models/fraud/predict", **request_of(row)).json()
        assert (answer["card_id"], answer["terminal_id"]) == (row["entity"], row["terminal_id"])
        assert answer["features_used"] == dict(zip(fraud.vector.names, numbers, strict=True))
        assert answer["provenance"]["degraded"] is False
        assert set(answer["inputs"]) == {"cards", "terminal_terminals", "pair_card_at_terminal"}
        assert answer["inputs"]["cards"]["batch_end"] == answer["provenance"]["batch_end"]
        assert answer == ask(built, "/predict", **request_of(row)).json(), "the model is the project's default"


def test_each_input_of_an_answer_is_logged_with_its_own_features(built: Built) -> None:
    row = asked(built).to_dict("records")[3]
    answer = ask(built, "/predict", **request_of(row)).json()
    consumer = KafkaConsumer(SERVED_TOPIC, bootstrap_servers=built.settings.kafka_bootstrap, auto_offset_reset="earliest")
    records: list[dict[str, Any]] = []

    def logged() -> dict[str, dict[str, Any]]:
        for messages in consumer.poll(500).values():
            records.extend(json.loads(line) for message in messages for line in message.value.splitlines())
        mine = {
            "cards": str(row["entity"]),
            "terminals": row["terminal_id"],
            "card_at_terminal": f"{row['entity']}/{row['terminal_id']}",
        }
        groups = {record["group"]: record for record in records if mine[record["group"]] == record["entity"]}
        return groups if len(groups) == 3 else {}

    groups = eventually(logged)
    consumer.close()
    assert groups["cards"]["prediction"] == answer["prediction"]
    assert groups["cards"]["features"]["payments_1h"] == answer["features_used"]["payments_1h"]
    assert groups["terminals"]["features"]["payments_1d"] == answer["features_used"]["terminal_payments_1d"]
    assert "prediction" not in groups["terminals"]


def test_a_changed_input_is_in_the_plan(built: Built) -> None:
    derived = (
        expression("amount_to_mean", "amount / mean_amount_1d + 1"),
        expression("night", "if(hour_of_day(request_time) < 6, 1, 0)"),
    )
    changed = replace(fraud, request=(fraud.request[0], RequestColumn("channel", default="web")), derived=derived)
    settled, other = model_plans(project, built.settings)
    assert (settled.settled, settled.champion, settled.change) == (True, "2", Change((), (), ()))
    assert (other.champion, other.settled) == (None, False)
    [plan] = model_plans(replace(project, models=(changed,)), built.settings)
    assert not plan.settled
    assert plan.change is not None
    assert (plan.change.added, plan.change.removed) == (("night",), ("channel_bucket", "hour"))
    assert [name for name, _ in plan.change.altered] == ["channel", "amount_to_mean"]


def test_many_candidates_get_the_predictions_that_each_gets_alone(built: Built) -> None:
    rows = asked(built).to_dict("records")
    alone = [ask(built, "/predict", **request_of(row)).json()["prediction"] for row in rows]
    requests = [request_of(row) for row in rows]
    candidates = [
        {"card_id": request["card_id"], "terminal_id": request["terminal_id"], **request["context"]} for request in requests
    ]
    answer = ask(built, "/models/fraud/score", candidates=candidates)
    assert answer.is_success, answer.text
    assert [candidate["prediction"] for candidate in answer.json()["candidates"]] == alone
    assert len(set(alone)) > 1
    # One card at many terminals: what they share is said once.
    card, amount = rows[0]["entity"], 12.5
    shared = ask(
        built,
        "/models/fraud/score",
        card_id=card,
        context={"amount": amount},
        candidates=[{"terminal_id": f"t{n}"} for n in range(1, 6)],
    ).json()
    single = ask(built, "/predict", card_id=card, terminal_id="t3", context={"amount": amount}).json()
    assert shared["candidates"][2]["prediction"] == single["prediction"]


def test_a_store_that_is_late_costs_the_budget_and_gives_the_declared_prediction(built: Built) -> None:
    row = asked(built).to_dict("records")[0]
    [valkey] = [service.pid for service in services.status(built.settings) if service.name == "valkey"]
    os.kill(valkey, signal.SIGSTOP)
    try:
        answers = [ask(built, "/predict", **request_of(row)).json() for _ in range(2)]
        scores = ask(built, "/models/fraud/score", candidates=[{"card_id": 1, "terminal_id": "t1", "amount": 1}] * 2).json()
    finally:
        os.kill(valkey, signal.SIGCONT)
    for answer in answers:
        assert answer["prediction"] == 0.25
        assert "the online store has not answered within the budget of 1500 ms" in answer["provenance"]["degraded_reasons"]
    assert scores["candidates"] == [{"prediction": 0.25, "degraded": True}] * 2
    metrics = httpx.get(f"{built.settings.serving_url}/metrics").text
    [late] = re.findall(r'^braid_late_answers_total{model="fraud"} (\S+)$', metrics, re.MULTILINE)
    assert float(late) >= 3
    assert 'braid_budget_used_count{model="fraud"}' in metrics
    eventually(lambda: ask(built, "/predict", **request_of(row)).json()["provenance"]["degraded"] is False)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("predict", {"context": {}}, 422, "context.amount: Field required"),
        ("predict", {"context": {"amount": "much"}}, 422, "context.amount"),
        ("predict", {"context": {"amount": 1, "colour": "red"}}, 422, "context.colour"),
        ("predict", {"context": {"amount": 1}, "terminal_id": None}, 400, "terminal_id"),
        ("predict", {"context": {"amount": 1}, "card_id": "x"}, 422, "is not an integer"),
        ("score", {"candidates": []}, 400, "candidates"),
        ("score", {"candidates": [{"terminal_id": "t1", "amount": 1}]}, 422, "position 0 has no card_id"),
        ("score", {"card_id": 1, "candidates": [{"terminal_id": "t1", "amount": 1}, {"terminal_id": "t2"}]}, 422, "position 1 has no amount"),
        ("score", {"card_id": 1, "candidates": [{"terminal_id": "t1", "amount": 1, "colour": "red"}]}, 422, "candidates.0.colour"),
    ],
)  # fmt: skip
def test_a_request_that_does_not_fit_is_refused_with_a_sentence(
    built: Built, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    whole = {"card_id": 1, "terminal_id": "t1"} if path == "predict" else {}
    answer = ask(built, f"/models/fraud/{path}", **{**whole, **body})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]


def test_the_page_of_the_api_has_the_schema_of_the_model(built: Built) -> None:
    described = httpx.get(f"{built.settings.serving_url}/docs.json").json()
    assert {"/predict", "/features", "/models/fraud/predict", "/models/fraud/score"} <= set(described["paths"])
    assert "amount" in json.dumps(described["components"]["schemas"])


def test_each_model_has_its_own_endpoint_and_its_own_champion(built: Built) -> None:
    asked(built)
    answer = ask(built, "/models/relay/predict", terminal_id="t1", other_terminal_id="t2", context={"minutes": 3})
    assert answer.status_code == 503
    assert "no champion of relay" in answer.json()["error"]
    assert ask(built, "/models/nothing/predict").status_code == 404
