"""Fonts, colours and paragraph styles of the printed report.

DejaVu Sans (Bitstream Vera licence, free to embed) comes with matplotlib; it is found on disk without importing matplotlib.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.colors import Color, HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import ShapedStr, TTFont, shapeStr
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Paragraph

from oncoflow_site.foundation.errors import EngineError
from reports.pdf.scripts import is_cjk, is_complex, plain, register_fallbacks, undrawable, words

__all__ = [
    "AMBER",
    "BOLD",
    "FONT",
    "GREEN",
    "INK",
    "ITALIC",
    "MUTED",
    "PALE",
    "RED",
    "RULE",
    "TEAL",
    "draw_text",
    "paragraph",
    "register_fonts",
    "safe",
    "styles",
    "text_width",
    "undrawable_letters",
]

FONT, BOLD, ITALIC = "OncoFlowSans", "OncoFlowSans-Bold", "OncoFlowSans-Italic"
_FILES = {FONT: "DejaVuSans.ttf", BOLD: "DejaVuSans-Bold.ttf", ITALIC: "DejaVuSans-Oblique.ttf"}

INK = HexColor("#1b2733")
MUTED = HexColor("#566472")
RULE = HexColor("#c6ced6")
PALE = HexColor("#f2f5f8")
TEAL = HexColor("#0b5c6b")
AMBER = HexColor("#8a4b00")
GREEN = HexColor("#1c6b35")
RED = HexColor("#9b1c1c")


@lru_cache(maxsize=1)
def register_fonts() -> None:
    """Register the three faces with reportlab; raises `EngineError` where matplotlib's font files are missing."""
    spec = find_spec("matplotlib")
    roots = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    folder = next((root / "mpl-data" / "fonts" / "ttf" for root in roots), None)
    if folder is None or not all((folder / name).is_file() for name in _FILES.values()):
        raise EngineError("the fonts of the report are missing: install matplotlib, which carries DejaVu Sans")
    for name, file in _FILES.items():
        pdfmetrics.registerFont(TTFont(name, str(folder / file)))
    pdfmetrics.registerFontFamily(FONT, normal=FONT, bold=BOLD, italic=ITALIC, boldItalic=BOLD)
    register_fallbacks()


def safe(text: Any, limit: int = 2000) -> str:
    """``text`` as mark-up of a `paragraph`: hostile names stay text, each word in a font that has its letters, words from
    left to right as they stand on paper. Control characters are dropped, what has no glyph is U+FFFD, cut at ``limit``."""
    register_fonts()
    parts = []
    for pieces in words(plain(text, limit), FONT):
        # reportlab shapes a word in the font of its first letter: pieces beside a shaped one become words of their own.
        glue = " " if any(piece.complex for piece in pieces) else ""
        parts.append(
            glue.join(
                escape(piece.text) if piece.font == FONT else f'<font name="{piece.font}">{escape(piece.text)}</font>'
                for piece in pieces
            )
        )
    return " ".join(parts)


def undrawable_letters(text: Any) -> str:
    """The letters of ``text`` that no font of the report has; empty when it can be drawn."""
    register_fonts()
    return undrawable(str(text), FONT)


def paragraph(markup: str, style: str, **options: Any) -> Paragraph:
    """A paragraph of mark-up (`safe`) in the style of that name, shaped or broken between letters where its script wants it."""
    wanted = styles()[style]
    if is_complex(markup):
        wanted = _variant(style, "shaping", True)
    elif is_cjk(markup):
        wanted = _variant(style, "wordWrap", "CJK")
    return Paragraph(markup, wanted, **options)


@lru_cache(maxsize=64)
def _variant(style: str, name: str, value: Any) -> ParagraphStyle:
    return ParagraphStyle(f"{style}-{name}", parent=styles()[style], **{name: value})


def draw_text(canvas: Canvas, x: float, y: float, text: Any, font: str, size: float, limit: int = 140) -> float:
    """Draw one line of ``text`` on ``canvas``, its left end at ``x``, baseline at ``y`` (points); returns its width."""
    return _line(text, font, size, limit, canvas, x, y)


def text_width(text: Any, font: str, size: float, limit: int = 140) -> float:
    """Width in points that `draw_text` takes."""
    return _line(text, font, size, limit)


def _line(
    text: Any, font: str, size: float, limit: int, canvas: Canvas | None = None, x: float = 0.0, y: float = 0.0
) -> float:
    register_fonts()
    start, blank = x, pdfmetrics.stringWidth(" ", font, size)
    for number, pieces in enumerate(words(plain(text, limit), font)):
        x += blank if number else 0.0
        for piece in pieces:
            drawn = shapeStr(piece.text, piece.font, size) if piece.complex else piece.text
            if canvas is not None:
                line = canvas.beginText(x, y)
                line.setFont(piece.font, size)
                line.textOut(drawn)
                canvas.drawText(line)
            if isinstance(drawn, ShapedStr):
                x += sum(glyph.x_advance for glyph in drawn.__shapeData__) * size / 1000
            else:
                x += pdfmetrics.stringWidth(drawn, piece.font, size)
    return x - start


@lru_cache(maxsize=1)
def styles() -> dict[str, ParagraphStyle]:
    """Paragraph styles by name."""
    register_fonts()
    base = ParagraphStyle("base", fontName=FONT, bulletFontName=FONT, fontSize=8.2, leading=11.6, textColor=INK)

    def style(name: str, **changes: Any) -> ParagraphStyle:
        return ParagraphStyle(name, parent=base, **changes)

    def tinted(name: str, colour: Color) -> ParagraphStyle:
        return style(name, fontName=BOLD, fontSize=8.6, leading=11.5, textColor=colour)

    return {
        "body": base,
        "title": style("title", fontName=BOLD, fontSize=15, leading=19, textColor=TEAL),
        "hospital": style("hospital", fontSize=8.6, textColor=MUTED),
        "heading": style(
            "heading",
            fontName=BOLD,
            fontSize=10.2,
            leading=13,
            textColor=TEAL,
            spaceBefore=9,
            spaceAfter=3,
            keepWithNext=1,
        ),
        "small": style("small", fontSize=7.1, leading=9.6, textColor=MUTED),
        "caption": style("caption", fontSize=7.1, leading=9.2, textColor=MUTED, alignment=1),
        "cell": style("cell", fontSize=7.8, leading=10.2),
        "cellbold": style("cellbold", fontSize=7.8, leading=10.2, fontName=BOLD),
        "number": style("number", fontSize=7.8, leading=10.2, alignment=TA_RIGHT),
        "head": style("head", fontSize=7.1, leading=9, fontName=BOLD, textColor=MUTED),
        "headright": style("headright", fontSize=7.1, leading=9, fontName=BOLD, textColor=MUTED, alignment=TA_RIGHT),
        "label": style("label", fontSize=7.1, leading=9.6, textColor=MUTED),
        "value": style("value", fontSize=8.4, leading=10.8),
        "valuebold": style("valuebold", fontSize=9, leading=11.4, fontName=BOLD),
        "impression": style("impression", fontSize=9, leading=13),
        "bullet": style("bullet", bulletFontSize=8.2, leftIndent=9, bulletIndent=0, spaceAfter=2.5),
        "reference": style(
            "reference", bulletFontSize=7.1, fontSize=7.1, leading=9.6, leftIndent=16, bulletIndent=0, spaceAfter=2
        ),
        "amber": tinted("amber", AMBER),
        "green": tinted("green", GREEN),
        "red": tinted("red", RED),
    }
