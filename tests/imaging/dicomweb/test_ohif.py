"""OHIF as it is published, served by us, in a real browser: it lists a study, shows its images and our segmentation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.conf import settings as configured
from django.test import Client

from clinical.access import assign
from clinical.models import User
from imaging.models import PublishedInstance, Study
from tests.factories.dicom_files import as_file
from tests.factories.outlined_studies import COLUMNS, LESIONS, ROWS, outlined, slices
from tests.factories.published_studies import account, bring
from tests.factories.studies import run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.xdist_group("browser")]

# Grey pixels of the largest canvas, coloured ones, and where those lie, as parts of its width and height.
PIXELS = """
const all = [...document.querySelectorAll("canvas")].filter(c => c.width > 100);
if (!all.length) return [0, 0, 0, 0];
const canvas = all.reduce((a, b) => a.width * a.height > b.width * b.height ? a : b);
const copy = document.createElement("canvas");
copy.width = canvas.width; copy.height = canvas.height;
const pen = copy.getContext("2d");
pen.drawImage(canvas, 0, 0);
const data = pen.getImageData(0, 0, copy.width, copy.height).data;
let grey = 0, coloured = 0, x = 0, y = 0;
for (let i = 0; i < data.length; i += 4) {
  const least = Math.min(data[i], data[i+1], data[i+2]), most = Math.max(data[i], data[i+1], data[i+2]);
  if (most - least > 40) { coloured++; x += (i / 4) % copy.width; y += Math.floor(i / 4 / copy.width); }
  else if (least > 40) grey++;
}
return [grey, coloured, x / Math.max(1, coloured) / copy.width, y / Math.max(1, coloured) / copy.height];
"""


def until(true: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := true():
            return value
        time.sleep(0.3)
    raise AssertionError("it did not become true in time")


@pytest.fixture
def shown(transactional_db: None) -> tuple[Study, User]:
    """A study with a textured T1c series and an outline of ours, and a radiologist on its care team."""
    files = []
    for number, one in enumerate(slices("axial")):
        y, x = np.mgrid[:ROWS, :COLUMNS]
        pixels = 400 + 300 * np.sin(x / 5 + number) * np.cos(y / 7)
        one.PixelData = pixels.astype(np.uint16).tobytes()
        one["PixelData"].VR = "OW"
        files.append(as_file(one))
    study = bring(files)
    outlined(study, *LESIONS, model={"fusion": "majority", "experts": []})
    run("imaging.publish_segmentations", study)
    user = account("rhea", "radiologist")
    assign(user, study.patient, reason="reads the images", by=None)
    return study, user


@pytest.fixture
def browser(chromium: Any, live: str, ohif: Path, settings: Any, shown: tuple[Study, User]) -> Any:
    """The browser, signed in as that radiologist."""
    settings.ONCOFLOW_VIEWER_DIR = ohif
    client = Client()
    client.force_login(shown[1], backend="django.contrib.auth.backends.ModelBackend")
    chromium.get(f"{live}/health/live")
    session = client.cookies[configured.SESSION_COOKIE_NAME].value
    chromium.add_cookie({"name": configured.SESSION_COOKIE_NAME, "value": session, "path": "/"})
    return chromium


def text(browser: Any) -> str:
    return str(browser.find_element("css selector", "body").text)


def test_ohif_lists_and_shows_a_study_and_our_segmentation(browser: Any, live: str, shown: tuple[Study, User]) -> None:
    study, _ = shown
    browser.get(f"{live}/viewer/")
    until(lambda: study.patient.pseudonym in text(browser))

    one = f"{live}/viewer/viewer?StudyInstanceUIDs={study.deidentified_uid}"
    browser.get(one)
    _, coloured, _, _ = until(lambda: (found := browser.execute_script(PIXELS))[0] > 50_000 and found)
    assert coloured < 100

    seg = PublishedInstance.objects.get(modality="SEG")
    browser.get(f"{one}&initialSeriesInstanceUID={seg.series_instance_uid}")
    found = until(lambda: (found := browser.execute_script(PIXELS))[1] > 1000 and found)
    # The lesion lies 6 mm to the right and 9 mm behind the middle: left of and below it in a picture seen from the feet.
    assert found[0] > 50_000
    assert 0.40 < found[2] < 0.49
    assert 0.52 < found[3] < 0.65
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_viewer_is_for_who_is_signed_in(db: None, ohif: Path, settings: Any) -> None:
    client = Client()
    assert client.get("/viewer/").status_code == 302
    client.force_login(account("rhea", "radiologist"), backend="django.contrib.auth.backends.ModelBackend")
    assert client.get("/viewer/").status_code == 404
    settings.ONCOFLOW_VIEWER_DIR = ohif
    page = client.get("/viewer/viewer?StudyInstanceUIDs=1.2")
    assert page.status_code == 200
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"].split("script-src")[1].split(";")[0]
    assert b"<script>" not in b"".join(page)
    ours = client.get("/viewer/app-config.js")
    assert b"/dicomweb" in ours.content
    assert b"cloudfront" not in ours.content
    for outside in ("../settings.py", "..%2f..%2fmanage.py", "/etc/passwd"):
        assert b"import" not in b"".join(client.get(f"/viewer/{outside}"))[:200]
    assert "unsafe-eval" not in client.get("/").headers["Content-Security-Policy"]
