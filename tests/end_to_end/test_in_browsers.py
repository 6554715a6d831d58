"""What people do by clicking, in a real browser: materialize an asset in Dagster, promote a model in MLflow, read the page of the API and the console."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import mlflow
import pytest
from mlflow import MlflowClient
from playwright.sync_api import Browser, Page, expect, sync_playwright

from features.instants import now_ms
from features.speed_value import speed_field
from models.registry import CHAMPION, tracking
from store.clients import store
from tests.declarations import repurchase, user_features
from tests.pure import speed_value, tiles_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from .conftest import Shop

pytestmark = pytest.mark.browser
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser of this machine, installed where that is possible."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", *command], env=environment, capture_output=True, check=False)
        found = shutil.which("chromium")
    return found or pytest.skip("Chromium is not there and cannot be installed here (Debian: apt-get install chromium).")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1_600, "height": 1_000})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    yield page
    page.close()


def runs(shop: Shop) -> dict[str, str]:
    found = shop.dagster("{ runsOrError { ... on Runs { results { runId status } } } }")
    return {run["runId"]: run["status"] for run in found["runsOrError"]["results"]}


def test_the_graph_shows_its_groups_and_an_asset_is_materialized_by_a_click(shop: Shop, page: Page) -> None:
    settings = shop.settings
    page.goto(f"{settings.dagster_url}/asset-groups")
    for group in ("speed", "batch", "serving", "models", "quality"):
        expect(page.locator("svg foreignObject").get_by_text(group, exact=True)).to_be_visible()
    before = runs(shop)
    page.goto(f"{settings.dagster_url}/assets/online_user_features")
    expect(page.get_by_text("where a request merges it with the speed tiles")).to_be_visible()
    page.locator("button", has_text="Materialize").first.click()

    def ended() -> dict[str, str]:
        return {run: status for run, status in runs(shop).items() if run not in before and status in ("SUCCESS", "FAILURE")}

    new = eventually(ended, every=1)
    assert list(new.values()) == ["SUCCESS"]
    page.goto(f"{settings.dagster_url}/runs/{next(iter(new))}")
    expect(page.get_by_text("online_user_features").first).to_be_visible()


def test_a_model_promoted_in_the_registry_answers_soon_and_no_request_is_dropped(shop: Shop, page: Page) -> None:
    settings = shop.settings
    first = MlflowClient(settings.mlflow_tracking_uri).get_model_version_by_alias(repurchase.name, CHAMPION)
    served = str(first.version)
    with tracking(settings):
        second = str(mlflow.register_model(first.source, repurchase.name, tags=first.tags).version)
    answers, stop = Counter[str](), threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=10) as client:
            while not stop.wait(0.02):
                answer = client.post(f"{settings.serving_url}/predict", json={"user_id": 5})
                version = answer.json()["model"]["version"] if answer.is_success else str(answer.status_code)
                answers[version] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        page.goto(f"{settings.mlflow_tracking_uri}/#/models/{repurchase.name}/versions/{second}")
        page.get_by_title("Add aliases").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("combobox").fill("champion")
        page.keyboard.press("Enter")
        dialog.get_by_role("button", name="Save aliases").click()
        expect(page.locator("#root").get_by_text("@ champion")).to_be_visible()
        eventually(lambda: answers[second])
    finally:
        stop.set()
        asking.join(30)
    assert set(answers) == {served, second}
    assert answers[served] > 10
    shop.braid("promote", served)
    eventually(lambda: httpx.post(f"{settings.serving_url}/predict", json={"user_id": 5}).json()["model"]["version"] == served)


def test_the_page_of_the_api_tells_what_can_be_asked(shop: Shop, page: Page) -> None:
    page.goto(shop.settings.serving_url)
    for path in ("/predict", "/features", "/livez", "/readyz", "/metrics"):
        expect(page.get_by_text(path, exact=True).first).to_be_visible()
    page.get_by_role("button", name="POST /predict").first.click()
    expect(page.get_by_text("a prediction about an entity, on its features at this moment").first).to_be_visible()


def test_the_console_shows_a_merge_live_and_asks_the_model(shop: Shop, page: Page) -> None:
    settings, user, begun_ms, script_errors = shop.settings, 990_001, now_ms(), list[str]()
    page.on("pageerror", lambda error: script_errors.append(str(error)))

    def stream(*ages_ms: int) -> None:
        """Puts views of the user into the store, as the speed layer does."""
        events = [{"ts_ms": begun_ms - age_ms, "event_type": "VIEW", "session_id": "s"} for age_ms in ages_ms]
        value = speed_value(user_features, tiles_of(user_features, events))
        store(settings).hset(user_features.key(user), speed_field(user_features.fingerprint), value)

    stream(60_000)
    page.goto(f"{settings.serving_url}/console")
    page.locator("#entity-id").fill(str(user))
    page.keyboard.press("Enter")
    views = page.locator("#features tbody tr").filter(has_text="events_last_hour")
    expect(views.locator("td.merged")).to_have_text("1")
    expect(page.locator("#provenance")).to_contain_text("1 speed tile alone: the entity is not in the batch view")
    expect(page.locator("#plot-area path.line.merged")).to_be_attached()
    stream(60_000, 30_000)
    expect(views.locator("td.merged .changed")).to_have_text("2")
    expect(views.locator("td.batch_part")).to_have_text("0")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer .prediction b")).to_have_text(re.compile(r"^[01]\.\d{4}$"))
    expect(page.locator("#model-state")).to_contain_text("version")
    expect(page.locator("#gauges")).to_contain_text("Newest event of user_features")
    expect(page.locator("#gauges")).to_contain_text("Latency of predict")
    page.reload()
    expect(views.locator("td.merged")).to_have_text("2")  # the address names the entity
    page.locator("#group").select_option("item_features")
    page.locator("#entity-id").fill("<img src=x>")
    page.keyboard.press("Enter")
    expect(page.locator("#provenance")).to_contain_text("No event of this entity is known")
    assert page.locator("img").count() == 0
    page.locator("#group").select_option("user_features")
    page.locator("#entity-id").fill("<img src=x>")
    page.keyboard.press("Enter")
    expect(page.locator("#entity-hint")).to_contain_text("is not an integer")
    assert script_errors == []
    store(settings).delete(user_features.key(user))
