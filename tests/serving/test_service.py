"""One request, over HTTP, on real Valkey, MLflow and BentoML: what is answered, what is refused, and what happens when a part fails.

The registry is MLflow on SQLite, without its server; tests/end_to_end has the server.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import hypothesis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import requests
import schemathesis
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families

from batch.load import load_events
from batch.publish import publish_view
from batch.tiles import build_tiles, stale_days
from batch.view import build_view as build_batch_view
from braid import AsyncClient, Client
from braid.client import RefusedError
from features.aggregations import Series
from features.packed import FORMAT, BatchValue, TileValue, batch_field, encode
from features.speed_value import speed_field
from features.tiles import fold_tile_values
from features.view import build_view
from infra.embedded import services
from infra.settings import Settings
from models.promotion import promote
from models.registry import batch_only_name
from models.training import train_models
from serving.contract import rfc3339
from store.clients import store
from store.keys import meta_key
from store.protocol import View
from store.server import open_store
from tests.declarations import item_features, repurchase, user_events, user_features
from tests.pure import speed_value
from tests.waiting import eventually

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NOW = 1_780_000_200_000
SPEED = speed_field(user_features.fingerprint)
BATCH_END = NOW - 3_600_000 * 5


def purchase_tile(*instants_ms: int, amount: int = 5_000_000) -> TileValue:
    """A tile of purchases, all in one session."""
    ts_ms = np.array(sorted(instants_ms), dtype=np.int64)
    n = len(ts_ms)
    inputs = [Series(ts_ms, np.full(n, v, dtype=np.int64), np.ones(n, dtype=bool)) for v in (1, amount, 77, 1)]
    return fold_tile_values(user_features, inputs, np.array([0]), np.array([n]))[0]


def batch_view(batch_end_ms: int, *tiles: TileValue) -> BatchValue:
    """The batch view of the tiles' events, as of `batch_end_ms`."""
    starts = [tile.first_ms // 300_000 * 300_000 for tile in tiles]
    partials = [[tile.partials[index] for tile in tiles] for index in range(len(user_features.features))]
    return build_view(user_features, batch_end_ms, starts, partials, tiles[-1].last_ms if tiles else None)


def publish(settings: Settings, user: int, batch_end_ms: int, *tiles: TileValue) -> None:
    """Puts a batch view of the tiles' events into the store."""
    view = batch_view(batch_end_ms, *tiles)
    client = store(settings)
    client.hset(user_features.key(user), batch_field(user_features.fingerprint), encode(view))
    client.hset(
        meta_key("user_features"),
        mapping={"batch_end_ms": batch_end_ms, "fingerprint": user_features.fingerprint, "format": FORMAT},
    )


def training_rows(seed: int) -> pd.DataFrame:
    source = np.random.default_rng(seed)
    n = 1_500
    rows = pd.DataFrame(
        {
            name: source.integers(0, 20, n).astype(float)
            for prefix in ("", "batch_")
            for name in [prefix + f for f in user_features.feature_names]
        }
    )
    rows["label"] = (rows["purchase_count_7d"] + source.normal(0, 4, n) > 10).astype(int)
    rows["entity"], rows["q_ms"] = np.arange(n), np.arange(n)
    rows["split"] = np.where(np.arange(n) < 1_000, "train", "evaluation")
    return rows


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], str]) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("serving")
    settings = Settings.load(home).model_copy(update={"mlflow_tracking_uri": empty_registry(home)})
    for name in (repurchase.name, batch_only_name(repurchase.name)):
        MlflowClient(settings.mlflow_tracking_uri).create_experiment(name, artifact_location=str(home / "artifacts"))
    try:
        services.up(settings, {}, only={"valkey", "serving"})
        yield settings
    finally:
        services.down(settings)


@pytest.fixture(scope="module")
def champion(deployment: Settings) -> Settings:
    """The deployment with a champion: version 2, which is version 1 fitted on all rows."""
    before = httpx.post(f"{deployment.serving_url}/predict", json={"user_id": 1})
    assert before.status_code == 503
    assert "champion" in before.json()["error"]
    rows = training_rows(1)
    report = train_models(deployment, repurchase, rows, 0, None)
    assert report.candidate_version is not None
    assert promote(deployment, repurchase, report.candidate_version, rows).promoted
    eventually(lambda: httpx.post(f"{deployment.serving_url}/predict", json={"user_id": 1}).is_success)
    return deployment


