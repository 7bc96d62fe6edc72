"""A browser page that is logged in to a real Airflow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner_airflow.local import USER
from tests.live.airflow import ROOT
from tests.live.conftest import live, stopped

__all__ = ["live", "stopped"]
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS") or ROOT / "out" / "screenshots")
# Without these flags a browser in a closed network keeps calling its vendor's hosts. Chromium
# refuses its sandbox to root.
FLAGS = [
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]


@pytest.fixture(scope="module")
def page(live) -> Iterator[object]:
    """Returns a page of a headless Chromium that is logged in to Airflow.

    The browser is Playwright's own if it was downloaded, else the system's.
    """
    from playwright.sync_api import Error, expect, sync_playwright

    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(args=FLAGS)
        except Error:
            system = shutil.which("chromium") or shutil.which("google-chrome")
            assert system, (
                "no browser; run 'playwright install chromium' or install the package chromium"
            )
            browser = playwright.chromium.launch(executable_path=system, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(live.url)
        page.locator("input[name=username]").fill(USER)
        page.locator("input[name=password]").fill(live.config.password())
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="Dags").first).to_be_visible()
        yield page
        browser.close()


@pytest.fixture
def shoot(page):
    """Returns a function that saves a screenshot of the page under a name."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return lambda name: page.screenshot(path=SCREENSHOTS / f"{name}.png")
