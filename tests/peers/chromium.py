"""A real browser, driven through chromedriver: started once, with nothing kept between tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def chromium_process() -> Iterator[Any]:
    """A headless Chromium; skips where the browser or its driver is absent."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium or chromedriver is not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # No sandbox: in containers tests often run as root. Nothing but our own pages is opened.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.set_page_load_timeout(60)
    yield started
    started.quit()


@pytest.fixture
def chromium(chromium_process: Any) -> Iterator[Any]:
    """The browser without cookies and with an empty console, in the light scheme, 1360 pixels wide."""
    driver = chromium_process
    driver.get("about:blank")
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    show(driver)
    driver.get_log("browser")
    yield driver
    driver.get("about:blank")  # closes what a page keeps open, before its server goes


def show(driver: Any, *, width: int = 1360, dark: bool = False) -> None:
    """Width of the window, and the colour scheme that the person prefers."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
