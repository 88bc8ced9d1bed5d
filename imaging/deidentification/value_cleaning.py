"""What a value may look like to stay, and how it is cleaned. Values are the bytes they are stored in.

Text outside the allow-list of words never survives, whatever attribute it hides in, and a number must be a plausible number
of its attribute's kind.
"""

from __future__ import annotations

import re
import struct
from datetime import date, timedelta
from functools import lru_cache

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_has_tag
from pydicom.uid import UID_dictionary
from pydicom.valuerep import TEXT_VR_DELIMS

from imaging.deidentification.profile import RULES, Rule

__all__ = [
    "clean_age",
    "clean_code",
    "clean_text",
    "clean_version",
    "clean_words",
    "decoded",
    "shift_date",
    "value_allowed",
    "words_of",
]

_SPLIT = re.compile(r"[^\w.]+|_+")
_NUMBERED = re.compile(r"(\d{1,2}(mm|ms|d)|\d(\.\d)?t|p\d|iso\d?|b\d{3,4}|t[12])\Z")
_VERSION = re.compile(r"[A-Za-z]{0,3}\d{1,3}([._-]?[A-Za-z]{0,2}\d{1,3}){0,4}[A-Za-z]?\Z")
_DS = re.compile(rb"[+-]?(\d{1,6}(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?\Z")
_IS = re.compile(rb"[+-]?\d{1,6}\Z")
_TM = re.compile(rb"([01]\d|2[0-3])([0-5]\d([0-6]\d(\.\d{1,6})?)?)?\Z")
_AS = re.compile(rb"(\d{3})([DWMY])\Z")
_SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "AT": 4, "OF": 4, "OD": 8, "UV": 8, "SV": 8}
# Values of these may use their whole range; for any other, two printable letters would make an implausible number.
_PIXEL_VALUES = frozenset(
    {
        "SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit",
        "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
    }
)  # fmt: skip
_SCT = re.compile(r"\d{6,18}\Z")
MOST_TEXT = 64


