"""The printed report: fonts, words, pages, and hostile names. Looked at by machine here; by people before each release."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from pypdf import PdfReader

from imaging.schemas.comparison import VolumesAt
from reports.content.schema import with_status
from reports.lifecycle.assemble import build_content
from reports.narrative.extractive import ExtractiveNarrator
from reports.pdf import HeaderData, RenderInput, SignatureText, render
from reports.pdf.chart import volume_chart
from reports.pdf.style import safe
from tests.factories.report_content import facts, source
from tests.factories.reports import draw, words

MOMENT = datetime(2026, 8, 14, 11, 2, 3, tzinfo=UTC)
PERSON = SignatureText(True, "Dr Rahel Sommer", "radiologist", MOMENT, "I have reviewed this report.", "Test authority")


def test_every_font_is_embedded() -> None:
    fonts: dict[str, bool] = {}
    for page in PdfReader(io.BytesIO(draw(signature=PERSON).pdf)).pages:
        for entry in page["/Resources"]["/Font"].values():
            font = entry.get_object()
            used = str(font["/BaseFont"])
            fonts[used] = "/FontFile2" in font.get("/FontDescriptor", {})
    assert fonts.pop("/Helvetica", None) in (None, False)
    assert fonts
    assert all(fonts.values()), fonts


def test_no_text_is_set_in_an_unembedded_font() -> None:
    for page in PdfReader(io.BytesIO(draw(signature=PERSON).pdf)).pages:
        names = [
            name.encode()
            for name, font in page["/Resources"]["/Font"].items()
            if font.get_object()["/BaseFont"] == "/Helvetica"
        ]
        data = page.get_contents().get_data()
        assert not [name for name in names if name + b" " in data]


def test_properties_name_the_report_and_not_the_patient() -> None:
    reader = PdfReader(io.BytesIO(draw().pdf))
    assert reader.trailer["/Root"]["/Lang"] == "en"
    assert "0190-report, version 2" in reader.metadata.title
    assert "ADLER" not in str(dict(reader.metadata))


def test_findings_are_on_the_page() -> None:
    text = words(draw().pdf)
    for part in (
        "12.3",
        "11.8 – 12.9",
        "38 × 27",
        "8.63",
        "+43 %",
        "−4.2 %",
        "gone: no longer outlined",
        "PD (RANO 2.0",
    ):
        assert part in text, part
    for part in (
        "nnunet-plain 2026.11",
        "failed: no",
        "Dice ET 0.90",
        "60 Gy in 30 fractions",
        "not a diagnosis",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("status", "signature", "expected"),
    [
        ("held", None, "HELD FOR REVIEW – NOT ISSUED"),
        ("preliminary", None, "PRELIMINARY – NOT SIGNED BY A RADIOLOGIST"),
        ("final", PERSON, "FINAL – signed by Dr Rahel Sommer, 14 August 2026"),
        ("final", None, "HELD FOR REVIEW"),  # no signature, no "final"
    ],
)
def test_banner_and_running_line_on_every_page(status, signature, expected) -> None:
    drawn = draw(status, signature)
    pages = [page.extract_text() for page in PdfReader(io.BytesIO(drawn.pdf)).pages]
    assert len(pages) == drawn.pages
    for number, page in enumerate(pages, start=1):
        assert expected.split(" –")[0] in page
        assert f"Page {number} of {drawn.pages}" in page
        assert "DEMONSTRATION" in page
        assert number == 1 or "ADLER, Berta" in page


def test_signature_block_says_where_it_lies() -> None:
    drawn = draw("final", PERSON)
    assert drawn.signature_page == drawn.pages - 1
    left, bottom, right, top = drawn.signature_rectangle
    assert 0 < left < right < 595
    assert 0 < bottom < top < 842
    assert "Signed 2026-08-14 11:02:03 UTC" in words(drawn.pdf)
    assert draw().signature_rectangle is None


def test_hostile_and_foreign_names() -> None:
    header = {"patient_name": "<b>O'NEILL</b> & Сон <img src='/etc/passwd'/>\x00\x1b", "indication": "<para>]]>"}
    text = words(draw(header=header).pdf)
    assert "<b>O'NEILL</b> & Сон <img src='/etc/passwd'/>" in text
    assert "<para>]]>" in text
    assert safe("𠮷\x07a") == "�a"  # no font of the report has it: said, never an empty box
    assert safe("<&>") == "&lt;&amp;&gt;"
    assert safe("王<b>") == '<font name="OncoFlowHan">王</font>&lt;b&gt;'
    assert len(safe("x" * 9000)) == 2000


def test_no_demo_banner_without_demo() -> None:
    assert "DEMONSTRATION" not in words(draw(demo=False).pdf)


def volumes_at(when: datetime, enhancing: float | None, core: float | None, whole: float | None) -> VolumesAt:
    return VolumesAt(study_id="x", performed_at=when, ET=enhancing, TC=core, WT=whole)


def test_chart() -> None:
    assert volume_chart([], 400) is None
    assert volume_chart([volumes_at(MOMENT, None, None, None)], 400) is None
    assert volume_chart([volumes_at(MOMENT, 0.0, 0.0, 0.0)], 400) is not None
    many = [volumes_at(MOMENT + timedelta(days=7 * n), 1000.0 * n, None, 90000.0) for n in range(40)]
    assert volume_chart(many, 400) is not None


def test_a_long_narrative_breaks_over_pages() -> None:
    lines = "\n".join(f"Note {n}: the tumour was discussed and temozolomide continued. " * 3 for n in range(60))
    content = build_content(facts(), [source(lines)], ExtractiveNarrator())
    content = content.model_copy(update={"narrative": content.narrative * 12})
    content = with_status(content, status="preliminary", version=1, report_id="x")
    assert render(RenderInput(content, HeaderData("Hospital", "OF-1"))).pages > 4