def features(settings: Settings, *ids: int | str, at: int | str = NOW) -> list[dict]:
    answer = httpx.post(f"{settings.serving_url}/features", json={"group": "user_features", "ids": list(ids), "at": at})
    assert answer.is_success, answer.text
    return answer.json()["rows"]


def test_an_answer_merges_both_layers_and_says_where_it_is_from(deployment: Settings) -> None:
    publish(
        deployment,
        10,
        BATCH_END,
        purchase_tile(BATCH_END - 86_400_000, BATCH_END - 86_400_000 + 1),
        purchase_tile(BATCH_END - 1, amount=2_000_000),
    )
    store(deployment).hset(
        user_features.key(10),
        SPEED,
        speed_value(user_features, [purchase_tile(NOW - 600_000, NOW - 500_000, NOW, NOW + 1)]),
    )
    row, unknown, again = features(deployment, 10, 999, "10")
    assert row["features"] == {
        "events_last_hour": 2, "spend_last_hour": 10.0, "sessions_last_hour": 1, "purchase_count_7d": 5, "avg_purchase_30d": 22 / 5,
        "days_since_last": 500_000 / 86_400_000,
    }  # fmt: skip
    provenance = row["provenance"]
    assert (provenance["degraded"], provenance["missing"], provenance["tiles_merged"]) == (False, [], 1)
    assert provenance["as_of"].endswith("Z")
    assert provenance["newest_event"] < provenance["as_of"]
    assert again["features"] == row["features"]
    assert unknown["provenance"]["missing"] == list(user_features.feature_names)
    assert unknown["features"]["avg_purchase_30d"] is None


def rows_in(batch: pa.RecordBatch) -> list[dict]:
    """The rows of an answer in Arrow, in the form of the answer in JSON."""
    rows = []
    for values in batch.to_pylist():
        fields = {name: value for name, value in values.items() if "." not in name and name != "id"}
        provenance = {name.removeprefix("provenance."): value for name, value in values.items() if "." in name}
        times = {name: rfc3339(round(time.timestamp() * 1_000)) for name, time in provenance.items() if isinstance(time, datetime)}
        rows.append({"id": values["id"], "features": fields, "provenance": provenance | times})
    return rows


def test_an_answer_in_arrow_has_the_rows_of_the_answer_in_json(deployment: Settings) -> None:
    publish(deployment, 30, BATCH_END, purchase_tile(BATCH_END - 86_400_000), purchase_tile(BATCH_END - 1, amount=2_000_001))
    client = store(deployment)
    client.hset(user_features.key(30), SPEED, speed_value(user_features, [purchase_tile(NOW - 600_000, NOW - 500_001)]))
    client.hset(user_features.key(31), SPEED, b"\x01" + bytes(40))
    users, late_ms = [30, 999, 31, 2**63 - 1, 30], BATCH_END + 3 * 86_400_000
    tile = fold_tile_values(
        item_features, [Series(np.array([NOW - 7]), np.array([9]), np.ones(1, dtype=bool)) for _ in item_features.inputs],
        np.array([0]), np.array([1]),
    )[0]  # fmt: skip
    client.hset(item_features.key("é/1"), speed_field(item_features.fingerprint), speed_value(item_features, [tile]))

    async def asked_by_asyncio() -> pa.RecordBatch:
        async with AsyncClient(deployment.serving_url) as asking:
            return await asking.features_arrow("user_features", users, at=late_ms)

    with Client(deployment.serving_url) as asking:
        exact, none = asking.features_arrow("user_features", users, at=NOW), asking.features_arrow("user_features", [], at=NOW)
        items = asking.features_arrow("item_features", ["é/1", "nobody"], at=NOW)
        with pytest.raises(RefusedError, match="not declared"):
            asking.features_arrow("nope", [1])
    late = asyncio.run(asked_by_asyncio())
    assert rows_in(exact) == features(deployment, *users)
    assert rows_in(late) == features(deployment, *users, at=late_ms)
    body = {"group": "item_features", "ids": ["é/1", "nobody"], "at": NOW}
    assert rows_in(items) == httpx.post(f"{deployment.serving_url}/features", json=body).json()["rows"]
    assert (none.num_rows, none.schema) == (0, exact.schema)
    assert [exact.schema.field(name).type for name in ("id", "events_last_hour", "avg_purchase_30d")] == [
        pa.int64(), pa.int64(), pa.float64()
    ]  # fmt: skip
    assert items.schema.field("top_buyers_1d").type == pa.list_(pa.int64())
    # The cases that are compared are those that differ.
    assert exact["provenance.degraded"].to_pylist() == [False, False, True, False, False]
    assert late["provenance.degraded_features"][0].as_py()
    assert items["top_buyers_1d"].to_pylist() == [[9], None]


