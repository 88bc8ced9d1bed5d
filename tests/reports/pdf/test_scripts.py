"""Names in the scripts that patients' names are written in: drawn with glyphs of their own, shaped, in their direction."""

from __future__ import annotations

import io
import subprocess
import unicodedata
from typing import Any

import bidi
import pytest
from pypdf import PdfReader
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import SimpleDocTemplate

from clinical.identity import Identifier, IdentityData
from clinical.models import User
from clinical.services import assign, register_patient
from oncoflow_site.foundation.errors import UserVisibleError
from reports.lifecycle.sign_off import sign_off
from reports.models import ReportVersion
from reports.pdf.scripts import undrawable, words
from reports.pdf.style import FONT, draw_text, paragraph, register_fonts, safe, text_width
from reports.services import load_pdf
from tests.factories.report_studies import PASSWORD
from tests.factories.reports import draft, release

NAMES = {
    "Chinese": "王小明",
    "Japanese": "髙﨑 太郎",
    "Korean": "김민수",
    "Thai": "สมชาย ใจดี",
    "Hindi": "राजेश कुमार",
    "Bengali": "আমিনা খাতুন",
    "Tamil": "கண்ணன்",
    "Hebrew": "דוד כהן",
    "Arabic": "محمد علي الفارسي",
    "Vietnamese": "Nguyễn Văn Ánh",
    "Georgian": "ნინო",
    "Armenian": "Հայկ",
    "Amharic": "አበበ",
}


@pytest.fixture(autouse=True)
def _fonts() -> None:
    register_fonts()


def visual(text: str) -> str:
    """The words of a line from left to right, each in the order in which it is stored."""
    return " ".join("".join(piece.text for piece in pieces) for pieces in words(text, FONT))


def pdf_of(name: str) -> bytes:
    """One page with the name in a paragraph and in a line."""

    class Page(Canvas):
        def showPage(self) -> None:
            draw_text(self, 50, 100, f"{name}, born 1950", FONT, 9)
            super().showPage()

    out = io.BytesIO()
    SimpleDocTemplate(out).build([paragraph(safe(name), "valuebold")], canvasmaker=Page)
    return out.getvalue()


@pytest.mark.parametrize("script", NAMES)
def test_every_letter_of_a_name_has_a_glyph_and_is_embedded(script: str) -> None:
    name = NAMES[script]
    assert not undrawable(name, FONT)
    assert "�" not in safe(name)
    pieces = [piece for part in words(name, FONT) for piece in part]
    assert unicodedata.normalize("NFC", name).replace(" ", "") in (
        "".join(piece.text for piece in pieces),
        "".join(piece.text for piece in reversed(pieces)),
    )
    fonts = PdfReader(io.BytesIO(pdf_of(name))).pages[0]["/Resources"]["/Font"]  # type: ignore[index]
    descriptors = [one.get_object().get("/FontDescriptor") for one in fonts.values()]
    assert all(one is None or "/FontFile2" in one.get_object() for one in descriptors)
    assert text_width(name, FONT, 9) > 5


@pytest.mark.peer("poppler")
@pytest.mark.parametrize("script", ["Chinese", "Japanese", "Korean", "Thai", "Hindi", "Hebrew", "Arabic", "Vietnamese"])
def test_a_name_can_be_copied_out_of_the_page(script: str, poppler: Any) -> None:
    """Poppler puts right-to-left words into reading order: what it reads is what a person reads."""
    text = unicodedata.normalize("NFKC", poppler.text(pdf_of(NAMES[script])))
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    assert NAMES[script] in " ".join(text.split())


@pytest.mark.parametrize(
    "line",
    [
        "Patient דוד כהן, born 1950",
        "כהן, דוד 12, born 1 May",
        "(כהן) Smith",
        "A דוד 12 כהן B",
        "דוד כהן",
        "Smith, John (דוד)",
        "12 דוד",
        "דוד - כהן, R12",
    ],
)
def test_words_stand_as_the_bidirectional_algorithm_has_them(line: str) -> None:
    ours = " ".join(
        "".join(bidi.get_display(piece.text, base_dir="R") if piece.rtl else piece.text for piece in pieces)
        for pieces in words(line, FONT)
    )
    assert ours == bidi.get_display(line, base_dir="L")


def test_long_text_without_blanks_is_broken() -> None:
    body = paragraph(safe("患者は頭痛を訴えた。" * 30), "body")
    _, height = body.wrap(300, 1000)
    assert height > 100
    assert max(line[0] if isinstance(line, tuple) else 0 for line in body.blPara.lines) >= 0


def registered(family: str, given: str) -> Any:
    data = IdentityData(
        family=family, given=given, sex="U", identifiers=(Identifier("DEMOHOSP", f"S{len(family)}{ord(family[0])}"),)
    )
    return register_patient(data, source="command")


def issued(patient: Any, make_study: Any, make_measurement: Any) -> ReportVersion:
    drafted = draft(make_measurement(make_study(patient=patient, order=None)))
    assert drafted is not None
    return release(drafted)


@pytest.mark.django_db
@pytest.mark.slow
def test_a_report_for_a_chinese_name_is_sealed(make_study: Any, make_measurement: Any, signing: Any) -> None:
    version = issued(registered("王", "小明"), make_study, make_measurement)
    assert version.status == "preliminary"
    done = subprocess.run(["pdftotext", "-layout", "-", "-"], input=load_pdf(version), capture_output=True, check=True)
    assert "王, 小明" in done.stdout.decode()


@pytest.mark.django_db
@pytest.mark.slow
def test_a_name_that_cannot_be_drawn_is_held_and_not_signed(
    make_study: Any, make_measurement: Any, radiologist: User
) -> None:
    patient = registered("𠮷田", "太郎")

    assign(radiologist, patient, reason="test", by=None)
    version = issued(patient, make_study, make_measurement)
    assert version.status == "held"
    assert "cannot draw" in version.report.state_reason
    with pytest.raises(UserVisibleError) as refused:
        sign_off(version, radiologist, PASSWORD)
    assert refused.value.code == "undrawable-name"
    version.refresh_from_db()
    assert version.status == "held"
