"""Who may do what: users of the online store, brokers over SASL and TLS, secrets in files, on real servers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import redis
from kafka import KafkaProducer

from features.packed import FORMAT, BatchValue, TileValue, batch_field, encode, encode_log
from features.speed_value import pack_tile, speed_field
from infra.embedded.broker import kafka_command, prepare_kafka
from infra.embedded.valkey import valkey_command
from infra.errors import ServiceError, SettingsError
from infra.flink.cluster import prepare_flink
from infra.java import find_java
from infra.kafka import client_options, create_topics, end_offsets, flink_options, spark_options
from infra.settings import Settings
from speed.flink.contract import text
from store.acl import acl
from store.clients import async_store, store
from store.protocol import Messages, View
from store.server import reached_store
from tests.declarations import user_features
from tests.speed.flink.reading import run_sql
from tests.waiting import eventually

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PASSWORD = 'pass"word\\1'
FIELD = batch_field(user_features.fingerprint)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Settings]:
    """A store with a writer and a reader."""
    home = tmp_path_factory.mktemp("guarded")
    (home / "users.acl").write_text(acl("w-secret", "r-secret"))
    plain = Settings.load(home)
    (home / "valkey").mkdir()
    command = [*valkey_command(plain), "--aclfile", str(home / "users.acl")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    where = f"127.0.0.1:{plain.ports.valkey}/0"
    settings = plain.model_copy(
        update={"redis_url": f"redis://writer:w-secret@{where}", "redis_reader_url": f"redis://reader:r-secret@{where}"}
    )
    try:

        def answers() -> bool:
            assert server.poll() is None
            try:
                return bool(reached_store(settings))
            except ServiceError:
                return False

        eventually(answers, 30)
        yield settings
    finally:
        server.terminate()
        server.wait(30)


def test_the_reader_reads_and_can_neither_write_nor_run_scripts(guarded: Settings) -> None:
    writer = store(guarded)
    writer.hset("user_features:1", FIELD, b"x")
    reader = redis.Redis.from_url(guarded.redis_reader_url)
    assert reader.hgetall("user_features:1") == {FIELD: b"x"}
    for forbidden in (
        ("HSET", "user_features:1", FIELD, "y"), ("DEL", "user_features:1"), ("EVAL", "return 1", 0), ("FLUSHALL",),
        ("CONFIG", "GET", "*"), ("KEYS", "*"), ("ACL", "LIST"), ("FUNCTION", "LIST"),
    ):  # fmt: skip
        with pytest.raises(redis.exceptions.NoPermissionError):
            reader.execute_command(*forbidden)
    with pytest.raises(redis.exceptions.NoPermissionError):
        writer.execute_command("FLUSHALL")
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis.from_url(f"redis://127.0.0.1:{guarded.ports.valkey}/0").ping()


def test_the_writer_may_run_the_scripts_of_tiles_and_views(guarded: Settings) -> None:
    online, start_ms = reached_store(guarded), 1_780_000_200_000
    partials = [feature.aggregation.lift(start_ms, 1) for feature in user_features.features]
    tile = TileValue(FORMAT, user_features.fingerprint, start_ms, start_ms, partials, encode_log([]))
    online.put_tiles(user_features, [(2, start_ms, pack_tile(user_features, start_ms, tile))] * 2, 3_600)
    [expiry_ms] = store(guarded).execute_command("HPTTL", user_features.key(2), "FIELDS", 1, speed_field(user_features.fingerprint))
    assert expiry_ms > 0
    place = np.array([1])
    assert online.evicting_policies() == set()
    assert online.first_copies("stream", b"0000", Messages(place, place, place, place), 1_000).all()
    online.raise_high_water("query", 0, start_ms)
    view = online.begin_publication(user_features, View(start_ms, 1))
    online.put_views(user_features, view, [2], [encode(BatchValue(FORMAT, user_features.fingerprint, start_ms, None, []))])
    assert [value.first_ms for value in online.read(user_features, [2]).parts[0].tiles] == [start_ms]


@pytest.mark.filterwarnings("ignore")
def test_serving_reads_as_the_reader(guarded: Settings) -> None:
    import asyncio

    from store.reading import OnlineStore

    async def read() -> None:
        store = OnlineStore(guarded)
        reading = await store.read(user_features, [1])
        assert reading.parts[0].faults == ("a stored value cannot be read",)
        await store.close()
        client = async_store(guarded)
        with pytest.raises(redis.exceptions.NoPermissionError, match="reader"):
            await client.hset("user_features:1", FIELD, b"y")
        await client.aclose()

    asyncio.run(read())


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Settings]:
    """A broker that speaks SASL over TLS alone, with a certificate of its own."""
    home = tmp_path_factory.mktemp("locked")
    settings = Settings.load(home)
    keytool = str(find_java() / "bin" / "keytool")
    store = ["-keystore", str(home / "broker.p12"), "-storepass", "keystore", "-alias", "broker"]
    name = ["-dname", "CN=localhost", "-ext", "SAN=DNS:localhost,IP:127.0.0.1", "-keyalg", "RSA"]
    subprocess.run([keytool, "-genkeypair", *store, *name], check=True, capture_output=True)
    with (home / "ca.pem").open("wb") as pem:
        subprocess.run([keytool, "-exportcert", "-rfc", *store], check=True, stdout=pem, stderr=subprocess.DEVNULL)
    prepare_kafka(settings)  # formats the storage, for the plain listener, too; the user is added by the login below
    properties = home / "kafka" / "server.properties"
    escaped = PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
    login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_braid="{escaped}";'
    lines = (
        properties.read_text()
        .replace("PLAINTEXT://127", "SECURE://127")
        .replace("PLAINTEXT:PLAINTEXT", "SECURE:SASL_SSL")
        .splitlines()
    )
    lines += [
        "inter.broker.listener.name=SECURE",
        "listener.name.secure.sasl.enabled.mechanisms=PLAIN", "sasl.mechanism.inter.broker.protocol=PLAIN",
        "listener.name.secure.plain.sasl.jaas.config=" + (login[:-1] + f' username="braid" password="{escaped}";').replace("\\", "\\\\"),
        f"ssl.keystore.location={home / 'broker.p12'}", "ssl.keystore.password=keystore",
        f"ssl.truststore.location={home / 'ca.pem'}", "ssl.truststore.type=PEM",
    ]  # fmt: skip
    properties.write_text("\n".join(lines))
    with (home / "broker.log").open("wb") as log:
        command = [part.replace("defaultLogLevel=warn", "defaultLogLevel=info") for part in kafka_command(settings)]
        broker = subprocess.Popen(command, stdout=log, stderr=log)
    locked = settings.model_copy(
        update={
            "kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "braid",
            "kafka_sasl_password": Settings(kafka_sasl_password=PASSWORD).kafka_sasl_password, "kafka_ssl_cafile": str(home / "ca.pem"),
        }
    )  # fmt: skip
    try:

        def started() -> bool:
            assert broker.poll() is None, (home / "broker.log").read_text()[-2_000:]
            return "Kafka Server started" in (home / "broker.log").read_text()

        eventually(started)
        create_topics(locked, {"events": 2})
        yield locked
    finally:
        broker.terminate()
        broker.wait(60)


def test_events_go_through_a_broker_that_asks_for_a_password_over_tls(locked: Settings, spark: SparkSession) -> None:
    producer = KafkaProducer(**client_options(locked))
    for n in range(10):
        producer.send("events", value=str(n).encode())
    producer.flush()
    producer.close()
    assert sum(end_offsets(locked, "events").values()) == 10
    options = {**spark_options(locked), "subscribe": "events", "startingOffsets": "earliest"}
    rows = spark.read.format("kafka").options(**options).load().collect()
    assert sorted(int(row["value"]) for row in rows) == list(range(10))


@pytest.mark.long
def test_flink_reads_through_a_broker_that_asks_for_a_password_over_tls(locked: Settings, tmp_path: Path) -> None:
    prepare_flink(locked)
    create_topics(locked, {"of_flink": 1})
    producer = KafkaProducer(**client_options(locked))
    for n in range(10):
        producer.send("of_flink", value=str(n).encode())
    producer.close()
    options = {
        "connector": "kafka", "topic": "of_flink", "value.format": "raw", "scan.startup.mode": "earliest-offset",
        "scan.bounded.mode": "latest-offset", **flink_options(locked),
    }  # fmt: skip
    of_kafka = ", ".join(f"{text(name)} = {text(value)}" for name, value in options.items())
    rows, printed = run_sql(
        locked,
        f"CREATE TEMPORARY TABLE messages (`value` STRING) WITH ({of_kafka});\n"
        f"CREATE TEMPORARY TABLE copies (`value` STRING) WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = '{(tmp_path / 'out').as_uri()}');\n"
        "INSERT INTO copies SELECT * FROM messages;\n",
        tmp_path,
    )
    assert sorted(int(row["value"]) for row in rows) == list(range(10)), printed
    assert PASSWORD not in printed


def test_a_wrong_password_is_refused_in_a_sentence_without_the_password(locked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.kafka._ATTEMPT_SECONDS", 2)
    wrong = locked.model_copy(update={"kafka_sasl_password": Settings(kafka_sasl_password="guessed").kafka_sasl_password})
    for ask in (lambda: create_topics(wrong, {"more": 1}), lambda: end_offsets(wrong, "more")):
        with pytest.raises(ServiceError, match="Authentication failed") as refused:
            ask()
        assert "guessed" not in str(refused.value)
    without = locked.model_copy(update={"kafka_security_protocol": "PLAINTEXT"})
    monkeypatch.setattr("infra.kafka._PATIENCE_SECONDS", 1)
    with pytest.raises(ServiceError):
        end_offsets(without, "more")


def test_secrets_come_from_files_and_show_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("k-secret\n")
    monkeypatch.setenv("BRAID_API_KEY_FILE", str(tmp_path / "key"))
    settings = Settings.load(tmp_path)
    assert settings.serving_headers == {"authorization": "Bearer k-secret"}
    assert "k-secret" not in repr(settings)
    assert settings.environment()["BRAID_API_KEY"] == "k-secret"
    monkeypatch.setenv("BRAID_API_KEY_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="BRAID_API_KEY_FILE"):
        Settings.load(tmp_path)
    assert os.environ.get("BRAID_API_KEY") is None


@pytest.mark.parametrize(("content", "reason"), [(b"\n", "is empty"), (b"\xff\xfe", "it is no text")])
@pytest.mark.parametrize("variable", ["BRAID_API_KEY", "REDIS_URL"])
def test_a_secret_whose_file_has_none_is_refused_and_not_taken_for_unset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, content: bytes, reason: str
) -> None:
    (tmp_path / "secret").write_bytes(content)
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match=f"The file of {variable}.*{reason}"):
        Settings.load(tmp_path)


def test_an_empty_key_is_none_for_every_request_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAID_API_KEY", "")
    monkeypatch.setenv("BRAID_ALERT_URL", "")
    settings = Settings.load(tmp_path)
    assert (settings.api_key, settings.alert_url, settings.serving_headers) == (None, None, {})
