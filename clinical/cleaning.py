"""Takes a patient's identifiers out of a text before a model reads it.

Two sources: what is known about this patient (names, numbers, birth date, in the spellings that documents use), and
patterns that announce an identifier of anybody (``Name:``, ``DOB``, telephone numbers). What is taken out is replaced
by blanks of the same length in UTF-8: byte offsets into the cleaned text are byte offsets into the stored text.
Where in doubt it takes out too much: a lost word costs a sentence, a missed name costs more.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

from clinical.identity import IdentityData

__all__ = ["CleanedText", "clean"]


@dataclass(frozen=True)
class CleanedText:
    """A text without identifiers.

    :param text: the text with every removed span blanked; as long in UTF-8 as the original.
    :param removed: (byte start, byte end, reason), sorted, not overlapping; offsets into the UTF-8 text.
    """

    text: str
    removed: tuple[tuple[int, int, str], ...]

    def overlaps(self, start: int, end: int) -> bool:
        """Whether bytes ``start`` to ``end`` touch a removed span."""
        index = bisect_left(self.removed, (start, -1, ""))
        if index < len(self.removed) and self.removed[index][0] < end:
            return True
        return index > 0 and self.removed[index - 1][1] > start


# --- folding: a text for comparing, with the way back ---------------------------------------------

_EXPANDED = {"ß": "ss", "æ": "ae", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "þ": "th", "œ": "oe", "ı": "i"}


def _fold(text: str) -> tuple[str, list[int]]:
    """``text`` in lower case without diacritics, and for each of its characters the index it came from."""
    out: list[str] = []
    origin: list[int] = []
    for index, char in enumerate(text):
        if char.isascii():
            out.append(char.lower())
            origin.append(index)
            continue
        lowered = char.lower()
        for one in unicodedata.normalize("NFKD", _EXPANDED.get(lowered, lowered)):
            if not unicodedata.combining(one):
                out.append(_EXPANDED.get(one, one)[:1])
                origin.append(index)
    origin.append(len(text))
    return "".join(out), origin


def _spellings(name: str) -> set[str]:
    """Folded spellings of a name: ``Müller`` is written Muller and Mueller."""
    plain = _fold(name)[0]
    written = name.lower().translate({0xE4: "ae", 0xF6: "oe", 0xFC: "ue", 0xE5: "aa", 0xF8: "oe"})  # ä ö ü å ø
    return {plain, _fold(written)[0]}


# --- what is known about the patient --------------------------------------------------------------

_MONTHS = {
    1: "january jan januar janvier jänner enero gennaio",
    2: "february feb februar fevrier febrero febbraio",
    3: "march mar marz mars marzo maerz",
    4: "april apr avril abril aprile",
    5: "may mai mayo maggio",
    6: "june jun juni juin junio giugno",
    7: "july jul juli juillet julio luglio",
    8: "august aug aout agosto",
    9: "september sep sept septembre septiembre settembre",
    10: "october oct oktober okt octobre octubre ottobre",
    11: "november nov novembre noviembre",
    12: "december dec dezember dez decembre diciembre dicembre",
}


def _date_patterns(born: date) -> Iterator[str]:
    """Regular expressions, for folded text, of how documents write this date."""
    year, short = f"{born.year}", f"{born.year % 100:02d}"
    day, month = f"0?{born.day}", f"0?{born.month}"
    gap = r"\s{0,2}[-/.\s]\s{0,2}"
    months = "|".join(re.escape(_fold(word)[0]) for word in _MONTHS[born.month].split())
    named = rf"(?:{months})\.?"
    yield rf"{year}{gap}{month}{gap}{day}"
    yield f"{born:%Y%m%d}"
    yield f"{born:%d%m%Y}"
    yield rf"{day}{gap}{month}{gap}(?:{year}|{short})"
    yield rf"{month}{gap}{day}{gap}(?:{year}|{short})"
    yield rf"{day}(?:st|nd|rd|th|\.)?[-/\s,]{{0,3}}(?:of\s{{1,3}})?{named}[-/\s,]{{0,3}}(?:{year}|{short})"
    yield rf"{named}[-/\s]{{0,3}}{day}(?:st|nd|rd|th)?[-/\s,]{{0,3}}{year}"
    yield rf"{year}[-/\s]{{0,3}}{named}[-/\s]{{0,3}}{day}"


def _name_patterns(identity: IdentityData) -> set[tuple[str, int]]:
    """Regular expressions, for folded text, of the patient's names; and how many letters each has."""
    apostrophe, dash = "'\u2018\u2019.", "\u2010-\u2015"
    patterns: set[tuple[str, int]] = set()
    for name in (identity.family, identity.given):
        whole = [part for part in re.split(rf"[\s,;^\-{dash}]+", name) if part]
        for word in whole:
            pieces = [piece for piece in re.split(f"[{apostrophe}]", word) if piece]
            if len(pieces) > 1:  # O'Brien: also OBrien and O Brien
                patterns.add((rf"[\s{apostrophe}]{{0,2}}".join(re.escape(_fold(one)[0]) for one in pieces), len(word)))
            for spelling in {one for piece in pieces if len(piece) > 1 for one in _spellings(piece)}:
                if len(spelling) < 5:
                    patterns.add((re.escape(spelling), len(spelling)))
                else:  # letter-spaced (S M I T H) and hyphenated at a line's end
                    patterns.add((r"[\s\-\u00ad]{0,3}".join(re.escape(char) for char in spelling), len(spelling)))
        if len(whole) > 1:  # Smith-Jones, van der Berg: as one piece, however it is joined
            joint = rf"[\s\-{dash}{apostrophe}]{{0,2}}"
            pieces = [piece for word in whole for piece in re.split(f"[{apostrophe}]", word) if piece]
            patterns.add((joint.join(re.escape(_fold(piece)[0]) for piece in pieces), len("".join(pieces))))
    return patterns


