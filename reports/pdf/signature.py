"""The visible signature at the end of the printed report."""

from __future__ import annotations

from reportlab.platypus import Flowable

from oncoflow_site.foundation.clock import local, offset_name
from reports.pdf.data import SignatureText
from reports.pdf.style import BOLD, FONT, INK, MUTED, TEAL, draw_text
from reports.pdf.tables import WIDTH

__all__ = ["SignatureBlock"]


class SignatureBlock(Flowable):
    """The visible signature. Remembers where it was drawn, so that the signature field can be laid over it."""

    HEIGHT = 66.0

    def __init__(self, signature: SignatureText) -> None:
        super().__init__()
        self.signature = signature
        self.page: int | None = None
        self.rectangle: tuple[int, int, int, int] | None = None

    def wrap(self, available_width: float, available_height: float) -> tuple[float, float]:
        """Fixed height over the width of the text."""
        self.width = min(WIDTH, available_width)
        return self.width, self.HEIGHT

    def draw(self) -> None:
        """Draw the block and note page and rectangle."""
        canvas = self.canv
        left, bottom = canvas.absolutePosition(0, 0)
        self.page = canvas.getPageNumber() - 1
        self.rectangle = (round(left), round(bottom), round(left + self.width), round(bottom + self.HEIGHT))
        signed = self.signature
        canvas.setStrokeColor(TEAL)
        canvas.setLineWidth(1)
        canvas.roundRect(0, 0, self.width, self.HEIGHT, 3, stroke=1, fill=0)
        at = local(signed.signed_at)
        act = "Signed" if signed.person else "Sealed"
        lines = [
            (BOLD, 9.5, INK, f"{signed.name}" + (f", {signed.role}" if signed.role else "")),
            (FONT, 8, INK, f"{act} {at:%Y-%m-%d %H:%M:%S} {offset_name(at)}"),
            (FONT, 8, INK, signed.reason),
            (FONT, 7, MUTED, f"PAdES signature over the whole document; certificate issued by {signed.authority}."),
        ]
        y = self.HEIGHT - 16
        for font, size, colour, text in lines:
            canvas.setFillColor(colour)
            draw_text(canvas, 10, y, text, font, size)
            y -= size + 6
