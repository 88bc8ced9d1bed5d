"""Which font draws a text, and in which order its words stand: names are written in the script that the EMR sends.

DejaVu Sans draws what it has; every other word takes the first shipped font that has all its letters (`fonts/README.md`). Words
of a script whose letters join, move or stack are shaped by HarfBuzz (reportlab's own hook). The report runs from left to
right; inside it words of Hebrew and Arabic run from right to left, numbers among them keep their direction (Unicode Standard
Annex #9, rules L2 and N1, for one embedding level). A letter that no font has is never drawn as an empty box: the text says
U+FFFD, and where a name is concerned `undrawable` stops the report.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

__all__ = ["REPLACEMENT", "Word", "is_cjk", "is_complex", "plain", "register_fallbacks", "undrawable", "words"]

REPLACEMENT = "�"
_FOLDER = Path(__file__).with_name("fonts")
_SCRIPTS = (
    "Thai", "Devanagari", "Bengali", "Tamil", "Telugu", "Gujarati", "Gurmukhi", "Kannada", "Malayalam", "Sinhala", "Khmer",
    "Lao", "Myanmar", "Ethiopic", "Armenian", "Georgian",
)  # fmt: skip
FALLBACKS: dict[str, str] = {
    "OncoFlowHan": "DroidSansFallbackFull.ttf",
    "OncoFlowHangul": "NanumGothicCoding.ttf",
    **{f"OncoFlow{script}": f"NotoSans{script}-Regular.ttf" for script in _SCRIPTS},
}
# First and last code points of scripts whose letters change with their neighbours, or carry marks that must be placed.
_COMPLEX = (
    (0x0590, 0x08FF), (0x0900, 0x0DFF), (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFC),
)  # fmt: skip
_CJK = ((0x1100, 0x11FF), (0x2E80, 0x9FFF), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))
# Joiners and direction marks are no letters: HarfBuzz reads the former, the order of words makes the latter superfluous.
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Word:
    """A word in one font. ``complex``: it has to be shaped. ``rtl``: it runs from right to left."""

    text: str
    font: str
    complex: bool = False
    rtl: bool = False


def register_fallbacks() -> None:
    """Make the shipped fonts known to reportlab; each file is read when a text first needs it."""
    for name in FALLBACKS:
        _glyphs(name)


@cache
def _glyphs(font: str) -> frozenset[int]:
    """Code points that ``font`` has glyphs for; a shipped font is registered the first time."""
    if font in FALLBACKS:
        pdfmetrics.registerFont(TTFont(font, str(_FOLDER / FALLBACKS[font])))
    return frozenset(pdfmetrics.getFont(font).face.charToGlyph)


def _within(char: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    code = ord(char)
    return any(first <= code <= last for first, last in ranges)


def is_complex(text: str) -> bool:
    """Whether ``text`` has letters that must be shaped."""
    return any(_within(char, _COMPLEX) for char in text)


def is_cjk(text: str) -> bool:
    """Whether most of ``text`` is Chinese, Japanese or Korean, which may be broken between any two letters."""
    return 2 * sum(_within(char, _CJK) for char in text) > len(text) > 20


def plain(text: Any, limit: int = 2000) -> str:
    """``text`` in composed form (NFC), control and format characters dropped, blanks made one kind, cut at ``limit`` letters."""
    out = []
    for char in unicodedata.normalize("NFC", str(text))[:limit]:
        if char.isspace():
            out.append(" ")
        elif char in _JOINERS or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn"):
            out.append(char)
    return "".join(out)


def _font_of(word: str, preferred: str) -> str | None:
    letters = {ord(char) for char in word if char not in _JOINERS}
    return next((font for font in (preferred, *FALLBACKS) if letters <= _glyphs(font)), None)


def _pieces(word: str, preferred: str) -> Iterator[Word]:
    """``word`` in one font where one has all of it, else letter by letter."""
    font = _font_of(word, preferred)
    rtl = any(unicodedata.bidirectional(char) in ("R", "AL") for char in word)
    if font is not None:
        yield Word(word, font, is_complex(word), rtl)
        return
    run, chosen = "", preferred
    for char in word:
        font = _font_of(char, preferred)
        char, font = (char, font) if font is not None else (REPLACEMENT, preferred)
        if run and font != chosen:
            yield Word(run, chosen, is_complex(run), rtl)
            run = ""
        run, chosen = run + char, font
    if run:
        yield Word(run, chosen, is_complex(run), rtl)


def _kind(part: str) -> str:
    classes = {unicodedata.bidirectional(char) for char in part}
    return "R" if classes & {"R", "AL"} else "L" if "L" in classes else "E" if classes & {"EN", "AN"} else "N"


def _split_ends(part: str) -> tuple[str, str, str]:
    """(leading, word, trailing): punctuation at the ends, which belongs to the direction around it, apart from the word."""
    strong = [at for at, char in enumerate(part) if unicodedata.bidirectional(char) in ("R", "AL", "NSM", "EN", "AN")]
    return part[: strong[0]], part[strong[0] : strong[-1] + 1], part[strong[-1] + 1 :]


def _visual_order(parts: list[str]) -> list[list[str]]:
    """Words as they stand from left to right, each as the pieces that stand together without a blank.

    Runs of right-to-left words, numbers between them included, are turned round; punctuation at the ends of a run stays outside.
    """
    kinds = [_kind(part) for part in parts]
    out: list[list[str]] = []
    at = 0
    while at < len(parts):
        if kinds[at] != "R":
            out.append([parts[at]])
            at += 1
            continue
        end = at
        for later in range(at, len(parts)):
            if kinds[later] == "L":
                break
            if kinds[later] in ("R", "E"):
                end = later
        run = parts[at : end + 1]
        before, run[0], kept = _split_ends(run[0])
        run[0] += kept if len(run) > 1 else ""
        after = kept if len(run) == 1 else ""
        if len(run) > 1:
            leading, run[-1], after = _split_ends(run[-1])
            run[-1] = leading + run[-1]
        turned = [[part] for part in reversed(run)]
        if before:
            turned[0].insert(0, before)
        if after:
            turned[-1].append(after)
        out += turned
        at = end + 1
    return out


def words(text: str, preferred: str) -> list[list[Word]]:
    """The words of a `plain` text from left to right; each is a list of pieces, more than one only where no font has it whole.

    :param preferred: font that draws what it can.
    """
    return [[piece for part in parts for piece in _pieces(part, preferred)] for parts in _visual_order(text.split(" "))]


def undrawable(text: str, preferred: str) -> str:
    """The letters of ``text`` that no font has, each once; empty when it can be drawn."""
    known = _glyphs(preferred).union(*(_glyphs(font) for font in FALLBACKS))
    return "".join(dict.fromkeys(char for char in plain(text) if char not in _JOINERS and ord(char) not in known))
