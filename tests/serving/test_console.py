"""The requests of the console's page, behind the guard, on a real Valkey: each value is the merge of `/features`, by layer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Route, expect, sync_playwright
from pydantic import SecretStr

from features.instants import now_ms
from features.merge import merge
from features.model import Labels, Model
from features.packed import encode
from features.project import Project
from features.speed_value import speed_field
from infra.settings import Settings
from serving.console import app as app_module
from serving.console.app import POINTS, Console, console_app
from serving.console.description import Status, project_description
from serving.console.explanation import MAX_TILES, browser_value
from serving.console.requests import CONSOLE_REQUESTS
from serving.encoding import encoded
from serving.guard import Door
from store.clients import store
from store.protocol import View
from store.reading import OnlineStore
from store.server import open_store
from tests.declarations import project, user_features
from tests.end_to_end.test_in_browsers import chromium
from tests.pure import Event, speed_value, tiles_of, trained, view_of

BATCH_END = 1_780_000_000_000 // 86_400_000 * 86_400_000
HOUR = 3_600_000
NOW = BATCH_END + 5 * HOUR
NAMES = user_features.feature_names


def purchase(ts_ms: int, amount: int = 5) -> Event:
    return {"ts_ms": ts_ms, "event_type": "PURCHASE", "amount": Fraction(amount), "session_id": str(ts_ms)}


#: Two purchases in the view, of which one leaves the window of 7 days after batch_end, and three after it, one of them outside of an hour.
EVENTS = [
    purchase(BATCH_END - 7 * 24 * HOUR + 1),
    purchase(BATCH_END - HOUR, 20),
    purchase(NOW - 2 * HOUR),
    purchase(NOW - 50_000),
    purchase(NOW - 10_000, 7),
]


@pytest.fixture(scope="module")
def deployment(valkey: Settings) -> Iterator[Settings]:
    """The store with a published view of user 1, speed tiles of user 1, and a user 2 of whom only the stream knows."""
    online, client = open_store(valkey), store(valkey)
    client.flushdb()
    view = online.begin_publication(user_features, View(BATCH_END, 1))
    online.put_views(user_features, view, [1], [encode(view_of(user_features, EVENTS, BATCH_END))])
    online.end_publication(user_features, view, 1, BATCH_END - HOUR)
    many = [purchase(BATCH_END + place * 300_000) for place in range(MAX_TILES + 2)]
    for user, events in ((1, EVENTS[2:]), (2, EVENTS[2:]), (3, many)):
        client.hset(
            user_features.key(user),
            speed_field(user_features.fingerprint),
            speed_value(user_features, tiles_of(user_features, events)),
        )
    dropped = speed_value(user_features, tiles_of(user_features, EVENTS[3:]), dropped_ms=BATCH_END + 2 * HOUR)
    client.hset(user_features.key(4), speed_field(user_features.fingerprint), dropped)
    yield valkey
    client.flushdb()


def ask(settings: Settings, action: str, body: dict[str, Any], key: str = "s3cret") -> httpx.Response:
    """The answer of the console to a request, behind the guard of a deployment with a key."""

    async def exchange() -> httpx.Response:
        online = OnlineStore(settings)
        app = console_app(lambda: Console(settings, project, online, {}))

        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "path": scope["path"].removeprefix("/console")}, receive, send)

        door = Door(mounted, SecretStr("s3cret"), CONSOLE_REQUESTS)
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://braid") as client:
                return await client.post(f"/console/api/{action}", json=body, headers={"authorization": f"Bearer {key}"})
        finally:
            await online.close()

    return asyncio.run(exchange())


def entity(settings: Settings, user: int | str, at: int = NOW) -> dict[str, Any]:
    answer = ask(settings, "entity", {"group": "user_features", "id": user, "at": at})
    assert answer.is_success, answer.text
    return answer.json()


def column(explanation: dict[str, Any], name: str) -> dict[str, Any]:
    return {feature["name"]: feature[name] for feature in explanation["features"]}


def test_each_feature_is_shown_by_layer(deployment: Settings) -> None:
    explanation = entity(deployment, "1")
    assert list(column(explanation, "merged").values()) == pytest.approx(trained(user_features, EVENTS, NOW))
    purchases = {
        name: column(explanation, name)["purchase_count_7d"] for name in ("merged", "batch_part", "speed_part", "batch_alone")
    }
    assert purchases == {"merged": 4, "batch_part": 1, "speed_part": 3, "batch_alone": 2}, (
        "one purchase leaves the window after batch_end"
    )
    assert column(explanation, "speed_part")["avg_purchase_30d"] == pytest.approx(17 / 3)
    assert column(explanation, "batch_alone")["days_since_last"] == pytest.approx(1 / 24)
    assert (explanation["batch_end_ms"], explanation["newest_event_ms"]) == (BATCH_END, NOW - 10_000)
    assert (explanation["known"], explanation["in_view"], explanation["tiles_merged"], explanation["reasons"]) == (
        True,
        True,
        2,
        [],
    )
    assert not any(column(explanation, "degraded").values())


def test_each_tile_is_shown_with_what_it_contributes(deployment: Settings) -> None:
    earlier, newer = entity(deployment, 1)["tiles"]
    assert (earlier["first_ms"], earlier["merged"]) == (NOW - 2 * HOUR, True)
    assert dict(zip(NAMES, newer["values"], strict=True))["spend_last_hour"] == 12
    assert dict(zip(NAMES, earlier["values"], strict=True))["spend_last_hour"] == 0, "outside the window"
    [before, _] = entity(deployment, 1, NOW - HOUR)["tiles"]
    assert before["merged"] is True
    assert entity(deployment, 1, NOW - HOUR)["tiles"][1]["merged"] is False, "after the time that is asked about"


def test_only_the_newest_tiles_are_shown_one_by_one(deployment: Settings) -> None:
    explanation = entity(deployment, 3)
    assert (explanation["tile_count"], len(explanation["tiles"])) == (MAX_TILES + 2, MAX_TILES)
    assert explanation["tiles"][-1]["first_ms"] == BATCH_END + (MAX_TILES + 1) * 300_000


def test_an_entity_without_a_view_has_no_batch_part_and_an_unknown_one_nothing(deployment: Settings) -> None:
    new, unknown = entity(deployment, 2), entity(deployment, 99)
    assert column(new, "merged") == column(new, "speed_part")
    assert set(column(new, "batch_part").values()) == {0, None}
    assert (new["known"], new["in_view"], new["batch_end_ms"]) == (True, False, BATCH_END)
    assert (unknown["known"], unknown["tile_count"], unknown["newest_event_ms"]) == (False, 0, None)


def test_features_that_may_not_be_exact_are_marked_with_the_reason(deployment: Settings) -> None:
    explanation = entity(deployment, 1, BATCH_END + 60 * HOUR)
    [reason] = explanation["reasons"]
    assert "older than its buffer of 2d" in reason["reason"]
    marked = [name for name, degraded in column(explanation, "degraded").items() if degraded]
    assert reason["features"] == marked
    assert "purchase_count_7d" in marked
    assert "events_last_hour" not in marked


def test_a_history_has_the_values_that_features_gives_for_its_times(deployment: Settings) -> None:
    body = {"group": "user_features", "id": 1, "feature": "purchase_count_7d", "since": BATCH_END - HOUR, "at": NOW}
    history = ask(deployment, "history", body).json()
    points = history["points"]
    assert (len(points), points[0]["at_ms"], points[-1]["at_ms"], history["batch_alone"]) == (POINTS, BATCH_END, NOW, 2)
    view, tiles = view_of(user_features, EVENTS, BATCH_END), tiles_of(user_features, EVENTS[2:])
    index = NAMES.index("purchase_count_7d")
    values = [merge(user_features, view, tiles, point["at_ms"]).values[index] for point in points]
    assert [point["value"] for point in points] == values
    assert set(values) == {1, 2, 4}
    assert not any(point["degraded"] for point in points)


def test_a_history_marks_what_features_marks(deployment: Settings) -> None:
    """User 4 has lost tiles of the first two hours after batch_end, so an hour's window is exact again after three."""
    body = {"group": "user_features", "id": 4, "feature": "events_last_hour", "since": BATCH_END, "at": NOW}
    points = ask(deployment, "history", body).json()["points"]
    assert {point["degraded"] for point in points} == {True, False}
    for point in points[:: POINTS // 6]:
        assert column(entity(deployment, 4, point["at_ms"]), "degraded")["events_last_hour"] is point["degraded"]


@pytest.mark.parametrize(
    ("action", "body", "status", "cause"),
    [
        ("entity", {"group": "nope", "id": 1}, 404, "not declared"),
        ("entity", {"group": "user_features", "id": "x"}, 422, "not an integer"),
        ("entity", {"group": "user_features", "id": 1, "at": BATCH_END - 1}, 409, "before batch_end"),
        ("entity", {"group": "user_features"}, 400, "validation"),
        ("history", {"group": "user_features", "id": 1, "feature": "nope", "since": 0}, 404, "no feature"),
        ("status", {"more": 1}, 400, "validation"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(deployment: Settings, action: str, body: dict, status: int, cause: str) -> None:
    answer = ask(deployment, action, body)
    assert answer.status_code == status
    assert cause in answer.json()["error"]


@pytest.mark.parametrize("path", CONSOLE_REQUESTS)
def test_no_data_are_given_without_the_key(deployment: Settings, path: str) -> None:
    assert ask(deployment, path.rsplit("/", 1)[1], {}, key="other").status_code == 401


def test_the_state_names_what_is_published_and_how_far_the_stream_is(deployment: Settings) -> None:
    written_ms = now_ms()
    entry = {"lag": 3, "lag_seconds": 0.5, "rows_per_second": 10.0, "written_at_ms": written_ms}
    open_store(deployment).set_progress({"online": entry, "online:user_features": {"newest_event_ms": NOW}})
    try:
        status = ask(deployment, "status", {}).json()
    finally:
        open_store(deployment).set_progress({}, over=["online", "online:user_features"])
    users, items = status["groups"]
    assert (users["name"], users["batch_end_ms"], users["entities"], users["newest_event_ms"]) == (
        "user_features",
        BATCH_END,
        1,
        NOW,
    )
    assert (items["batch_end_ms"], items["entities"]) == (None, 0)
    assert status["stream"] == entry
    assert status["fault"] == ""


def test_the_description_of_the_project_is_enough_for_its_forms(deployment: Settings) -> None:
    described = ask(deployment, "project", {}).json()
    group = described["groups"][0]
    assert (group["entity"], group["entity_type"]) == ("user_id", "integer")
    mean = group["features"][4]
    assert (mean["rule"], mean["window"], mean["where"]) == ("mean of amount", "30d", "event_type = 'PURCHASE'")
    [model] = described["models"]
    assert model["keys"] == [{"name": "user_id", "type": "integer", "required": True, "default": None, "group": "user_features"}]
    assert [feature["name"] for feature in described["groups"][1]["features"] if feature["is_list"]] == ["top_buyers_1d"]


def test_the_page_is_public_and_runs_no_code_but_its_own(deployment: Settings) -> None:
    async def get(path: str) -> httpx.Response:
        app = console_app(lambda: Console(deployment, project, OnlineStore(deployment), {}))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://braid") as client:
            return await client.get(path)

    for path, kind in (("/", "text/html"), ("/console.css", "text/css"), ("/console.js", "text/javascript")):
        answer = asyncio.run(get(path))
        assert (answer.status_code, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    page = asyncio.run(get("/")).text
    assert "https://" not in page
    assert "innerHTML" not in asyncio.run(get("/console.js")).text


@pytest.mark.browser
@pytest.mark.parametrize(
    ("objective", "prediction", "text", "bars"),
    [
        ("binary", 0.25, "0.2500", 1), ("regression", -312.5, "-312.5", 0), ("multiclass", {"a": 0.1, "b": 0.7, "c": 0.2}, "b", 3),
    ],
)  # fmt: skip
def test_the_page_shows_the_prediction_of_every_objective(objective: str, prediction: Any, text: str, bars: int) -> None:
    declared = Project((user_features.source,), (user_features,), (Model("m", (user_features,), Labels(), objective=objective),))  # type: ignore[arg-type]
    provenance = {
        "as_of": "2026-11-01T12:00:00.000Z",
        "batch_end": None,
        "newest_event": None,
        "tiles_merged": 0,
        "degraded": False,
        "missing": [],
        "degraded_features": [],
    }
    model = {"name": "m", "version": "3", "variant": "champion"}
    answers = {
        "/console/api/project": encoded(project_description(declared)),
        "/console/api/status": encoded(Status(NOW, [], None, [], "")),
        "/models/m/predict": json.dumps(
            {"prediction": prediction, "features_used": {}, "model": model, "provenance": provenance}
        ).encode(),
        "/metrics": b"",
    }

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path in answers:
            route.fulfill(body=answers[path], content_type="application/json")
        else:
            route.fulfill(path=Path(app_module.__file__).parent / (path.removeprefix("/console/") or "console.html"))

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto("http://braid.test/console/")
        page.locator("#model-form input").fill("7")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#answer .prediction b")).to_have_text(text)
        expect(page.locator("#answer .bar")).to_have_count(bars)
        assert page.locator("#problem").is_hidden()
        browser.close()


def test_an_integer_that_a_browser_does_not_hold_is_text() -> None:
    assert browser_value([2**53 - 1, 2**53, -(2**63), 0.5, None]) == [2**53 - 1, str(2**53), str(-(2**63)), 0.5, None]
