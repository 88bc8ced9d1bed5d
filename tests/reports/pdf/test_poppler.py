"""The PDF as other software sees it: poppler draws its pages, reads its words and judges its signatures."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import ImageStat

from clinical.models import User
from reports.lifecycle.sign_off import sign_off
from reports.models import ReportVersion
from reports.services import load_pdf
from tests.factories.report_studies import PASSWORD
from tests.factories.reports import draft, release
from tests.peers.poppler import Poppler

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture
def preliminary(make_study: Any, make_measurement: Any, radiologist: User) -> ReportVersion:
    """A version that was sealed and issued."""
    drafted = draft(make_measurement(make_study()))
    assert drafted is not None
    return release(drafted)


def test_seal_and_signature(preliminary: ReportVersion, radiologist: User, poppler: Poppler) -> None:
    sealed = load_pdf(preliminary)
    final = load_pdf(sign_off(preliminary, radiologist, PASSWORD))
    for pdf, who in ((sealed, "seal"), (final, "Sommer")):
        told = poppler.signatures(pdf)
        assert told.count("Signature Validation: Signature is Valid.") == 1, told
        assert "Signature Type: ETSI.CAdES.detached" in told  # PAdES, ETSI EN 319 142
        assert "Total document signed" in told
        assert who.lower() in told.lower(), told
    touched = bytearray(final)
    place = touched.index(b"endstream") - 20
    touched[place] ^= 1
    assert "Signature is Valid." not in poppler.signatures(bytes(touched))


def test_the_first_page_is_drawn(preliminary: ReportVersion, poppler: Poppler) -> None:
    pdf = load_pdf(preliminary)
    picture = poppler.picture(pdf)
    assert picture.height / picture.width == pytest.approx(297 / 210, rel=0.01)  # A4, upright
    grey = picture.convert("L")
    assert ImageStat.Stat(grey).mean[0] > 200  # paper
    assert grey.getextrema()[0] < 80  # ink
    margin = grey.crop((0, 0, grey.width // 40, grey.height))
    assert margin.getextrema()[0] > 240  # nothing runs off the page
    assert "PRELIMINARY" in poppler.text(pdf).upper()
