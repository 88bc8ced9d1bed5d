"""What a page shows in the real browser, waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from clinical.models import User
from tests.peers import served_site
from tests.peers.chromium import show

ACCESSIBLE = (Path(__file__).parent / "accessible.js").read_text(encoding="utf-8")
COLOURED = """
const picture = document.querySelector(arguments[0]);
if (!picture.complete || !picture.naturalWidth) return -1;
const canvas = document.createElement("canvas");
canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
const pen = canvas.getContext("2d");
pen.drawImage(picture, 0, 0);
const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
let count = 0;
for (let i = 0; i < data.length; i += 4) if (Math.abs(data[i] - data[i + 2]) > 40) count++;
return count;
"""


@pytest.fixture
def site(transactional_db: None) -> Iterator[str]:
    """Address of the whole service, served by uvicorn as it is in production (events need ASGI)."""
    with served_site() as address:
        yield address


@pytest.fixture
def signed_in(chromium: Any, site: str) -> Iterator[Callable[[User], Any]]:
    """``signed_in(user)``: the browser with that user's session. Afterwards its console must hold no error."""

    def enter(user: User) -> Any:
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        chromium.get(f"{site}/health/live")
        session = client.cookies[settings.SESSION_COOKIE_NAME].value
        chromium.add_cookie({"name": settings.SESSION_COOKIE_NAME, "value": session, "path": "/"})
        return chromium

    yield enter
    assert errors_of(chromium) == []


def errors_of(chromium: Any) -> list[str]:
    """The console's errors: scripts, refused resources, breaches of the content security policy."""
    return [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := true():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not become true in time")


def one(chromium: Any, selector: str) -> Any:
    return chromium.find_element("css selector", selector)


def texts(chromium: Any, selector: str) -> list[str]:
    return [element.text for element in chromium.find_elements("css selector", selector)]


def faults(chromium: Any, address: str) -> list[str]:
    """What is wrong with a page: wide and light, wide and dark, on a phone."""
    found = []
    for width, dark in ((1360, False), (1360, True), (390, False)):
        show(chromium, width=width, dark=dark)
        chromium.get(address)
        told = chromium.execute_script(ACCESSIBLE)
        found += [f"{address} at {width} px{', dark' if dark else ''}: {fault}" for fault in told]
    return found
