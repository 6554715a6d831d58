"""The embedded stack, on real Kafka and Valkey: it starts, keeps apart from another home's, and leaves nothing behind."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import psutil
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer

from infra.embedded import programs, services
from infra.embedded.memory import PeakMemory
from infra.embedded.programs import Program
from infra.embedded.supervision import Supervisor
from infra.errors import ServiceError
from infra.settings import Settings

ONLY = {"kafka", "valkey"}
TOPICS = {"events_of_a_test": 2}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home as awkward as a home can be, that is down when the test is over."""
    for name in ("KAFKA_BOOTSTRAP", "REDIS_URL", "MLFLOW_TRACKING_URI", "BRAID_HOME"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings.load(tmp_path / "a home of 100% & some")
    yield settings
    services.down(settings)


@pytest.fixture
def other_home(tmp_path):
    settings = Settings.load(tmp_path / ("deep" * 20) / "home")
    yield settings
    services.down(settings)


def say_and_hear(settings: Settings, text: bytes) -> bytes:
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    producer.send("events_of_a_test", text, partition=0, timestamp_ms=1).get(timeout=30)
    producer.close()
    consumer = KafkaConsumer(
        "events_of_a_test", bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    record = next(consumer)
    consumer.close()
    assert record.timestamp > time.time() * 1000 - 600_000, "the arrival is the broker's time, not the producer's"
    return record.value


def store(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(settings.redis_url)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_two_homes_run_side_by_side_and_each_ends_alone(home, other_home):
    assert not set(home.ports.model_dump().values()) & set(other_home.ports.model_dump().values())
    steps = []
    with PeakMemory(home, every_seconds=0.2) as memory:
        services.up(home, TOPICS, only=ONLY, on_progress=lambda name, step: steps.append((name, step)))
    services.up(other_home, TOPICS, only=ONLY)
    assert {("kafka", "starting"), ("kafka", "healthy"), ("valkey", "healthy"), ("topics", "created")} <= set(steps)
    assert memory.peak_rss_mb > 150, "a JVM is in it"

    store(home).set("who", "home")
    store(other_home).set("who", "other")
    assert (store(home).get("who"), store(other_home).get("who")) == (b"home", b"other")
    assert (say_and_hear(home, b"to home"), say_and_hear(other_home, b"to other")) == (b"to home", b"to other")

    before = {service.name: service for service in services.status(home)}
    assert [service.name for service in before.values() if service.healthy] == ["kafka", "valkey"]
    assert before["speed"].state == "STOPPED"
    services.up(home, TOPICS, only=ONLY)
    assert {service.name: service.pid for service in services.status(home)} == {
        name: service.pid for name, service in before.items()
    }

    pids = services.process_ids(home)
    services.down(home)
    services.down(home)
    assert alive(pids) == []
    assert services.process_ids(home) == []
    assert [service.name for service in services.status(other_home) if service.healthy] == ["kafka", "valkey"]

    services.up(home, TOPICS, only=ONLY)
    assert store(home).get("who") == b"home"
    assert say_and_hear(home, b"again") == b"to home", "what was written before is still there"


def test_a_killed_service_comes_back_with_what_it_had(home):
    services.up(home, {}, only={"valkey"})
    store(home).set("kept", 1)
    time.sleep(1.2)  # appendfsync everysec: a second's writes may be lost, no more
    before = services.process_ids(home)
    services.kill(home, "valkey")
    services.wait_healthy(home, ["valkey"])
    assert services.process_ids(home) != before
    assert store(home).get("kept") == b"1"
    services.restart(home, "valkey")
    assert store(home).get("kept") == b"1"


def test_what_no_request_waits_for_stands_back(home):
    services.up(home, {}, only={"valkey", "data-docs"})
    running = {service.name: psutil.Process(service.pid) for service in services.status(home) if service.pid}
    ours = psutil.Process().nice()
    assert running["valkey"].nice() == ours
    assert running["data-docs"].nice() == 19
    assert "http.server" in running["data-docs"].cmdline()


def test_down_ends_the_orphans_of_a_supervisor_that_was_killed(home):
    services.up(home, TOPICS, only=ONLY)
    pids = services.process_ids(home)
    supervisor = min((psutil.Process(pid) for pid in pids), key=psutil.Process.create_time)
    supervisor.kill()
    psutil.wait_procs([supervisor], timeout=30)
    assert len(alive(pids)) == len(pids) - 1, "Kafka and Valkey go on as orphans"
    services.down(home)
    assert alive(pids) == []


def test_up_after_the_supervisor_was_killed_starts_anew(home):
    services.up(home, {}, only={"valkey"})
    pids = services.process_ids(home)
    psutil.Process(min(pids)).kill()
    services.up(home, {}, only={"valkey"})
    assert alive(pids) == []
    assert store(home).ping()


def test_a_taken_port_is_told_in_one_sentence_and_nothing_is_left(home):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", home.ports.valkey))
        stranger.listen()
        with pytest.raises(ServiceError, match=rf"Port {home.ports.valkey}, which valkey needs, is taken by .+\."):
            services.up(home, {}, only={"valkey"})
    assert services.process_ids(home) == []


def test_a_service_that_ends_is_reported_at_once_with_its_log(home, monkeypatch):
    with_failing_speed(monkeypatch, "raise SystemExit('there is no spoon')")
    started = time.monotonic()
    with pytest.raises(ServiceError, match=r"(?s)service speed ended before it was healthy.*there is no spoon.*speed\.log"):
        services.up(home, {}, only={"speed"})
    assert time.monotonic() - started < 60, "not after the time-out of 300 s"
    assert services.process_ids(home) == []


def test_a_service_that_never_gets_healthy_is_reported_after_its_time(home, monkeypatch):
    with_failing_speed(monkeypatch, "print('still thinking', flush=True); import time; time.sleep(600)")
    with pytest.raises(ServiceError, match=r"(?s)speed is not healthy after 2 s.*still thinking"):
        services.up(home, {}, only={"speed"}, timeout_seconds=2)
    assert services.process_ids(home) == []


def test_a_service_whose_url_is_set_is_asked_but_not_started(home, monkeypatch, tmp_path):
    services.up(home, {}, only={"valkey"})
    monkeypatch.setenv("REDIS_URL", f"redis://:secret@127.0.0.1:{home.ports.valkey}/1")
    second = Settings.load(tmp_path / "second")
    try:
        assert "valkey" not in second.embedded
        store(home).ping()
        valkey = {service.name: service for service in services.status(second)}["valkey"]
        assert (valkey.state, valkey.pid) == ("EXTERNAL", None)
        assert "secret" not in valkey.url
    finally:
        services.down(second)
    assert store(home).ping(), "what braid does not run, it does not end"


def test_other_settings_are_refused_while_the_services_run(home, monkeypatch):
    services.up(home, {}, only={"valkey"})
    monkeypatch.setenv("BRAID_WATERMARK_SECONDS", "7")
    with pytest.raises(ServiceError, match="other settings"):
        services.up(Settings.load(home.home), {}, only={"valkey"})
    assert store(home).ping()


def test_children_load_the_settings_of_their_parent(home, monkeypatch):
    for name, value in programs.child_environment(home).items():
        monkeypatch.setenv(name, value)
    child = Settings.load()
    assert child == home
    assert child.embedded == {"kafka", "valkey", "mlflow"}


def with_failing_speed(monkeypatch, code: str) -> None:
    import sys

    broken = Program("speed", lambda _settings: [sys.executable, "-c", code])
    monkeypatch.setattr(services, "programs", lambda _settings: [broken])


def test_the_socket_of_a_deep_home_is_short_enough(tmp_path):
    deep = Settings.load(tmp_path / ("x" * 120))
    path: Path = Supervisor(deep)._socket()
    assert len(str(path)) < 100