def _number_patterns(value: str) -> Iterator[str]:
    """Regular expressions, for folded text, of how a number is written: grouped, without its leading zeros, without the
    letters before it."""
    plain = _fold("".join(char for char in value if char.isalnum()))[0]
    written = {plain}
    digits = plain.lstrip("abcdefghijklmnopqrstuvwxyz")
    if len(digits) >= 5:
        written.add(digits)
    written |= {one.lstrip("0") for one in tuple(written) if len(one.lstrip("0")) >= 5}
    for one in written:
        if len(one) >= 3:
            yield (r"[\s\-./]{0,2}" if len(one) >= 5 else "").join(re.escape(char) for char in one)


def _known(folded: str, original: str, origin: list[int], identity: IdentityData) -> Iterator[tuple[int, int, str]]:
    """Spans, in characters of the original, of what is known about the patient."""
    edge, end = r"(?<![^\W_])", r"(?![^\W_])"
    for body, letters in _name_patterns(identity):
        for match in re.finditer(f"{edge}{body}{end}", folded):
            start = origin[match.start()]
            # "An", "Li", "May": a short name counts only where it is written as a name.
            if letters <= 3 and not original[start].isupper():
                continue
            yield start, origin[match.end() - 1] + 1, "name"
    for number in identity.identifiers:
        for body in _number_patterns(number.value):
            for match in re.finditer(f"{edge}{body}{end}", folded):
                yield origin[match.start()], origin[match.end() - 1] + 1, "identifier"
    if identity.birth_date:
        for pattern in _date_patterns(identity.birth_date):
            for match in re.finditer(rf"(?<![\d]){pattern}(?!\d)", folded):
                yield origin[match.start()], origin[match.end() - 1] + 1, "birth date"


# --- what announces itself ------------------------------------------------------------------------

_DATE_LIKE = (
    r"(?:\d{1,4}[ ]?[-/.][ ]?\d{1,2}[ ]?[-/.][ ]?\d{1,4}|\d{8}|"
    r"\d{1,2}(?:st|nd|rd|th|\.)?[- ,]{1,3}[^\W\d_]{3,10}\.?[- ,]{1,3}\d{2,4}|"
    r"[^\W\d_]{3,10}\.?[ ]\d{1,2}(?:st|nd|rd|th)?,?[ ]\d{4}|\d{4})"
)
_CAPITALISED = r"(?:[A-ZÀ-ÖØ-ÞĀ-Ž][\w'\u2019.-]{0,40})"
_NAMES = rf"{_CAPITALISED}(?:[ ,]{{1,2}}{_CAPITALISED}){{0,4}}"

