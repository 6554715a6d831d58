"""Alerts, on a real store and a real webhook: each is told once until it clears, and none is lost by a webhook that fails."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest
from pydantic import SecretStr

from infra.errors import ServiceError
from infra.settings import Settings
from monitoring.alerts import Alerts
from store.clients import store
from store.keys import notes_key


class Alert(NamedTuple):
    key: str
    severity: str
    message: str


OLD = Alert("freshness:g", "WARNING", "It is old.")
OLDER = Alert("freshness:g", "CRITICAL", "It is very old.")


class Receiver(ThreadingHTTPServer):
    """A webhook that keeps what it is told, and fails or dawdles when it is asked to."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.tried, self.status, self.delay_seconds = 0, 200, 0.0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> SecretStr:
        return SecretStr(f"http://127.0.0.1:{self.server_address[1]}/s3cret")


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.tried += 1
        time.sleep(self.server.delay_seconds)
        if self.server.status == 200:
            self.server.messages.append(body)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def deployment(valkey: Settings, receiver: Receiver) -> Iterator[Settings]:
    yield valkey.model_copy(update={"alert_url": receiver.url})
    store(valkey).delete(notes_key("alerts"))


def test_an_alert_is_told_once_until_it_clears(deployment: Settings, receiver: Receiver) -> None:
    checked = [OLD.key, "coverage:g"]
    assert Alerts(deployment).update(checked, [OLD]) == ["It is old."]
    # Another process, later: what is open outlives the one that found it.
    assert Alerts(deployment).update(checked, [OLD]) == []
    assert Alerts(deployment).update(["coverage:g"], []) == [], "what was not checked does not clear"
    assert Alerts(deployment).open()[OLD.key]["severity"] == "WARNING"
    assert Alerts(deployment).update(checked, [OLDER]) == ["It is very old."]
    assert Alerts(deployment).update(checked, []) == ["Cleared: It is very old."]
    assert Alerts(deployment).open() == {}
    assert Alerts(deployment).update(checked, []) == []
    assert Alerts(deployment).update(checked, [OLD]) == ["It is old."]
    assert [(message["key"], message["severity"]) for message in receiver.messages] == [
        (OLD.key, "WARNING"), (OLD.key, "CRITICAL"), (OLD.key, "CLEARED"), (OLD.key, "WARNING"),
    ]  # fmt: skip


def test_an_alert_that_cannot_be_checked_any_more_is_closed_and_that_is_told(deployment: Settings, receiver: Receiver) -> None:
    removed = Alert("freshness:removed", "HIGH", "It is old, too.")
    Alerts(deployment).update([], [OLD, removed])
    receiver.status = 500
    assert Alerts(deployment).update([], [], possible={OLD.key}) == []
    assert set(Alerts(deployment).open()) == {OLD.key, removed.key}, "nobody knows yet"
    receiver.status = 200
    assert Alerts(deployment).update([], [], possible={OLD.key}) == ["Not checked any more: It is old, too."]
    assert set(Alerts(deployment).open()) == {OLD.key}, "what could not be checked now stays open"
    assert [message["severity"] for message in receiver.messages] == ["WARNING", "HIGH", "CLEARED"]


def test_slack_is_told_in_its_own_form(deployment: Settings, receiver: Receiver) -> None:
    Alerts(deployment.model_copy(update={"alert_format": "slack"})).update([], [OLD])
    assert receiver.messages == [{"text": "*WARNING* `freshness:g` It is old."}]


def test_what_a_webhook_could_not_be_told_is_told_at_the_next_check(
    deployment: Settings, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 500
    many = [Alert(f"coverage:{n}", "HIGH", f"Number {n}.") for n in range(20)]
    keys = [alert.key for alert in many]
    with caplog.at_level(logging.DEBUG):
        assert Alerts(deployment).update(keys, many) == []
    assert receiver.tried == 1, "the others do not wait for a webhook that fails"
    assert len(Alerts(deployment).open()) == 20
    assert "s3cret" not in caplog.text
    assert "webhook for alerts has failed" in caplog.text
    receiver.status = 200
    assert len(Alerts(deployment).update(keys, many)) == 20
    assert Alerts(deployment).update(keys, many) == []

    receiver.status = 500
    assert Alerts(deployment).update(keys, []) == []
    receiver.status = 200
    assert len(Alerts(deployment).update(keys, [])) == 20, "neither is that it has cleared lost"
    assert len(receiver.messages) == 40


def test_what_nobody_has_heard_of_clears_in_silence_and_what_was_heard_does_not(deployment: Settings, receiver: Receiver) -> None:
    receiver.status = 500
    Alerts(deployment).update([], [OLD])
    receiver.status = 200
    assert Alerts(deployment).update([OLD.key], []) == []
    assert Alerts(deployment).open() == {}
    Alerts(deployment).update([], [OLD])
    receiver.status = 500
    Alerts(deployment).update([], [OLDER])  # not told
    receiver.status = 200
    assert Alerts(deployment).update([OLD.key], []) == ["Cleared: It is very old."]
    assert [message["severity"] for message in receiver.messages] == ["WARNING", "CLEARED"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/s3cret", "http://[s3cret", "no address", "ftp://s3cret"])
def test_a_webhook_that_is_none_stops_no_check(deployment: Settings, url: str, caplog: pytest.LogCaptureFixture) -> None:
    alerts = Alerts(deployment.model_copy(update={"alert_url": SecretStr(url)}))
    assert alerts.update([], [OLD]) == []
    assert OLD.key in alerts.open()
    assert "s3cret" not in caplog.text


def test_a_webhook_that_hangs_is_left_after_its_time(
    deployment: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring.alerts._TIMEOUT_SECONDS", 0.2)
    receiver.delay_seconds = 1
    assert Alerts(deployment).update([], [OLD, Alert("coverage:g", "HIGH", "Few.")]) == []
    assert receiver.tried == 1


def test_without_a_webhook_the_log_is_told(deployment: Settings, caplog: pytest.LogCaptureFixture) -> None:
    alerts = Alerts(deployment.model_copy(update={"alert_url": None}))
    assert alerts.update([], [OLDER]) == ["It is very old."]
    assert alerts.update([], [OLDER]) == []
    assert "CRITICAL freshness:g: It is very old." in caplog.text


def test_without_the_store_there_is_an_error_of_one_sentence(tmp_path) -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        Alerts(Settings(home=tmp_path, redis_url="redis://127.0.0.1:1/0"))
