"""The worker of the forum on a real Kafka: every text gets a verdict, also after a worker has ended before its commit."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer

from examples.moderation.worker import TEXTS, VERDICTS, Worker
from infra.embedded import services
from infra.kafka import client_options
from infra.settings import Settings


class Serving(BaseHTTPRequestHandler):
    """Answers as serving does: the number of links as the probability, and a refusal of five links."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        links = body["context"]["links"]
        answer = json.dumps({"prediction": links / 4, "provenance": {"degraded": False}}).encode()
        self.send_response(503 if links == 5 else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def serving_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Serving)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    settings = Settings.load(Path(tmp_path_factory.mktemp("moderation")))
    services.up(settings, {TEXTS: 4, VERDICTS: 1}, only={"kafka"})
    yield client_options(settings)
    services.down(settings)


def send(kafka: dict[str, Any], first: int, count: int) -> None:
    producer = KafkaProducer(**kafka)
    for place in range(first, first + count):
        text = {"text_id": f"x{place}", "author_id": place, "text_key": "k", "text": "da", "links": place % 6, "event_timestamp": "2026-01-01T00:00:00Z"}  # fmt: skip
        producer.send(TEXTS, key=str(place).encode(), value=json.dumps(text).encode())
    producer.send(TEXTS, value=b"no text")
    producer.close(timeout=30)


def verdicts(kafka: dict[str, Any]) -> list[dict[str, Any]]:
    consumer = KafkaConsumer(VERDICTS, **kafka, auto_offset_reset="earliest", consumer_timeout_ms=3_000)
    rows = [json.loads(record.value) for record in consumer]
    consumer.close()
    return rows


def run(worker: Worker) -> None:
    """Runs a worker until no text waits."""
    stop = threading.Event()
    stop.set()
    worker.figures.backlog = 1
    thread = threading.Thread(target=worker.run, args=(stop,), daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_every_text_gets_a_verdict_and_a_second_worker_goes_on(kafka: dict[str, Any], serving_url: str) -> None:
    send(kafka, 0, 60)
    worker = Worker(kafka, serving_url, {})
    run(worker)
    rows = {row["text_id"]: row for row in verdicts(kafka)}
    assert set(rows) == {f"x{place}" for place in range(60)}
    for place in range(60):
        expected = {0: "keep", 1: "review", 2: "review", 3: "review", 4: "remove", 5: "review"}[place % 6]
        assert rows[f"x{place}"]["verdict"] == expected
        assert rows[f"x{place}"]["degraded"] is (place % 6 == 5)
    assert worker.figures.verdicts == {"keep": 10, "review": 40, "remove": 10}
    assert len(worker.figures.seconds) == 60
    assert worker.figures.unreadable == 1
    send(kafka, 60, 6)
    run(Worker(kafka, serving_url, {}))
    assert len(verdicts(kafka)) == 66


def test_texts_of_a_worker_that_ended_before_its_commit_get_their_verdicts(
    kafka: dict[str, Any], serving_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(kafka, 100, 6)
    with monkeypatch.context() as patch:
        patch.setattr(KafkaConsumer, "commit", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            Worker(kafka, serving_url, {}).run(threading.Event())
    run(Worker(kafka, serving_url, {}))
    assert {f"x{place}" for place in range(100, 106)} <= {row["text_id"] for row in verdicts(kafka)}