@pytest.mark.parametrize("item", ["a:b", "ü b", "\U0001f986", "7", " 7", "{x}y", "x" * 256])
def test_an_entity_may_be_a_text_of_any_spelling_and_a_value_a_list(deployment: Settings, item: str) -> None:
    ts_ms = np.array([NOW - 3_600_001, NOW - 3_600_000, NOW - 1, NOW - 1], dtype=np.int64)
    buyers, bought, viewed = np.array([300, 9, 9, 1]), np.ones(4, dtype=bool), np.zeros(4, dtype=bool)
    inputs = [Series(ts_ms, buyers, viewed), *(Series(ts_ms, buyers, bought) for _ in item_features.inputs[1:])]
    tiles = fold_tile_values(item_features, inputs, np.array([0, 2]), np.array([2, 4]))
    client = store(deployment)
    client.hset(item_features.key(item), speed_field(item_features.fingerprint), speed_value(item_features, tiles))
    client.hset(
        meta_key("item_features"), mapping={"batch_end_ms": BATCH_END, "fingerprint": item_features.fingerprint, "format": FORMAT}
    )
    body = {"group": "item_features", "ids": [item, "nobody"], "at": NOW}
    known, unknown = httpx.post(f"{deployment.serving_url}/features", json=body).json()["rows"]
    assert (known["id"], known["provenance"]["degraded"], known["provenance"]["tiles_merged"]) == (item, False, 2)
    assert known["features"]["purchases_1h"] == 3, "exact to the millisecond, within a tile"
    assert known["features"]["purchases_1d"] == 4
    assert known["features"]["top_buyers_1d"] == [9, 1, 300]
    assert unknown["features"]["top_buyers_1d"] is None
    assert "top_buyers_1d" in unknown["provenance"]["missing"]


def test_beyond_the_buffer_an_answer_names_the_features_that_may_be_wrong(deployment: Settings) -> None:
    day_ms, hour_ms = 86_400_000, 3_600_000
    publish(deployment, 11, BATCH_END, purchase_tile(BATCH_END - 60_000))
    within = features(deployment, 11, at=BATCH_END + 2 * day_ms)[0]["provenance"]
    assert (within["degraded"], within["degraded_features"]) == (False, [])
    row = features(deployment, 11, at=BATCH_END + 2 * day_ms + hour_ms)[0]
    late = row["provenance"]
    assert late["degraded"] is True
    assert "older than its buffer of 2d" in late["degraded_reasons"][0]
    assert "purchase_count_7d" in late["degraded_features"]
    assert not {"events_last_hour", "spend_last_hour", "sessions_last_hour", "days_since_last"} & set(late["degraded_features"])
    assert row["features"]["days_since_last"] == (2 * day_ms + hour_ms + 60_000) / day_ms
    # A speed tile of the first hours after batch_end would have expired by now.
    last = features(deployment, 11, at=BATCH_END + 3 * day_ms + 1)[0]["provenance"]["degraded_features"]
    assert "days_since_last" in last
    assert "events_last_hour" not in last


