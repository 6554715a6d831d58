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
GROUPS = ("speed", "batch", "models", "serving", "quality")
_WIDE, _USUAL = (2_600, 2_400), (1_600, 1_000)


def main(home: str) -> None:
    """Takes the picture of Dagster's graph of all assets, and of an entity in the console."""
    settings = Settings.load(home)
    opened = ",".join(f"global@global:{group}" for group in GROUPS)
    pages = {
        "dagster-assets.png": (f"{settings.dagster_url}/asset-groups?expanded={opened}", _WIDE),
        "console.png": (f"{settings.serving_url}/console#group=user_features&id=2070", _USUAL),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        for name, (url, (width, height)) in pages.items():
            page.set_viewport_size({"width": width, "height": height})
            page.goto(url)
            page.wait_for_timeout(8_000)  # some of the pages never stop asking
            page.screenshot(path=IMAGES / name)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
