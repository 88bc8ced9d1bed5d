"""Fonts, colours and paragraph styles of the printed report.

DejaVu Sans (Bitstream Vera licence, free to embed) comes with matplotlib; it is found on disk without importing matplotlib.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.colors import Color, HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from oncoflow_site.foundation.errors import EngineError

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
    "printable",
    "register_fonts",
    "safe",
    "styles",
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


def printable(text: Any, limit: int = 2000) -> str:
    """``text`` as the fonts can show it: control characters dropped, what has no glyph shown as U+FFFD, cut at ``limit``."""
    register_fonts()
    known = pdfmetrics.getFont(FONT).face.charToGlyph
    out = []
    for char in unicodedata.normalize("NFC", str(text))[:limit]:
        if char in "\n\t ":
            out.append(" ")
        elif unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn"):
            continue
        else:
            out.append(char if ord(char) in known else "�")
    return "".join(out)


def safe(text: Any, limit: int = 2000) -> str:
    """``printable`` text with the mark-up characters of reportlab's paragraphs escaped: hostile names stay text."""
    return escape(printable(text, limit))


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
