"""The clients of a demo ask a real server from a process of their own, at the rates of the example, and as of the time that they are told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from infra.errors import NotReadyError
from infra.settings import Settings
from orchestration.demo import example_of
from orchestration.demo_clients import Answers, Clients
from orchestration.demo_requests import Requests
from tests.declarations import project
from tests.waiting import eventually

MODEL = project.model(None)


class Handler(BaseHTTPRequestHandler):
    """Keeps the requests; every fifth answer is an error, and the others of user 2 are degraded."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str | None, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, self.headers["authorization"], body))
        answer = json.dumps({"degraded": body["user_id"] == 2}, separators=(",", ":")).encode()
        self.send_response(500 if len(self.asked) % 5 == 0 else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield answering
        answering.shutdown()


def test_they_ask_at_their_rate_as_of_the_time_that_moves_and_count_every_answer(
    server: ThreadingHTTPServer, settings: Settings
) -> None:
    of_server = settings.model_copy(
        update={"ports": settings.ports.model_copy(update={"serving": server.server_port}), "api_key": SecretStr("key")}
    )
    requests = Requests([{"user_id": 1, "context": {}}, {"user_id": 2, "context": {}}])
    predictions, scores = Answers(), Answers()
    clients = Clients(of_server, MODEL, requests, example_of("shop"), now_ms=1_000)
    eventually(lambda: len(Handler.asked) > 20)
    clients.move(2_000)
    moved = len(Handler.asked)
    eventually(lambda: len(Handler.asked) > moved + 20)
    clients.stop(predictions, scores)
    paths, keys, bodies = zip(*Handler.asked, strict=True)
    assert (set(paths), set(keys)) == ({f"/models/{MODEL.name}/predict"}, {"Bearer key"})
    assert [body["at"] for body in bodies] == sorted(body["at"] for body in bodies)
    assert {body["at"] for body in bodies} == {1_000, 2_000}
    count = len(Handler.asked)
    assert predictions.failed == count // 5
    assert len(predictions.seconds) == count - predictions.failed
    assert count // 2 - count // 5 <= predictions.degraded <= count - count // 2 - predictions.failed // 2
    assert predictions.within(budget_ms=60_000) == (count - predictions.failed) / count, "an error is no answer, however fast it is"
    assert not scores.seconds
    assert predictions.per_second <= example_of("shop").predictions_per_second * 1.1


def test_clients_that_fail_are_named(settings: Settings) -> None:
    nobody = settings.model_copy(update={"ports": settings.ports.model_copy(update={"serving": 1})})
    clients = Clients(nobody, MODEL, Requests([{"user_id": 1, "context": {}}]), example_of("shop"), now_ms=1_000)
    with pytest.raises(NotReadyError, match="The clients of the demo have failed"):
        clients.stop(Answers(), Answers())