# (reason, pattern); the group "it" is what is taken out.
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (reason, re.compile(pattern))
    for reason, pattern in (
        (
            "birth date",
            r"(?i:\b(?:d\.?o\.?b\.?|date[ ]of[ ]birth|birth[ ]?date|born(?:[ ]on)?|geb(?:oren)?\.?(?:[ ]am)?|"
            r"geburtsdatum|n[ée]e?[ ]le|date[ ]de[ ]naissance|\*))"
            rf"[ \t]{{0,8}}[:=]?[ \t\n]{{0,8}}\(?(?P<it>(?i:{_DATE_LIKE}))",
        ),
        (
            "name",
            r"(?im:(?:^|(?<=[\s|;,(]))(?:"
            r"(?:patient|full|family|last|first|given|sur|maiden|nach|vor)?[ '-]?(?:s[ ])?name|"
            r"surname|forename|next[ ]of[ ]kin|nom|pr[ée]nom)"
            r"[ \t]{0,4}[:=][ \t]{0,8})"
            r"(?P<it>[^\n\t|;]{1,80}?)(?=[ ]{2}|[\n\t|;]|\Z|(?i:,?[ ](?:dob|born|mrn|sex|age|\()))",
        ),
        ("name", rf"(?im:\b(?:patient|pat\.|re|regarding|betrifft)[ \t]{{0,4}}:[ \t]{{0,8}})(?P<it>{_NAMES})"),
        ("name", rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Herr|Frau|Herrn|Mme|Madame|Monsieur)\.?[ ]{{1,2}}(?P<it>{_NAMES})"),
        (
            "identifier",
            r"(?i:\b(?:mrn|medical[ ]record[ ](?:number|no\.?)|hosp(?:ital)?[ ](?:number|no\.?|id)|"
            r"patient[ ]?(?:id|number|no\.?)|nhs[ ](?:number|no\.?)|ssn|social[ ]security[ ](?:number|no\.?)|"
            r"insurance[ ](?:number|no\.?)|accession(?:[ ](?:number|no\.?))?|case[ ](?:number|no\.?)|fallnummer|"
            r"versichertennummer|passport(?:[ ]no\.?)?))"
            r"[ \t]{0,4}[:#=.]?[ \t]{0,8}(?P<it>(?=[\w\-/ ]{0,12}\d)[A-Za-z0-9](?:[\w/\-]|[ ](?=\d)){2,30})",
        ),
        (
            "telephone",
            r"(?i:\b(?:tel(?:ephone|efon)?|phone|mobile|fax|cell|handy|contact(?:[ ]no\.?)?)\.?)"
            r"[ \t]{0,4}[:.]?[ \t]{0,8}"
            r"(?P<it>[+(]?\d[\d ().\-/]{5,25}\d)",
        ),
        ("telephone", r"(?<![\w.])(?P<it>\+\d{1,3}[ .\-/(]{0,2}\d[\d ().\-/]{5,20}\d)(?!\w)"),
        ("telephone", r"(?<![\w.])(?P<it>\(\d{3,5}\)[ ]?\d{3,4}[ .-]?\d{3,4})(?!\w)"),
        ("telephone", r"(?<![\w.\-/])(?P<it>\d{3}-\d{3}-\d{4}|0\d{2,5}[ /-]\d{3,4}[ -]?\d{3,6})(?![\w\-/]|\.\d)"),
        ("e-mail", r"(?P<it>\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4})"),
        (
            "address",
            r"(?im:\b(?:home[ ]|postal[ ])?(?:address|anschrift|adresse)[ \t]{0,4}[:=][ \t]{0,8})"
            r"(?P<it>[^\n]{1,160})",
        ),
    )
)


def _announced(text: str) -> Iterator[tuple[int, int, str]]:
    for reason, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.span("it")
            if end > start:
                yield start, end, reason


# --- putting it together --------------------------------------------------------------------------


def _joined(spans: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Sorted spans without overlaps; a joined one keeps the reason of its first part."""
    out: list[tuple[int, int, str]] = []
    for start, end, reason in sorted(spans):
        if out and start < out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]), out[-1][2])
        else:
            out.append((start, end, reason))
    return out


def clean(text: str, identity: IdentityData, *former: IdentityData) -> CleanedText:
    """``text`` without the identifiers of the patient ``identity`` and without announced identifiers of anybody.

    :param former: further identities of the same person: those of the records that were merged into this one.
    :param text: any text that encodes to UTF-8; line ends stay.
    """
    folded, origin = _fold(text)
    known = (span for one in (identity, *former) for span in _known(folded, text, origin, one))
    spans = _joined((*known, *_announced(text)))
    pieces: list[str] = []
    removed: list[tuple[int, int, str]] = []
    position = offset = 0
    for start, end, reason in spans:
        kept, gone = text[position:start], text[start:end]
        pieces.append(kept)
        offset += len(kept.encode())
        # A line break stays one, so that lines keep their places.
        blank = "".join(char if char == "\n" else " " * len(char.encode()) for char in gone)
        pieces.append(blank)
        removed.append((offset, offset + len(blank), reason))
        offset += len(blank)
        position = end
    pieces.append(text[position:])
    return CleanedText("".join(pieces), tuple(removed))