def decoded(value: bytes, character_set: tuple[str, ...]) -> str:
    """Stored text in any of the standard's character sets (PS3.5 section 6.1). Never fails: what cannot be read becomes a
    replacement character, which is part of no word of ours."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        return decode_bytes(value, convert_encodings(list(character_set)), TEXT_VR_DELIMS)
    except (LookupError, ValueError, AttributeError):
        return value.decode("ascii", "replace")


def words_of(text: str) -> list[str]:
    """The words of a text. A letter of any script belongs to its word: no piece of a name is taken for a word of ours."""
    return [word for word in _SPLIT.split(text) if word]


def _known(word: str) -> bool:
    lowered = word.lower().strip(".")
    return lowered in RULES.words or bool(_NUMBERED.match(lowered))


@lru_cache(maxsize=8192)
def clean_words(text: str, names: frozenset[str] = frozenset()) -> str:
    """``text`` reduced to the words on the allow-list, joined by blanks (option 113105, Clean Descriptors).

    :param names: words, lower case, that are part of a name in this data set: a patient may be called Sharp.
    """
    kept = [word for word in words_of(text) if word.isascii() and _known(word) and word.lower() not in names]
    return " ".join(kept)


def clean_text(value: bytes, character_set: tuple[str, ...] = (), names: frozenset[str] = frozenset()) -> bytes:
    """`clean_words` for stored bytes. At most 64 bytes, ASCII: no character set needs to be declared for it."""
    return clean_words(decoded(value.rstrip(b" \0"), character_set), names).encode()[:MOST_TEXT].strip()


def clean_version(value: bytes, character_set: tuple[str, ...] = (), names: frozenset[str] = frozenset()) -> bytes:
    """Software versions: known words and short version numbers (at most three digits in a row), nothing longer."""
    parts = []
    for part in decoded(value.rstrip(b" \0"), character_set).split("\\"):
        kept = [
            word
            for word in re.split(r"[\s:;,/()]+", part)
            if word.isascii() and (_VERSION.match(word) or _known(word)) and word.lower() not in names
        ]
        parts.append(" ".join(kept)[:MOST_TEXT].strip())
    return "\\".join(part for part in parts if part).encode()


@lru_cache(maxsize=8192)
def _clean_terms(value: bytes, terms: frozenset[str] | None) -> bytes:
    """A code string: a component that is not made of known words becomes OTHER (where it is the only one: removed)."""
    parts = value.decode("ascii", "replace").strip(" \0").split("\\")
    kept = []
    for part in parts:
        part = part.strip()
        fine = part in terms if terms is not None else len(part) <= 16 and all(_known(word) for word in words_of(part))
        if fine and part.isascii():
            kept.append(part)
        elif len(parts) > 1 and terms is None:
            kept.append("OTHER")
    return "\\".join(kept).encode()


def shift_date(value: bytes, days: int) -> bytes:
    """A DA or DT value (one or several) moved by ``days``; empty when it is not a date. The time of day stays; the zone of
    a DT goes, since summer or winter time would tell the season."""
    moved = []
    for part in value.strip(b" \0").split(b"\\"):
        text = part.strip().decode("latin-1")
        match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})(\d{0,6}(?:\.\d{1,6})?)(?:[+-]\d{4})?", text, re.ASCII)
        if match is None:
            return b""
        try:
            day = date(int(match[1]), int(match[2]), int(match[3])) + timedelta(days=days)
        except (ValueError, OverflowError):
            return b""
        moved.append(f"{day:%Y%m%d}{match[4]}".encode())
    return b"\\".join(moved)


def clean_age(value: bytes) -> bytes:
    """Ages over 89 years become 090Y (45 CFR 164.514(b)(2)(i)(C)); anything that is no age becomes empty."""
    match = _AS.match(value.strip(b" \0"))
    if match is None:
        return b""
    years = int(match[1]) / {b"Y": 1, b"M": 12, b"W": 52, b"D": 365}[match[2]]
    return b"090Y" if years > 89 else match[0]


def _plausible(vr: str, value: bytes, little: bool) -> bool:
    order = "<" if little else ">"
    if vr in ("FL", "FD"):
        numbers = struct.unpack(f"{order}{len(value) // _SIZES[vr]}{'f' if vr == 'FL' else 'd'}", value)
        return all(number == 0 or 1e-12 < abs(number) < 1e7 for number in numbers)
    if vr in ("US", "UL", "SS", "SL"):
        form = {"US": "H", "UL": "I", "SS": "h", "SL": "i"}[vr]
        limit = 8192 if vr in ("US", "SS") else 1 << 20
        return all(abs(n) < limit for n in struct.unpack(f"{order}{len(value) // _SIZES[vr]}{form}", value))
    if vr == "AT":
        pairs = struct.unpack(f"{order}{len(value) // 2}H", value)
        return all(dictionary_has_tag((pairs[i] << 16) | pairs[i + 1]) for i in range(0, len(pairs), 2))
    return False


def _without_letters(value: bytes, little: bool) -> bytes:
    """FL values whose four bytes all are letters or digits, rounded by 3e-5 of their value: 12.894 may spell a name."""
    found = [value[i : i + 4] for i in range(0, len(value), 4)]
    if not any(one.isalnum() for one in found):
        return value
    return b"".join(((b"\0" + one[1:]) if little else (one[:3] + b"\0")) if one.isalnum() else one for one in found)


def value_allowed(rule: Rule, vr: str, value: bytes, little: bool) -> bytes | None:
    """The value of a kept attribute if it is what its attribute may hold (perhaps cleaned), else None: removed."""
    if vr not in rule.vrs:
        return None
    size = _SIZES.get(vr)
    if size is not None:
        if len(value) % size or len(value) > rule.count * size:
            return None
        if rule.keyword in _PIXEL_VALUES:
            return value
        if not _plausible(vr, value, little):
            return None
        return _without_letters(value, little) if vr == "FL" else value
    if vr in ("CS", "SH", "LO"):
        return _clean_terms(value, rule.terms) or None
    stripped = value.strip(b" \0")
    if vr == "UI":  # kept only where the standard itself defines the UID
        return value if rule.action == "K" and stripped.decode("latin-1") in UID_dictionary else None
    pattern = {"DS": _DS, "IS": _IS, "TM": _TM}.get(vr)
    if pattern is None:
        return None
    parts = stripped.split(b"\\")
    fine = not stripped or (len(parts) <= rule.count and all(pattern.match(part.strip()) for part in parts))
    return value if fine else None


def _verhoeff(digits: str) -> bool:
    """Check digit of a SNOMED CT identifier (Release File Specification, section 7.5, appendix)."""
    check = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(position % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        check = _dihedral(check, value)
    return check == 0


def _dihedral(a: int, b: int) -> int:
    """Multiplication in the dihedral group of order 10."""
    if a < 5:
        return (a + b) % 5 if b < 5 else (a + b - 5) % 5 + 5
    return (a - 5 - b) % 5 + 5 if b < 5 else (a - b) % 5


def clean_code(scheme: str, value: bytes) -> bytes | None:
    """A code value survives if its scheme could have issued it."""
    text = value.decode("ascii", "replace").strip(" \0")
    fine = {
        "DCM": lambda: re.fullmatch(r"1[0-9]{5}", text, re.ASCII),
        "SCT": lambda: _SCT.match(text) and text.isascii() and _verhoeff(text),
        "SRT": lambda: re.fullmatch(r"[A-Z]-[0-9A-F]{5}", text),
        "UCUM": lambda: text in {"mm", "mm2", "mm3", "cm3", "ml", "1", "%"},
    }.get(scheme)
    return value if fine is not None and fine() else None
