"""An experiment, stale features and the log of what was served, over HTTP on real Kafka, Valkey, MLflow and BentoML, down to Delta."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import lightgbm
import mlflow
import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from mlflow import MlflowClient

from features.aggregations import Series
from features.packed import FORMAT, batch_field, encode
from features.speed_value import speed_field
from features.tiles import fold_tile_values
from features.view import build_view
from infra.embedded import services
from infra.errors import ServiceError
from infra.kafka import SERVED_TOPIC, create_topics, end_offsets
from infra.policies import Experiment, UseCase, WhenStale
from infra.settings import Settings
from models.registry import CHALLENGER, CHAMPION, batch_only_name, tracking
from monitoring.served import TABLE, ingest_served, served_of
from serving.served_log import BOUND, ServedLog
from serving.variants import assigned, place
from store.clients import store
from store.keys import meta_key
from tests.declarations import repurchase, user_features
from tests.pure import speed_value
from tests.waiting import eventually

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BATCH_END = 1_780_000_000_000
NOW = BATCH_END + 3_600_000
NAMES = user_features.feature_names
EXPERIMENT = Experiment(
    name="three", shares={"champion": 0.4, "challenger": 0.3, "batch_only": 0.3}, shadow=True, horizon_hours=48, min_entities=10
)
USERS = {name: [user for user in range(200) if assigned(EXPERIMENT, user) == name] for name in EXPERIMENT.shares}
CASES = {when.value: UseCase(max_age_seconds=60, when_stale=when) for when in WhenStale}


def booster(seed: int) -> lightgbm.Booster:
    source = np.random.default_rng(seed)
    x = source.integers(0, 6, (600, len(NAMES))).astype(float)
    data = lightgbm.Dataset(x, (x[:, 3] + source.normal(0, 1, 600) > 2).astype(int), feature_name=list(NAMES))
    return lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": seed}, data, 20)


MODELS = {name: booster(seed) for seed, name in enumerate(EXPERIMENT.shares)}


def register(settings: Settings, model: lightgbm.Booster, name: str, alias: str) -> None:
    with tracking(settings):
        mlflow.set_experiment("models")
        with mlflow.start_run():
            info = mlflow.lightgbm.log_model(model, name="model", registered_model_name=name, pip_requirements=[])
    MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(name, alias, str(info.registered_model_version))


def publish(settings: Settings) -> None:
    """Each user has bought once a day before batch_end and once after it, but for those of 100 and more, whom nobody knows."""
    pipeline = store(settings).pipeline(transaction=False)
    for user in range(100):
        early, late = (_tile(ts_ms) for ts_ms in (BATCH_END - 86_400_000, BATCH_END + 1_000))
        view = build_view(
            user_features, BATCH_END, [early.first_ms // 300_000 * 300_000], [[one] for one in early.partials], early.last_ms
        )
        pipeline.hset(
            user_features.key(user),
            mapping={
                batch_field(user_features.fingerprint): encode(view),
                speed_field(user_features.fingerprint): speed_value(user_features, [late]),
            },
        )
    newest = {"batch_end_ms": BATCH_END, "fingerprint": user_features.fingerprint, "format": FORMAT, "newest_event_ms": BATCH_END}
    pipeline.hset(meta_key(user_features.name), mapping=newest)
    pipeline.execute()


def _tile(ts_ms: int) -> Any:
    inputs = [Series(np.array([ts_ms]), np.array([v]), np.array([True])) for v in (1, 2_500_000, 77, 1)]
    return fold_tile_values(user_features, inputs, np.array([0]), np.array([1]))[0]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], str]) -> Iterator[Settings]:
    """Champion and twin, no challenger; of /features half of the users are logged."""
    home = tmp_path_factory.mktemp("served")
    settings = Settings.load(home).model_copy(
        update={
            "mlflow_tracking_uri": empty_registry(home), "alias_poll_seconds": 0.3, "store_timeout_seconds": 5,
            "experiment": EXPERIMENT, "use_cases": CASES, "served_share": 0.5,
        }
    )  # fmt: skip
    MlflowClient(settings.mlflow_tracking_uri).create_experiment("models", artifact_location=str(home / "artifacts"))
    register(settings, MODELS["champion"], repurchase.name, CHAMPION)
    register(settings, MODELS["batch_only"], batch_only_name(repurchase.name), CHAMPION)
    try:
        services.up(settings, {SERVED_TOPIC: 2}, only={"kafka", "valkey", "serving"})
        publish(settings)
        eventually(lambda: predict(settings, USERS["batch_only"][0])["model"]["variant"] == "batch_only")
        yield settings
    finally:
        services.down(settings)


def predict(settings: Settings, user: int, **more: Any) -> dict[str, Any]:
    answer = httpx.post(f"{settings.serving_url}/predict", json={"user_id": user, "at": NOW, **more}, timeout=20)
    assert answer.is_success, answer.text
    return answer.json()


def features(settings: Settings, *ids: int, **more: Any) -> list[dict[str, Any]]:
    body = {"group": user_features.name, "ids": ids, "at": NOW, **more}
    answer = httpx.post(f"{settings.serving_url}/features", json=body, timeout=20)
    assert answer.is_success, answer.text
    return answer.json()["rows"]


def records(settings: Settings) -> list[dict[str, Any]]:
    """All that is on the topic."""
    ends = end_offsets(settings, SERVED_TOPIC)
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest")
    topic = {TopicPartition(SERVED_TOPIC, partition): end for partition, end in ends.items()}
    consumer.assign(list(topic))
    everything: list[dict[str, Any]] = []
    while any(consumer.position(partition) < end for partition, end in topic.items()):
        messages = [message for batch in consumer.poll(1_000).values() for message in batch]
        everything += [json.loads(line) for message in messages for line in message.value.split(b"\n")]
    consumer.close()
    return everything


def logged(settings: Settings, at: int, count: int) -> list[dict[str, Any]]:
    """The records of questions about a time, once there are so many."""

    def of_the_time() -> list[dict[str, Any]] | None:
        found = [one for one in records(settings) if one["q_ms"] == at]
        return found if len(found) >= count else None

    return eventually(of_the_time)


def test_each_user_is_answered_by_its_variant_on_its_features(deployment: Settings) -> None:
    for name in ("champion", "batch_only"):
        for user in USERS[name][:5]:
            for answer in (predict(deployment, user), predict(deployment, user)):
                assert answer["model"]["variant"] == name
                assert answer["features_used"]["purchase_count_7d"] == (1 if name == "batch_only" else 2)
                assert answer["prediction"] == MODELS[name].predict([list(answer["features_used"].values())])[0], (
                    "shadows change nothing"
                )
                assert answer["provenance"]["tiles_merged"] == (0 if name == "batch_only" else 1)


def test_a_variant_without_a_model_costs_no_answer_and_is_no_exposure(deployment: Settings) -> None:
    user, at = USERS["challenger"][0], NOW + 1
    answer = predict(deployment, user, at=at)
    assert answer["model"]["variant"] == "champion"
    assert answer["prediction"] == MODELS["champion"].predict([list(answer["features_used"].values())])[0]
    sampled = next(user for user in USERS["challenger"] if place("served", user) < 0.5)
    predict(deployment, sampled, at=at + 1)
    [record] = logged(deployment, at + 1, 1)
    assert (record["experiment"], record["variant"], record["shadows"]) == (None, "champion", {})


def test_a_record_says_what_was_served_and_what_the_shadows_would_have_said(deployment: Settings) -> None:
    at = NOW + 10
    champion, twin, stranger = USERS["champion"][0], USERS["batch_only"][0], next(u for u in USERS["champion"] if u >= 100)
    answers = {user: predict(deployment, user, at=at) for user in (champion, twin, stranger)}
    found = {int(one["entity"]): one for one in logged(deployment, at, 3)}
    for user, answer in answers.items():
        record = found[user]
        assert record["experiment"] == "three"
        assert (record["variant"], record["prediction"]) == (answer["model"]["variant"], answer["prediction"])
        assert (record["model"], record["model_version"]) == (answer["model"]["name"], answer["model"]["version"])
        assert (record["group"], record["fingerprint"]) == (user_features.name, user_features.fingerprint)
        assert (record["batch_end_ms"], record["degraded"]) == (BATCH_END, [])
        assert set(record["shadows"]) == {"champion", "batch_only"} - {record["variant"]}
        assert abs(record["served_at_ms"] - time.time() * 1_000) < 600_000
    assert found[champion]["features"]["purchase_count_7d"] == 2
    assert (found[champion]["features_at_ms"], found[twin]["features_at_ms"]) == (at, BATCH_END)
    assert found[champion]["newest_event_ms"] == BATCH_END + 1_000
    assert found[stranger]["features"]["avg_purchase_30d"] is None, "a missing value stays missing"
    assert answers[stranger]["features_used"]["avg_purchase_30d"] == 0.0
    of_twin = [float(value) for value in found[twin]["features"].values()]
    assert found[champion]["shadows"]["batch_only"] == MODELS["batch_only"].predict([of_twin])[0], "of the same purchases"


def test_half_of_the_users_are_logged_by_features_whole_or_not_at_all(deployment: Settings) -> None:
    at = NOW + 20
    wanted = {user for user in range(150) if place("served", user) < 0.5}
    rows = features(deployment, *range(150), at=at)
    features(deployment, *range(150), at=at)
    found = logged(deployment, at, 2 * len(wanted))
    assert sorted(int(one["entity"]) for one in found) == sorted([*wanted, *wanted])
    for record in found:
        assert record["features"] == rows[int(record["entity"])]["features"]
        assert "prediction" not in record and "experiment" not in record


def newest(settings: Settings, age_ms: int) -> None:
    """The newest event is so old at NOW, and serving knows it."""
    store(settings).hset(meta_key(user_features.name), "newest_event_ms", NOW - age_ms)
    gauge = re.compile(r'braid_newest_event_timestamp_seconds\{group="user_features"\} (.+)')
    eventually(lambda: float(gauge.search(httpx.get(f"{settings.serving_url}/metrics").text)[1]) == (NOW - age_ms) / 1_000)


def test_a_use_case_decides_what_a_stale_answer_is(deployment: Settings) -> None:
    user = USERS["champion"][1]
    newest(deployment, 60_000)
    for case in CASES:
        [row] = features(deployment, user, use_case=case)
        assert (row["features"]["purchase_count_7d"], row["provenance"]["degraded"]) == (2, False), case
    newest(deployment, 60_001)
    expected = {"serve": 2, "batch_only": 1, "default": None}
    for case, purchases in expected.items():
        [row] = features(deployment, user, use_case=case)
        answer = predict(deployment, user, use_case=case)
        assert row["features"]["purchase_count_7d"] == purchases
        assert answer["features_used"]["purchase_count_7d"] == (purchases or 0)
        for provenance in (row["provenance"], answer["provenance"]):
            assert provenance["degraded"] is True
            assert provenance["degraded_reasons"] == [f"stale: the newest event is older than the 60 s that {case} allows"]
            assert provenance["tiles_merged"] == (1 if case == "serve" else 0)
            assert provenance["missing"] == (list(NAMES) if case == "default" else [])
    for path, body in (("features", {"group": user_features.name, "ids": [user]}), ("predict", {"user_id": user})):
        refused = httpx.post(f"{deployment.serving_url}/{path}", json={**body, "at": NOW, "use_case": "refuse"})
        assert (refused.status_code, set(refused.json())) == (503, {"error", "cure"})
        unknown = httpx.post(f"{deployment.serving_url}/{path}", json={**body, "at": NOW, "use_case": "nothing"})
        assert unknown.status_code == 422
        assert "serve, batch_only, default, refuse" in unknown.json()["cure"]
    twin = predict(deployment, USERS["batch_only"][1], use_case="default")
    assert twin["provenance"]["degraded"] is True, "also of the variant that knows batch alone"
    assert set(twin["features_used"].values()) == {0.0}
    assert features(deployment, user)[0]["provenance"]["degraded"] is False, "who names no use case minds nothing"
    newest(deployment, 0)


def test_each_record_comes_into_the_table_once_whatever_happens(spark: SparkSession, deployment: Settings) -> None:
    sent = len(records(deployment))
    table = deployment.table(TABLE)

    def count() -> int:
        rows = spark.read.format("delta").load(table).select("served_id").collect()
        assert len({row["served_id"] for row in rows}) == len(rows)
        return len(rows)

    assert ingest_served(spark, deployment) == sent
    assert ingest_served(spark, deployment) == 0
    assert count() == sent

    user = next(user for user in USERS["champion"] if user >= 100)
    for at in range(NOW + 1_000, NOW + 1_020):
        predict(deployment, user, at=at)
    sent = settled(deployment)
    threads = [threading.Thread(target=attempt, args=(spark, deployment)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    attempt(spark, deployment)
    assert count() == sent

    # As if the run had ended between Delta's commit and its own.
    [commits] = (deployment.home / "lake" / "_checkpoints").glob(f"{TABLE}_*/commits")
    last = max((path for path in commits.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    last.unlink()
    (commits / f".{last.name}.crc").unlink(missing_ok=True)
    attempt(spark, deployment)
    assert count() == sent

    [row] = served_of(spark, deployment, user_features).where(f"q_ms = {NOW + 1_000}").collect()
    assert row["entity"] == user
    assert json.loads(row["features"])["avg_purchase_30d"] is None
    assert json.loads(row["features"])["purchase_count_7d"] == 0
    assert (row["experiment"], row["degraded"]) == ("three", [])

    admin = KafkaAdminClient(bootstrap_servers=deployment.kafka_bootstrap)
    admin.delete_topics([SERVED_TOPIC])
    eventually(lambda: SERVED_TOPIC not in admin.list_topics())
    assert ingest_served(spark, deployment) == 0, "there is no topic"
    create_topics(deployment, {SERVED_TOPIC: 1})
    admin.close()
    log = ServedLog(deployment, lambda lost: None)
    for n in range(3 * sent):  # more than the old one had
        log.add(lambda n=n: {"served_id": f"anew {n}", "group": "another", "entity": "1"})
    log.close()
    assert ingest_served(spark, deployment) == 3 * sent
    assert count() == 4 * sent


def attempt(spark: SparkSession, settings: Settings) -> None:
    with suppress(ServiceError):  # another run was faster
        ingest_served(spark, settings)


def settled(settings: Settings) -> int:
    """The number of records once the log has nothing more to send."""
    counts = [-1]

    def same_twice() -> bool:
        counts.append(len(records(settings)))
        return counts[-1] == counts[-2]

    eventually(same_twice)
    return counts[-1]


def test_without_a_broker_records_are_lost_and_counted_and_nobody_waits(settings: Settings) -> None:
    lost: list[int] = []
    log = ServedLog(settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1", "served_share": 0.5}), lost.append)
    started = time.monotonic()
    for n in range(BOUND + 7):
        log.add(lambda n=n: {"entity": n})
    assert time.monotonic() - started < 1
    assert sum(lost) == 7
    log.close()
    assert sum(lost) == BOUND + 7, "those that still wait when the service ends are lost, too"


def test_a_record_that_cannot_be_made_takes_no_other_with_it(deployment: Settings) -> None:
    lost: list[int] = []
    before = settled(deployment)
    log = ServedLog(deployment, lost.append)
    log.add(lambda: {"served_id": "good"})
    log.add(lambda: {"served_id": object()})
    log.add(lambda: {"served_id": 1 / 0})
    log.add(lambda: {"served_id": "x" * 2_000_000})
    log.add(lambda: {"served_id": "good, too"})
    log.close()
    assert sum(lost) == 3
    assert settled(deployment) == before + 2


def test_records_that_a_silent_broker_has_not_accepted_when_the_service_ends_are_counted(deployment: Settings) -> None:
    lost: list[int] = []
    before = settled(deployment)
    log = ServedLog(deployment, lost.append)
    log.add(lambda: {"served_id": "accepted"})
    eventually(lambda: settled(deployment) == before + 1)
    [broker] = (status.pid for status in services.status(deployment) if status.name == "kafka")
    assert broker is not None
    taken: list[int] = []
    os.kill(broker, signal.SIGSTOP)
    try:
        for n in range(3):
            log.add(lambda n=n: taken.append(n) or {"served_id": "in a message"})
        eventually(lambda: len(taken) == 3)
        log.add(lambda: {"served_id": "in the queue"})
        log.close()
    finally:
        os.kill(broker, signal.SIGCONT)
    assert sum(lost) == 4


def test_a_challenger_that_comes_answers_its_users(deployment: Settings) -> None:
    user = USERS["challenger"][0]
    register(deployment, MODELS["challenger"], repurchase.name, CHALLENGER)
    eventually(lambda: predict(deployment, user)["model"]["variant"] == "challenger")
    answer = predict(deployment, user)
    assert answer["prediction"] == MODELS["challenger"].predict([list(answer["features_used"].values())])[0]
