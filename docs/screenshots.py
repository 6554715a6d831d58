"""Takes the pictures in docs/images from a running deployment, in a real browser: `python docs/screenshots.py HOME`.

Needs Chromium on the machine (Debian: apt-get install chromium).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from infra.settings import Settings

IMAGES = Path(__file__).parent / "images"


def main(home: str) -> None:
    """Dagster's graph of assets, its list of runs, and the page of the API."""
    settings = Settings.load(home)
    pages = {
        "dagster-assets.png": f"{settings.dagster_url}/asset-groups",
        "dagster-runs.png": f"{settings.dagster_url}/runs",
        "mlflow-models.png": f"{settings.mlflow_tracking_uri}/#/models/{settings.model_name}",
        "bentoml-api.png": settings.serving_url,
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        for name, url in pages.items():
            page.goto(url)
            page.wait_for_timeout(6_000)  # some of the pages never stop asking
            if page.get_by_role("button", name="Skip").is_visible():
                page.get_by_role("button", name="Skip").click()
            for group in ("speed", "batch", "models", "serving"):  # the graph opens with its groups closed
                closed = page.locator("svg foreignObject").get_by_text(group, exact=True)
                if closed.count() == 1:
                    closed.click()
                    page.wait_for_timeout(1_000)
            page.screenshot(path=IMAGES / name)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
