"""The forum's simulated data and its worker; `test_examples` has what holds for all examples."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.moderation.texts import Report, generate
from examples.moderation.worker import Figures, Judge, Worker, text_of, verdict_of
from examples.simulation import DAY_MS
from features.instants import parse_rfc3339

TEXT = {
    "text_id": "x1", "author_id": 7, "text_key": "k", "room_id": "room01", "text": "da di", "links": 2, "event_timestamp": "2026-01-01T00:00:00Z",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return generate(tmp_path_factory.mktemp("moderation"), authors=300, days=20, per_day=300)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_abuse_is_rare_and_of_every_scenario(report: Report) -> None:
    assert all(report.abuse.values())
    assert 0.003 < sum(report.abuse.values()) / report.count < 0.06


def test_a_raid_is_the_same_text_by_many_authors_within_an_hour(report: Report) -> None:
    raids: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(report.labels):
        if row["scenario"] == "3":
            raids.setdefault(row["text_key"], []).append(row)
    assert raids
    for rows in raids.values():
        assert len({row["author_id"] for row in rows}) == len(rows) >= 10
        assert parse_rfc3339(rows[-1]["time"]) - parse_rfc3339(rows[0]["time"]) <= 3_600_000


def test_a_removal_is_of_a_text_and_comes_within_a_day_after_it(report: Report) -> None:
    texts = {row["text_id"]: row for row in rows_of(report.texts)}
    removals = rows_of(report.removals)
    assert removals
    for row in removals:
        text = texts[row["text_id"]]
        assert row["author_id"] == text["author_id"]
        assert 0 < parse_rfc3339(row["event_timestamp"]) - parse_rfc3339(text["event_timestamp"]) < DAY_MS


def judge_of(answer: Callable[[httpx.Request], httpx.Response], at_event_time: bool = False) -> Judge:
    client = httpx.Client(base_url="http://serving", transport=httpx.MockTransport(answer))
    return Judge(client, at_event_time)


@pytest.mark.parametrize(
    ("probability", "verdict"),
    [(0.0, "keep"), (0.19, "keep"), (0.2, "review"), (0.79, "review"), (0.8, "remove"), (None, "review")],
)
def test_a_verdict_follows_from_the_probability(probability: float | None, verdict: str) -> None:
    assert verdict_of(probability) == verdict


def test_the_request_has_the_keys_and_columns_of_the_model() -> None:
    requests: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(json.loads(request.content))
        return httpx.Response(200, json={"prediction": 0.9, "provenance": {"degraded": False}})

    verdict = judge_of(answer).verdict(TEXT)
    assert verdict == {"text_id": "x1", "author_id": 7, "verdict": "remove", "probability": 0.9, "degraded": False}
    judge_of(answer, at_event_time=True).verdict(TEXT)
    body = {"author_id": 7, "text_key": "k", "text_id": "x1", "context": {"text": "da di", "links": 2}}
    assert requests == [body, {**body, "at": TEXT["event_timestamp"]}]


def late(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("late", request=request)


@pytest.mark.parametrize("answer", [late, lambda request: httpx.Response(503)], ids=["late", "refused"])
def test_a_text_without_an_answer_waits_for_a_person(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    verdict = judge_of(answer).verdict(TEXT)
    assert (verdict["verdict"], verdict["probability"], verdict["degraded"]) == ("review", None, True)


@pytest.mark.parametrize(
    "message", [None, b"", b"no JSON", b"[]", b'{"text_id": "x1"}', json.dumps({**TEXT, "text_id": 1}).encode()]
)
def test_a_message_that_is_no_text_is_left_to_the_dead_letters(message: bytes | None) -> None:
    assert text_of(message) is None
    assert text_of(json.dumps(TEXT).encode()) == TEXT


def test_the_summary_of_a_worker() -> None:
    worker = Worker({}, "http://serving", {})
    worker.figures = Figures({"keep": 2, "review": 1, "remove": 1}, 3, [0.1, 0.2, 0.3, 6.0], 0, 9)
    assert worker.summary() == {
        "keep": 2, "review": 1, "remove": 1, "unreadable": 3, "p50_seconds": 0.25, "p99_seconds": pytest.approx(11.4, abs=6), "within_budget": 0.75, "largest_backlog": 9,
    }  # fmt: skip