def test_a_value_of_another_version_is_not_read(deployment: Settings) -> None:
    store(deployment).hset(user_features.key(12), SPEED, b"\x01" + bytes(40))
    provenance = features(deployment, 12)[0]["provenance"]
    assert provenance["degraded"] is True
    assert "cannot be read" in provenance["degraded_reasons"][0]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/features", {"group": "nope", "ids": [1]}, 404, "not declared"),
        ("/features", {"group": "user_features", "ids": ["one"]}, 422, "not an integer"),
        ("/features", {"group": "item_features", "ids": ["a", 7]}, 422, "position 1 is not a text"),
        ("/features", {"group": "item_features", "ids": [""]}, 400, "validation"),
        ("/features", {"group": "item_features", "ids": ["x" * 257]}, 400, "validation"),
        ("/features", {"group": "user_features", "ids": [1], "at": BATCH_END - 1}, 409, "before batch_end"),
        ("/features", {"group": "user_features", "ids": [1], "at": "yesterday"}, 400, "validation"),
        ("/features", {"group": "user_features", "ids": [1] * 1_001}, 400, "validation"),
        ("/features", {"group": "user_features", "ids": [1], "more": 1}, 400, "validation"),
        ("/predict", {"user_id": "one"}, 422, "not an integer"),
        ("/predict", {"user_id": 2**63}, 400, "validation"),
        ("/predict", {}, 400, "validation"),
    ],
)
def test_what_does_not_fit_is_refused(champion: Settings, path: str, body: dict, status: int, says: str) -> None:
    publish(champion, 1, BATCH_END)
    answer = httpx.post(f"{champion.serving_url}{path}", json=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_only_json_of_a_bounded_size_is_read(deployment: Settings) -> None:
    for kind in ("application/vnd.bentoml+pickle", "text/plain", ""):
        answer = httpx.post(f"{deployment.serving_url}/predict", content=b"\x80\x04.", headers={"content-type": kind})
        assert answer.status_code == 415, kind
    large = httpx.post(
        f"{deployment.serving_url}/predict", content=b"{" + b" " * 65_536, headers={"content-type": "application/json"}
    )
    assert large.status_code == 413


def test_a_gzip_body_is_read_by_every_operation(champion: Settings) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    bodies = {"/features": {"group": "user_features", "ids": [1]}, "/predict": {"user_id": "1"}}
    for path, body in bodies.items():
        plain = httpx.post(champion.serving_url + path, json=body)
        zipped = httpx.post(champion.serving_url + path, content=gzip.compress(json.dumps(body).encode()), headers=headers)
        assert (plain.status_code, zipped.status_code) == (200, 200), zipped.text
        assert zipped.json().keys() == plain.json().keys()


def test_an_idle_connection_stays_open(deployment: Settings) -> None:
    connection = HTTPConnection("127.0.0.1", deployment.ports.serving, timeout=10)
    for pause in (6, 0):  # five seconds are the server's own default
        connection.request("GET", "/livez")
        assert connection.getresponse().read() is not None
        time.sleep(pause)
    connection.close()


def test_a_prediction_names_its_features_its_model_and_its_provenance(champion: Settings) -> None:
    publish(champion, 20, BATCH_END, purchase_tile(BATCH_END - 10))
    answer = httpx.post(f"{champion.serving_url}/predict", json={"user_id": 20, "context": {"page": "home"}, "at": NOW}).json()
    assert 0 <= answer["prediction"] <= 1
    assert answer["features_used"]["purchase_count_7d"] == 1.0
    assert answer["model"] == {"name": "repurchase", "version": "2", "variant": "champion"}
    unknown = httpx.post(f"{champion.serving_url}/predict", json={"user_id": -5, "at": NOW}).json()
    assert set(unknown["features_used"].values()) == {0.0}
    assert len(unknown["provenance"]["missing"]) == 6


def test_the_typed_client_gives_what_the_service_answers(champion: Settings) -> None:
    publish(champion, 21, BATCH_END, purchase_tile(BATCH_END - 10))
    with Client(champion.serving_url) as client:
        [row] = client.features("user_features", ["21"], at=NOW)
        prediction = client.predict({"user_id": 21}, at=NOW)
        scores = client.score("repurchase", [{"user_id": 21}, {"user_id": 22}], at=NOW)
        with pytest.raises(RefusedError) as refused:
            client.features("nope", [21])
    [expected] = features(champion, 21)
    assert row.features == expected["features"]
    assert rfc3339(round(row.provenance.as_of.timestamp() * 1_000)) == expected["provenance"]["as_of"]
    assert (prediction.model.version, prediction.features_used["purchase_count_7d"]) == ("2", 1.0)
    assert scores.candidates[0].prediction == prediction.prediction
    assert refused.value.status == 404


def test_the_metrics_count_each_prediction_of_both_endpoints_by_its_variant(champion: Settings) -> None:
    def predictions() -> float:
        families = text_string_to_metric_families(httpx.get(f"{champion.serving_url}/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == "braid_predictions_total"]
        return sum(sample.value for sample in samples if sample.labels["variant"] == "champion")

    before = predictions()
    with Client(champion.serving_url) as client:
        client.predict({"user_id": 21})
        client.score("repurchase", [{"user_id": user} for user in (21, 22, 23)])
    eventually(lambda: predictions() >= before + 4, seconds=20)
    assert predictions() == before + 4


def test_the_page_of_the_console_and_its_requests_are_mounted(champion: Settings) -> None:
    with httpx.Client(base_url=champion.serving_url, follow_redirects=True) as client:
        page = client.get("/console")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert client.get("/console/console.js").is_success
        publish(champion, 23, BATCH_END, purchase_tile(BATCH_END - 10))
        entity = client.post("/console/api/entity", json={"group": "user_features", "id": 23, "at": NOW}).json()
        assert {feature["name"]: feature["merged"] for feature in entity["features"]} == features(champion, 23)[0]["features"]
        [model] = client.post("/console/api/status", json={}).json()["models"]
        assert model["variants"] == [{"name": "champion", "share": 1.0, "version": "2", "fault": ""}]
        assert client.post("/console/api/entity", content=b"x", headers={"content-type": "text/plain"}).status_code == 415


def test_the_probes_the_metrics_and_the_page_of_the_api_answer(deployment: Settings) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/"):
        assert httpx.get(f"{deployment.serving_url}{path}").is_success, path
    features(deployment, 1, at=NOW)
    assert "braid_answer_seconds_bucket" in httpx.get(f"{deployment.serving_url}/metrics").text


def test_bentoml_counts_what_the_front_answers(deployment: Settings) -> None:
    def counts() -> dict[tuple[str, str], float]:
        """(The name of a metric of /features, the status) → its value."""
        families = text_string_to_metric_families(httpx.get(f"{deployment.serving_url}/metrics").text)
        return {
            (sample.name.removeprefix("bentoml_service_request_"), sample.labels.get("http_response_code", "")): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("bentoml_service_request_") and sample.labels["endpoint"] == "/features"
        }

    features(deployment, 1, at=NOW)
    before = counts()
    for _ in range(3):
        features(deployment, 1, at=NOW)
    assert httpx.post(f"{deployment.serving_url}/features", json={"group": "user_features"}).status_code == 400
    after = counts()
    assert (
        after["total", "200"] - before["total", "200"]
        == after["duration_seconds_count", "200"] - before["duration_seconds_count", "200"]
        == 3
    )
    assert after["total", "400"] - before.get(("total", "400"), 0) == 1
    assert 0 < after["duration_seconds_sum", "200"] - before["duration_seconds_sum", "200"] < 60
    assert after["in_progress", ""] == 0


def test_publishing_under_reads_never_shows_a_wrong_value(
    deployment: Settings, spark: SparkSession, lake: Settings, tmp_path: Path
) -> None:
    """The batch publishes one view after another of users who each have a purchase in the view and one that moves from a tile into it."""
    users, late_ms = range(1_000, 1_060), BATCH_END + 7
    settings = lake.model_copy(update={"redis_url": deployment.redis_url})
    purchases = [
        {"event_id": f"{user}-{at}", "user_id": user, "session_id": "s", "event_type": "PURCHASE", "amount": 5, "event_timestamp": rfc3339(at)}
        for user in users
        for at in (BATCH_END - 7, late_ms)
    ]  # fmt: skip
    (tmp_path / "purchases.jsonl").write_text("\n".join(map(json.dumps, purchases)))
    load_events(spark, settings, user_events, tmp_path / "purchases.jsonl")
    build_tiles(spark, settings, user_features, stale_days(spark, settings, user_features))
    speed = {SPEED: speed_value(user_features, [purchase_tile(late_ms)])}
    for user in users:
        store(settings).hset(user_features.key(user), mapping=speed)

    def publish_by_spark(batch_end_ms: int) -> None:
        build_batch_view(spark, settings, user_features, batch_end_ms)
        assert publish_view(spark, settings, user_features).entities == len(users)

    def publish_again(batch_end_ms: int, number: int) -> None:
        """As Spark's tasks do, without a session's seconds."""
        tiles = [purchase_tile(at) for at in (BATCH_END - 7, late_ms) if at < batch_end_ms]
        online = open_store(settings)
        view = online.begin_publication(user_features, View(batch_end_ms, number))
        online.put_views(user_features, view, users, [encode(batch_view(batch_end_ms, *tiles))] * len(users))
        online.end_publication(user_features, view, len(users), late_ms)

    stop = threading.Event()

    def read() -> int:
        answers = 0
        while not stop.is_set():
            assert {row["features"]["purchase_count_7d"] for row in features(deployment, *users)} == {2}
            answers += 1
        return answers

    publish_by_spark(BATCH_END)
    with ThreadPoolExecutor(2) as callers:
        asked = [callers.submit(read) for _ in range(2)]
        try:
            for number in range(200):
                # The later purchase moves into the view in the middle.
                publish_again(BATCH_END + number // 14, time.time_ns() // 1_000_000 + number)
            publish_by_spark(late_ms + 3_600_000)
        finally:
            stop.set()
        assert min(one.result(60) for one in asked) > 20
    assert not any(store(settings).hexists(user_features.key(user), SPEED) for user in users)


def test_a_moved_alias_is_followed_and_a_broken_model_is_not(champion: Settings) -> None:
    client = MlflowClient(champion.mlflow_tracking_uri)
    rows = training_rows(2)
    report = train_models(champion, repurchase, rows, 1, None)

    def version() -> str:
        answer = httpx.post(f"{champion.serving_url}/predict", json={"user_id": 20, "at": NOW})
        assert answer.is_success
        return answer.json()["model"]["version"]

    assert version() == "2"
    client.set_registered_model_alias("repurchase", "champion", report.candidate_version)
    eventually(lambda: version() == report.candidate_version)
    twin = client.get_model_version("repurchase_batch_only", "1")
    broken = client.create_model_version("repurchase", twin.source.replace("model", "nowhere"))
    client.set_registered_model_alias("repurchase", "champion", broken.version)
    time.sleep(2 * champion.alias_poll_seconds)
    assert version() == report.candidate_version
    client.set_registered_model_alias("repurchase", "champion", "2")
    eventually(lambda: version() == "2")


@pytest.fixture
def api(champion: Settings) -> schemathesis.BaseSchema:
    """The service's own description. Every second group is one that is declared; of texts at random none would be."""
    schema = schemathesis.openapi.from_url(f"{champion.serving_url}/docs.json")

    @schema.hook
    def map_body(context: schemathesis.HookContext, body: Any) -> Any:
        if isinstance(body, dict) and isinstance(body.get("group"), str) and len(body["group"]) % 2:
            body = {**body, "group": "user_features"}
        return body

    return schema


def statuses_of(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode, requested: int) -> Counter[int]:
    """How often which status was the answer to so many requests that fit the description, or that do not.

    A few hundred are the same each time: of those at random, too few may be answered by chance. The long test asks at random.
    """
    session, statuses = requests.Session(), Counter[int]()

    @hypothesis.settings(
        max_examples=requested, database=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=requested < 1_000
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        status = case.call(session=session).status_code
        statuses[status] += 1
        assert status < 500

    ask()
    return statuses


@pytest.mark.parametrize("requested", [200, pytest.param(1_000, marks=pytest.mark.long)])
def test_no_request_whatever_it_holds_is_answered_by_an_error_of_the_server(api: schemathesis.BaseSchema, requested: int) -> None:
    operations = {operation.label: operation for operation in (found.ok() for found in api.get_all_operations())}
    assert {"POST /features", "POST /predict", "GET /readyz", "GET /metrics"} <= operations.keys()
    for label, operation in operations.items():
        fitting = statuses_of(operation, schemathesis.GenerationMode.POSITIVE, requested)
        if label.startswith("POST"):  # the others have nothing to vary
            misshapen = statuses_of(operation, schemathesis.GenerationMode.NEGATIVE, requested)
            assert min(fitting.total(), misshapen.total()) >= requested
            assert fitting[200] > requested * 3 // 100
            assert misshapen[400] > requested // 10


def test_without_the_store_an_answer_is_degraded_not_an_error(deployment: Settings) -> None:
    publish(deployment, 40, BATCH_END, purchase_tile(BATCH_END - 10))
    services.kill(deployment, "valkey")
    seen = set()
    for _ in range(200):
        [row] = features(deployment, 40)
        seen.add((row["provenance"]["degraded"], row["features"]["purchase_count_7d"]))
        if (False, 1) in seen and len(seen) > 1:
            break
        time.sleep(0.02)
    # A server that loads its data refuses the one command and answers the next: what it says then is marked, too.
    assert seen <= {(True, 0), (True, 1), (False, 1)}
    eventually(lambda: features(deployment, 40)[0]["features"]["purchase_count_7d"] == 1)
