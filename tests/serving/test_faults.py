"""What goes wrong around a request: hostile bodies, a store that stalls, many callers at once, a registry that breaks.

On real Valkey and BentoML; the registry is MLflow on SQLite, without its server, so that it can be broken by renaming a file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import lightgbm
import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from features.packed import FORMAT, BatchValue, FeatureView, batch_field, encode
from infra.embedded import services
from infra.embedded.supervision import Supervisor
from infra.embedded.valkey import valkey_command
from infra.errors import ServiceError
from infra.settings import Settings
from models.registry import CHAMPION, DIGEST_TAG, load_scorer, tracking
from serving.model import FollowedModel, LoadedModel
from store.clients import store
from store.keys import meta_key
from store.reading import OnlineStore
from store.server import reached_store
from tests.declarations import repurchase, user_features
from tests.waiting import eventually

NAMES = list(user_features.feature_names)
BATCH_END = 1_780_000_000_000
USERS = 150
#: One for all threads; making a client costs more than a request.
CALLER = httpx.Client(timeout=20, limits=httpx.Limits(max_connections=300))


def publish(settings: Settings, users: int = USERS) -> None:
    """For each user as many purchases in the last week as its id says."""
    pipeline = store(settings).pipeline(transaction=False)
    for user in range(users):
        views = [FeatureView(user if name == "purchase_count_7d" else None, [], []) for name in NAMES]
        value = BatchValue(FORMAT, user_features.fingerprint, BATCH_END, BATCH_END - 1, views)
        pipeline.hset(user_features.key(user), batch_field(user_features.fingerprint), encode(value))
    pipeline.hset(
        meta_key("user_features"), mapping={"batch_end_ms": BATCH_END, "fingerprint": user_features.fingerprint, "format": FORMAT}
    )
    pipeline.execute()


def booster(objective: str = "binary", names: list[str] = NAMES, flipped: bool = False) -> lightgbm.Booster:
    source = np.random.default_rng(3)
    x = source.integers(0, 20, (400, len(names))).astype(float)
    data = lightgbm.Dataset(x, ((x[:, 3] > 10) != flipped).astype(int), feature_name=names)
    return lightgbm.train({"objective": objective, "verbosity": -1, "num_threads": 1}, data, 5)


def register(settings: Settings, model: lightgbm.Booster, spoil: Callable[[str], str] | None = None) -> str:
    """Registers a version and makes it champion; `spoil` changes its text afterwards."""
    with tracking(settings):
        mlflow.set_experiment(repurchase.name)
        with mlflow.start_run():
            info = mlflow.lightgbm.log_model(model, name="model", registered_model_name=repurchase.name, pip_requirements=[])
    if spoil:
        [path] = (settings.home / "artifacts").rglob(f"*{info.model_id}*/**/model.lgb")
        path.write_text(spoil(path.read_text()))
    version = str(info.registered_model_version)
    MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(repurchase.name, CHAMPION, version)
    return version


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], str]) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("faults")
    settings = Settings.load(home).model_copy(
        update={
            "mlflow_tracking_uri": empty_registry(home),
            "alias_poll_seconds": 0.3,
            "store_timeout_seconds": 0.5,
            "requests_at_once": 256,
        }
    )
    MlflowClient(settings.mlflow_tracking_uri).create_experiment(repurchase.name, artifact_location=str(home / "artifacts"))
    register(settings, booster())
    try:
        services.up(settings, {}, only={"valkey", "serving"})
        publish(settings)
        yield settings
    finally:
        services.down(settings)


def rows(settings: Settings, ids: list[int]) -> list[dict]:
    body = {"group": "user_features", "ids": ids, "at": BATCH_END + 1_000}
    answer = CALLER.post(f"{settings.serving_url}/features", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def raw(settings: Settings, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", settings.ports.serving), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(65_536)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[" * 30_000, b'{"user_id": NaN}', b'{"user_id": 1e999}', b'{"user_id": 1.5}', b'{"user_id": true}', b"\xff\xfe{}",
        b'{"user_id": 1, "at": 1780000000.5}', b'{"user_id": 1, "at": "1780000000"}', b'{"user_id": 1, "at": "2026-01-01T00:00:00"}',
        b'{"user_id": 1, "at": -1}', b'{"user_id": 1, "password": "s3cret-of-a-caller"}',
    ],
)  # fmt: skip
def test_a_body_outside_the_contract_is_told_in_a_sentence(serving: Settings, body: bytes) -> None:
    answer = httpx.post(f"{serving.serving_url}/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "cure"}
    assert "s3cret" not in answer.text


def test_an_id_that_is_no_integer_is_told_without_it(serving: Settings) -> None:
    answer = httpx.post(f"{serving.serving_url}/predict", json={"user_id": "s3cret-of-a-caller"})
    assert answer.status_code == 422
    assert "is not an integer" in answer.json()["error"]
    assert "s3cret" not in answer.text


def test_the_log_holds_neither_tracebacks_nor_what_was_sent(serving: Settings) -> None:
    log = Supervisor(serving).log_path("serving").read_text()
    assert "Traceback" not in log
    assert "s3cret" not in log


def test_a_key_that_is_no_hash_spoils_only_its_own_row(serving: Settings) -> None:
    store(serving).set(user_features.key(10_000), b"a text")
    good, bad = rows(serving, [5, 10_000])
    assert (good["features"]["purchase_count_7d"], good["provenance"]["degraded"]) == (5, False)
    assert "something else" in bad["provenance"]["degraded_reasons"][0]


def test_a_second_content_type_opens_no_other_door(serving: Settings) -> None:
    body = b"\x80\x04."
    for kinds in (
        "application/vnd.bentoml+pickle\r\ncontent-type: application/json",
        "application/json\r\ncontent-type: multipart/form-data",
    ):
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: {kinds}\r\ncontent-length: {len(body)}\r\n\r\n"
        assert b" 415 " in raw(serving, head.encode() + body).splitlines()[0]


def test_a_chunked_body_is_bounded_too(serving: Settings) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"user_id": 1, "context": {"a": "'
        for _ in range(20):
            yield b"x" * 8_192

    answer = httpx.post(f"{serving.serving_url}/predict", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_digits_pass_for_an_integer_and_nothing_else_does(serving: Settings) -> None:
    assert [row["features"]["purchase_count_7d"] for row in rows(serving, ["7", 7, 7])] == [7, 7, 7]
    for wrong in ("4_2", " 42", "٤٢", "042", "-0", "4.0"):
        answer = httpx.post(f"{serving.serving_url}/features", json={"group": "user_features", "ids": [1, wrong]})
        assert answer.status_code == 422, wrong
        assert "position 1" in answer.json()["error"]


def test_a_time_with_an_offset_is_the_same_instant(serving: Settings) -> None:
    body = {"group": "user_features", "ids": [1]}
    texts = ("2026-05-28T20:26:41.000Z", "2026-05-28T22:26:41+02:00", BATCH_END + 1_000)
    answers = [httpx.post(f"{serving.serving_url}/features", json={**body, "at": at}).json()["rows"] for at in texts]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0]["provenance"]["as_of"] == "2026-05-28T20:26:41.000Z"


def test_many_callers_at_once_are_all_answered_exactly(serving: Settings) -> None:
    def ask(user: int) -> None:
        [row] = rows(serving, [user])
        assert row["features"]["purchase_count_7d"] == user
        assert row["provenance"]["degraded_reasons"] == []

    with ThreadPoolExecutor(200) as callers:
        list(callers.map(ask, [n % USERS for n in range(600)]))


def test_a_store_that_stalls_costs_a_deadline_and_never_gives_one_user_anothers_values(serving: Settings) -> None:
    [valkey] = [one.pid for one in services.status(serving) if one.name == "valkey"]
    stop, seen, slowest = threading.Event(), set(), [0.0]

    def ask(user: int) -> None:
        while not stop.is_set():
            started = time.monotonic()
            for row in rows(serving, [user, user + 1]):
                degraded = row["provenance"]["degraded"]
                seen.add(degraded)
                assert row["features"]["purchase_count_7d"] == (0 if degraded else row["id"])
            slowest[0] = max(slowest[0], time.monotonic() - started)

    with ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(ask, 10 * n) for n in range(8)]
        for _ in range(3):
            time.sleep(0.3)
            os.kill(valkey, signal.SIGSTOP)
            time.sleep(1.2)
            os.kill(valkey, signal.SIGCONT)
        time.sleep(0.5)
        stop.set()
        for one in asked:
            one.result(60)
    assert seen == {True, False}
    assert slowest[0] < 5, "the deadline is half a second; a busy machine adds to it"
    assert rows(serving, [9])[0]["provenance"]["degraded"] is False


def test_the_champion_changes_under_load_without_a_failed_request_and_a_broken_one_never_answers(serving: Settings) -> None:
    first = str(httpx.post(f"{serving.serving_url}/predict", json={"user_id": 3}).json()["model"]["version"])
    stop, versions = threading.Event(), []

    def ask() -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                answer = client.post(f"{serving.serving_url}/predict", json={"user_id": 3, "at": BATCH_END + 1})
                assert answer.status_code == 200, answer.text
                versions.append(answer.json()["model"]["version"])

    def readiness() -> list[str]:
        return httpx.get(f"{serving.serving_url}/readyz").json()["missing"]

    with ThreadPoolExecutor(2) as callers:
        asked = [callers.submit(ask) for _ in range(2)]
        try:
            second = register(serving, booster())
            eventually(lambda: second in versions)
            broken = register(serving, booster(), spoil=lambda text: text[: len(text) // 2])
            eventually(lambda: any(f"version {broken}" in one for one in readiness()))
            third = register(serving, booster())
            eventually(lambda: versions[-1] == third)
        finally:
            stop.set()
        for one in asked:
            one.result(60)
    assert set(versions) == {first, second, third}
    assert readiness() == []
    assert f"braid_champion_version {float(third)}" in httpx.get(f"{serving.serving_url}/metrics").text


@pytest.mark.parametrize(
    ("model", "spoil", "why"),
    [
        (lambda: booster("regression"), None, "no probabilities"),
        (lambda: booster(names=[*NAMES[:-1], "another"]), None, "other features"),
        (booster, lambda text: text.replace("end of trees", ""), "not whole"),
        (booster, lambda _: "\x80\x04pickle", "not whole"),
    ],
    ids=["regression", "names", "cut off", "not a text model"],
)
def test_a_model_that_cannot_be_right_is_refused_and_the_old_one_stays(
    serving: Settings, model: Callable[[], lightgbm.Booster], spoil: Callable[[str], str] | None, why: str
) -> None:
    good = register(serving, booster())
    champion = FollowedModel(serving, repurchase, repurchase.name, CHAMPION)
    champion.refresh()
    register(serving, model(), spoil)
    champion.refresh()
    assert why in champion.fault
    assert champion.current is not None
    assert champion.current.version == good


def test_one_flipped_byte_keeps_a_model_out_until_it_is_whole_again(serving: Settings) -> None:
    champion = FollowedModel(serving.model_copy(update={"alias_poll_seconds": 0.01}), repurchase, repurchase.name, CHAMPION)
    good = register(serving, booster())
    champion.refresh()
    model = booster(names=NAMES)
    version = register(serving, model, spoil=lambda text: text.replace("leaf_value=", "leaf_value=1", 1))
    client = MlflowClient(serving.mlflow_tracking_uri)
    client.set_model_version_tag(repurchase.name, version, DIGEST_TAG, hashlib.sha256(model.model_to_string().encode()).hexdigest())
    champion.refresh()
    assert f"version {version} of repurchase cannot be used: it is not the one that was registered" in champion.fault
    assert champion.current is not None
    assert champion.current.version == good
    path = max((serving.home / "artifacts").rglob("model.lgb"), key=lambda one: one.stat().st_mtime_ns)
    path.write_text(model.model_to_string())

    def refreshed() -> bool:
        champion.refresh()
        return champion.current is not None and champion.current.version != good

    eventually(refreshed)
    assert (champion.current.version, champion.fault) == (version, "")


def test_a_model_of_another_declaration_says_so_in_its_answers(serving: Settings) -> None:
    version = register(serving, booster())
    MlflowClient(serving.mlflow_tracking_uri).set_model_version_tag(repurchase.name, version, "group_fingerprint", "0" * 16)
    champion = FollowedModel(serving, repurchase, repurchase.name, CHAMPION)
    champion.refresh()
    assert champion.current is not None
    assert "another version" in champion.current.fault


def test_a_version_number_that_is_given_anew_is_another_model(tmp_path: Path, empty_registry: Callable[[Path], str]) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri=empty_registry(tmp_path))
    client = MlflowClient(settings.mlflow_tracking_uri)
    client.create_experiment(repurchase.name, artifact_location=str(tmp_path / "artifacts"))
    register(settings, booster(flipped=True))
    changes: list[LoadedModel] = []
    champion = FollowedModel(settings, repurchase, repurchase.name, CHAMPION, changes.append)
    champion.refresh()
    # A registry whose models were deleted counts from 1 again.
    client.delete_registered_model(repurchase.name)
    champion.refresh()
    assert [model.version for model in changes] == ["1"]
    assert "has no champion" in champion.fault
    assert register(settings, booster()) == "1"
    champion.refresh()
    champion.refresh()
    before, after = changes
    row = [[20.0] * len(NAMES)]
    assert champion.current is after
    assert before.predict(row)[0] < 0.5 < after.predict(row)[0]


def test_a_registry_that_is_gone_takes_no_model_with_it(serving: Settings) -> None:
    register(serving, booster())
    champion = FollowedModel(
        serving.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"}), repurchase, repurchase.name, CHAMPION
    )
    there = FollowedModel(serving, repurchase, repurchase.name, CHAMPION)
    there.refresh()
    champion.current = there.current
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    champion.start()
    try:
        eventually(lambda: champion.looked, 30)
        assert "cannot be asked" in champion.fault
        assert champion.current is there.current
    finally:
        champion.stop()
        del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]


def test_a_pickled_model_is_never_opened(serving: Settings) -> None:
    version = register(serving, booster())
    path = max((serving.home / "artifacts").rglob("MLmodel"), key=lambda one: one.stat().st_mtime_ns)
    path.write_text(path.read_text().replace("lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier"))
    with pytest.raises(ValueError, match="neither a LightGBM booster"):
        load_scorer(serving, repurchase.name, version)


async def read_of_cluster(settings: Settings) -> list:
    found = OnlineStore(settings)
    try:
        return (await found.read(user_features, [1, 2, 99])).parts
    finally:
        await found.close()


def test_a_redis_cluster_is_a_setting_away(tmp_path) -> None:
    settings = Settings.load(tmp_path)
    (tmp_path / "valkey").mkdir()
    command = [*valkey_command(settings), "--cluster-enabled", "yes"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:

            def answers() -> bool:
                with suppress(ServiceError):
                    return bool(reached_store(settings))
                return False

            eventually(answers, 20)
            store(settings).execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            eventually(lambda: b"cluster_state:ok" in store(settings).execute_command("CLUSTER", "INFO"), 20)
            cluster = settings.model_copy(update={"redis_cluster": True, "store_timeout_seconds": 5})
            publish(cluster, 3)
            first, second, unknown = asyncio.run(read_of_cluster(cluster))
            assert (first.batch.features[3].collapsed, second.batch.features[3].collapsed) == (1, 2)
            assert (unknown.known, unknown.faults) == (False, ())
        finally:
            server.terminate()


def test_a_plain_end_under_load_drops_no_request_of_callers_who_heed_the_probe(serving: Settings) -> None:
    outcomes, over, ready = Counter[str](), threading.Event(), threading.Event()
    request = {"group": "user_features", "ids": [3], "at": BATCH_END + 1}

    def balance() -> None:
        while not over.is_set():
            try:
                good = httpx.get(f"{serving.serving_url}/readyz", timeout=30).is_success
            except httpx.HTTPError:
                good = False
            ready.set() if good else ready.clear()
            time.sleep(0.05)

    def ask() -> None:
        while not over.wait(0.02):  # so that the callers leave the server some of the cores
            if not ready.wait(0.1):
                continue
            try:
                outcomes[str(httpx.post(f"{serving.serving_url}/features", json=request, timeout=30).status_code)] += 1
            except httpx.HTTPError as error:
                outcomes[repr(error)] += 1

    with ThreadPoolExecutor(9) as callers:
        asked = [callers.submit(one) for one in (balance, *[ask] * 8)]
        try:
            eventually(lambda: outcomes["200"] >= 200)
            services.restart(serving, "serving")
            again = outcomes["200"] + 100
            eventually(lambda: outcomes["200"] >= again)
        finally:
            over.set()
        for one in asked:
            one.result(60)
    assert set(outcomes) == {"200"}, outcomes


def test_a_store_that_is_not_there_is_told_in_a_sentence(tmp_path) -> None:
    settings = Settings(home=tmp_path, redis_url="redis://:s3cret@127.0.0.1:1/0")
    with pytest.raises(ServiceError, match="cannot be reached") as told:
        reached_store(settings)
    assert "s3cret" not in str(told.value)
