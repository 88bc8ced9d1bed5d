"""The frame of every page: running header with the patient, footer with report, version, status and page number."""

from __future__ import annotations

import io
from typing import Any

from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Frame, PageTemplate

from reports.pdf.data import RenderedPdf, RenderInput
from reports.pdf.scripts import plain
from reports.pdf.sections import SignatureBlock, build_story, status_line
from reports.pdf.style import AMBER, BOLD, FONT, GREEN, MUTED, RED, RULE, draw_text, register_fonts, text_width
from reports.pdf.tables import WIDTH

__all__ = ["render"]

_PAGE_WIDTH, _PAGE_HEIGHT = A4
_MARGIN = (_PAGE_WIDTH - WIDTH) / 2
_TOP, _BOTTOM = 46.0, 50.0
_COLOURS = {"green": GREEN, "amber": AMBER, "red": RED}


class _NumberedCanvas(Canvas):
    """Draws running header and footer once the number of pages is known."""

    given: RenderInput

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:
        """Keep the page for later."""
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        """Finish every page, then the document."""
        total = len(self._pages)
        for number, state in enumerate(self._pages, start=1):
            self.__dict__.update(state)
            self._frame(number, total)
            super().showPage()
        super().save()

    def _frame(self, number: int, total: int) -> None:
        content, header = self.given.content, self.given.header
        status, colour = status_line(content, self.given.signature, self.given.replaces)
        right = _PAGE_WIDTH - _MARGIN
        self.setStrokeColor(RULE)
        self.setLineWidth(0.6)
        self.line(_MARGIN, _BOTTOM - 12, right, _BOTTOM - 12)
        self.setFillColor(MUTED)
        self.setFont(FONT, 6.8)
        self.drawString(_MARGIN, _BOTTOM - 22, f"Report {content.report_id}, version {content.version}")
        self.drawRightString(right, _BOTTOM - 22, f"Page {number} of {total}")
        self.setFillColor(_COLOURS[colour])
        demo = "DEMONSTRATION, not for clinical use – " if content.demo else ""
        draw_text(self, _MARGIN, _BOTTOM - 32, demo + status, BOLD, 6.8, 160)
        if number == 1:
            return
        if header.pseudonymous:
            who = header.pseudonym
        else:
            born = f"born {header.birth_date}" if header.birth_date else ""
            who = ", ".join(part for part in (header.patient_name, born, header.patient_number) if part)
        self.setFillColor(MUTED)
        draw_text(self, _MARGIN, _PAGE_HEIGHT - 32, who or header.pseudonym, FONT, 7.2, 110)
        left = right - text_width(header.hospital, FONT, 7.2, 60)
        draw_text(self, left, _PAGE_HEIGHT - 32, header.hospital, FONT, 7.2, 60)
        self.line(_MARGIN, _PAGE_HEIGHT - 37, right, _PAGE_HEIGHT - 37)


def render(given: RenderInput) -> RenderedPdf:
    """Draw the report.

    Document properties name the report and its version, never the patient: they show in file listings and previews.
    """
    register_fonts()
    content = given.content
    out = io.BytesIO()
    document = BaseDocTemplate(
        out,
        pagesize=A4,
        title=f"Brain tumour MRI report {content.report_id}, version {content.version} ({content.status})",
        author=plain(given.header.hospital, 100),
        subject="Quantitative brain tumour MRI report" + (", demonstration" if content.demo else ""),
        creator="OncoFlow",
        keywords=["radiology report", content.status],
        lang=content.language,
        displayDocTitle=True,
        pageCompression=1,
        initialFontName=FONT,
    )
    frame = Frame(
        _MARGIN,
        _BOTTOM,
        WIDTH,
        _PAGE_HEIGHT - _TOP - _BOTTOM,
        leftPadding=0,
        rightPadding=0,
        topPadding=0,
        bottomPadding=0,
    )
    document.addPageTemplates([PageTemplate(id="report", frames=[frame])])
    canvas_class = type("_ReportCanvas", (_NumberedCanvas,), {"given": given})
    story = build_story(given)
    blocks = [part for item in story for part in getattr(item, "_content", [item]) if isinstance(part, SignatureBlock)]
    document.build(story, canvasmaker=canvas_class)
    block = blocks[0] if blocks else None
    return RenderedPdf(
        pdf=out.getvalue(),
        pages=document.page,
        signature_page=block.page if block else None,
        signature_rectangle=block.rectangle if block else None,
    )
