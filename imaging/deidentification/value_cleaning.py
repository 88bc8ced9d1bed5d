"""What a value may look like to stay, and how it is cleaned. Values are the bytes they are stored in.

Text outside the allow-list of words never survives, whatever attribute it hides in, and a number must be a plausible number
of its attribute's kind. Whatever pydicom reads as a number, a time or a date of a kept attribute is one; where it is not
written as PS3.5 section 6.2 has it, it is written anew.
"""

from __future__ import annotations

import math
import re
import struct
from datetime import date, timedelta

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_has_tag
from pydicom.uid import UID_dictionary
from pydicom.valuerep import TEXT_VR_DELIMS, format_number_as_ds

from imaging.deidentification.descriptors import clean_version_text, clean_words, known_words
from imaging.deidentification.known_identity import NOBODY, KnownIdentity
from imaging.deidentification.profile import RULES, Rule

__all__ = [
    "clean_age",
    "clean_code",
    "clean_terms",
    "clean_text",
    "clean_version",
    "clean_words",
    "decoded",
    "shift_date",
    "value_allowed",
]

_DS = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\Z", re.ASCII)
_TM = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(?:\.(\d*))?)?)?\Z", re.ASCII)
_AS = re.compile(rb"(\d{1,3})([DWMYdwmy])\Z")
_DIRECTION = re.compile(r"[LRAPHF]{1,3}\Z|(LE|RT|D|V|CR|CD|M|L|DI|PR|PA|PL){1,3}\Z")
_SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "AT": 4, "OF": 4, "OD": 8, "UV": 8, "SV": 8}
_LENGTHS = {"SH": 16, "CS": 16, "ST": 1024, "LT": 10240, "UT": 10240, "UC": 10240}
MOST_TEXT = 64
MOST_PARTS = 1024
MOST_DECIMAL = 26  # of a double written with all its digits
LARGEST = 1e7  # a number of more than seven digits before the point is a telephone number before it is a measurement
# In hertz instead of megahertz: proton, fluorine, phosphorus, sodium, carbon at the field strengths that are sold.
_HERTZ = frozenset({"ImagingFrequency", "TransmitterFrequency"})
_MHZ_PER_TESLA = (42.577, 40.078, 17.235, 11.262, 10.708)
_TESLA = (0.2, 0.35, 0.55, 1.0, 1.5, 3.0, 7.0)
# Values of these may use their whole range; for any other, two printable letters would make an implausible number.
_PIXEL_VALUES = frozenset(
    {
        "SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit",
        "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
    }
)  # fmt: skip
_SCT = re.compile(r"\d{6,18}\Z", re.ASCII)


def decoded(value: bytes, character_set: tuple[str, ...]) -> str:
    """Stored text in any of the standard's character sets (PS3.5 section 6.1). Never fails: what cannot be read becomes a
    replacement character, which is part of no word of ours."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        return decode_bytes(value, convert_encodings(list(character_set)), TEXT_VR_DELIMS)
    except (LookupError, ValueError, AttributeError):
        return value.decode("ascii", "replace")


def _limited(text: str, vr: str) -> bytes:
    return text.encode()[: _LENGTHS.get(vr, MOST_TEXT)].strip()


def clean_text(
    value: bytes,
    character_set: tuple[str, ...] = (),
    known: KnownIdentity = NOBODY,
    vr: str = "LO",
    rule: Rule | None = None,
) -> bytes:
    """`clean_words` for stored bytes: as long as its VR allows, ASCII: no character set needs to be declared for it."""
    text = decoded(value.rstrip(b" \0"), character_set)
    if rule is not None and text.strip() in rule.terms:
        return value.strip(b" \0")
    return _limited(clean_words(text, known), vr)


def clean_version(value: bytes, character_set: tuple[str, ...] = (), known: KnownIdentity = NOBODY) -> bytes:
    """Software versions, see `descriptors.clean_version_text`: one component by one."""
    text = decoded(value.rstrip(b" \0"), character_set)
    parts = [clean_version_text(part, known)[:MOST_TEXT].strip() for part in text.split("\\")]
    return "\\".join(part for part in parts if part).encode()


def clean_terms(value: bytes, rule: Rule, known: KnownIdentity = NOBODY) -> bytes:
    """A code string: a component that is neither a term of the standard nor made of known words becomes OTHER (where it is
    the only one: removed). Empty components stay, as their places count."""
    parts = [part.strip(" \0") for part in value.decode("ascii", "replace").strip(" \0").split("\\")]
    kept: list[str] = []
    for part in parts:
        if part in rule.terms or not part or (not rule.closed and _is_term(part, rule, known)):
            kept.append(part)
        elif len(parts) > 1 and not rule.closed:
            kept.append("OTHER")
    return "\\".join(kept).encode() if any(kept) else b""


def _is_term(part: str, rule: Rule, known: KnownIdentity) -> bool:
    if not part.isascii() or len(part) > MOST_TEXT:
        return False
    if rule.keyword == "PatientOrientation":
        return _DIRECTION.match(part) is not None
    if part.upper() in RULES.all_terms:
        return not known.names_person(part) or part.upper() in rule.terms
    return len(part) <= 16 and known_words(part, known)


_DATE = re.compile(
    r"(\d{4})([-./]?)(\d{2})\2(\d{2})(?:[T ]?(\d{2}:?(?:\d{2}:?(?:\d{2}(?:\.\d*)?)?)?)?(?:Z|[+-]\d{2}:?\d{2})?)\Z",
    re.ASCII,
)


def shift_date(value: bytes, days: int) -> bytes:
    """A DA or DT value (one or several) moved by ``days``; empty where it is not a date, component by component. Written as
    PS3.5 has it, however it came (2026-03-11, 2026.03.11). The time of day stays; the zone of a DT goes, since summer or
    winter time would tell the season."""
    moved = [_shifted(part.strip(b" \0").decode("latin-1"), days) for part in value.strip(b" \0").split(b"\\")]
    return "\\".join(moved).encode() if any(moved) else b""


def _shifted(text: str, days: int) -> str:
    match = _DATE.match(text)
    if match is None:
        return ""
    try:
        day = date(int(match[1]), int(match[3]), int(match[4])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    clock = (match[5] or "").replace(":", "")
    seconds, point, fraction = clock.partition(".")
    return f"{day:%Y%m%d}{seconds}" + (f".{fraction[:6]}" if point and fraction else "")


def clean_age(value: bytes) -> bytes:
    """Ages over 89 years become 090Y (45 CFR 164.514(b)(2)(i)(C)); anything that is no age becomes empty."""
    match = _AS.match(value.strip(b" \0"))
    if match is None:
        return b""
    unit = match[2].upper()
    years = int(match[1]) / {b"Y": 1, b"M": 12, b"W": 52, b"D": 365}[unit]
    return b"090Y" if years > 89 else match[1].zfill(3) + unit


def _decimal(text: str, rule: Rule, known: KnownIdentity) -> str | None:
    """A decimal string; None where it is no number, or more than a measurement is. One that is longer than the 16 characters
    of the standard is shortened where that leaves the number what it is, and stays as it was sent where it does not."""
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number) or (abs(number) >= LARGEST and not _is_frequency(number, rule)):
        return None
    if known.is_number(text) and not rule.needed:
        return None
    if len(text) <= 16 and _DS.match(text):
        return text
    short = format_number_as_ds(number)
    return text if float(short) != number and len(text) <= MOST_DECIMAL and _DS.match(text) else short


def _is_frequency(number: float, rule: Rule) -> bool:
    return rule.keyword in _HERTZ and any(
        abs(number / (gamma * tesla * 1e6) - 1) < 0.03 for gamma in _MHZ_PER_TESLA for tesla in _TESLA
    )


def _integer(text: str, rule: Rule, known: KnownIdentity) -> str | None:
    """An integer string, at most 12 characters. pydicom reads "1.0" and "1e3" too; where it reads a fraction, that stays."""
    decimal = _decimal(text, rule, known)
    if decimal is None or (re.fullmatch(r"[+-]?\d{1,11}", decimal, re.ASCII) and len(text) <= 12):
        return decimal
    number = float(decimal)
    return str(int(number)) if number == int(number) else decimal


def _time(text: str, rule: Rule, known: KnownIdentity) -> str | None:
    """A time of day: HHMMSS.FFFFFF, or shorter; with colons as ACR-NEMA had them."""
    match = _TM.match(text)
    if match is None:
        return None
    clock = "".join(part for part in match.groups()[:3] if part)
    return clock + (f".{match[4][:6]}" if match[4] else "")


_TEXT_NUMBERS = {"DS": _decimal, "IS": _integer, "TM": _time}


def _numbers(rule: Rule, vr: str, stripped: bytes, known: KnownIdentity) -> bytes | None:
    """All components, or None where one of them is no number: the others would change their places."""
    parts = stripped.decode("latin-1").split("\\")
    if len(parts) > max(rule.count, MOST_PARTS):
        return None
    read = _TEXT_NUMBERS[vr]
    kept: list[str] = []
    for part in parts:
        text = part.strip(" \0\t\r\n")
        new = read(text, rule, known) if text else ""
        if new is None or not new.isascii():
            return None
        kept.append(new)
    return "\\".join(kept).encode()


def _plausible(rule: Rule, vr: str, value: bytes, little: bool) -> bool:
    order = "<" if little else ">"
    if vr in ("FL", "FD"):
        numbers = struct.unpack(f"{order}{len(value) // _SIZES[vr]}{'f' if vr == 'FL' else 'd'}", value)
        small = 1e-60 if vr == "FD" else 1e-12  # eight digits or letters are far from both ends
        return all(number == 0 or small < abs(number) < LARGEST or _is_frequency(number, rule) for number in numbers)
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


def value_allowed(rule: Rule, vr: str, value: bytes, little: bool, known: KnownIdentity = NOBODY) -> bytes | None:
    """The value of a kept attribute if it is what its attribute may hold (perhaps cleaned), else None: removed."""
    if vr not in rule.vrs:
        return None
    size = _SIZES.get(vr)
    if size is not None:
        if len(value) % size or len(value) > rule.count * size:
            return None
        if rule.keyword in _PIXEL_VALUES:
            return value
        if not _plausible(rule, vr, value, little):
            return None
        return _without_letters(value, little) if vr == "FL" else value
    if vr in ("CS", "SH", "LO"):
        return clean_terms(value, rule, known) or None
    stripped = value.strip(b" \0")
    if vr == "UI":  # kept only where the standard itself defines the UID
        uids = [part.strip(" \0") for part in stripped.decode("latin-1").split("\\")]
        return "\\".join(uids).encode() if rule.action == "K" and all(uid in UID_dictionary for uid in uids) else None
    if vr not in _TEXT_NUMBERS:
        return None
    return stripped if not stripped else _numbers(rule, vr, stripped, known)


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


def _mod10(code: str) -> bool:
    """Check digit of a LOINC code (LOINC Users' Guide, appendix on the check digit: modulus 10, doubled from the right)."""
    digits, _, check = code.partition("-")
    doubled = "".join(
        str(int(digit) * (2 if position % 2 == 0 else 1)) for position, digit in enumerate(reversed(digits))
    )
    return (10 - sum(map(int, doubled)) % 10) % 10 == int(check)


_CODES = {
    "DCM": r"1[0-9]{5}",
    "SRT": r"[A-Z]-[0-9A-F]{5}",
    "SNM3": r"[A-Z]-[0-9A-F]{5}",
    "LN": r"\d{1,5}-\d",
    "RADLEX": r"RID\d{1,5}",
    "RPID": r"RPID\d{1,5}",
    "I10": r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?",
    "I10C": r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?",
    "ICDO3": r"(8|9)\d{3}/[0-9]|C\d{2}(\.\d)?",
    "NCIt": r"C\d{4,6}",
    "UMLS": r"C\d{7}",
    "C4": r"7\d{4}",
}


def clean_code(scheme: str, value: bytes, known: KnownIdentity = NOBODY) -> bytes | None:
    """A code value survives if its scheme could have issued it."""
    text = value.decode("ascii", "replace").strip(" \0")
    if scheme == "UCUM":
        fine = text in {
            "mm",
            "mm2",
            "mm3",
            "cm3",
            "ml",
            "1",
            "%",
            "s",
            "ms",
            "mm2/s",
            "um2/s",
            "s/mm2",
            "ml/100g/min",
            "Hz",
            "ppm",
            "deg",
            "kg",
            "T",
            "[hnsf'U]",
            "{ratio}",
        }
    elif scheme == "SCT":
        fine = _SCT.match(text) is not None and _verhoeff(text)
    else:
        pattern = _CODES.get(scheme)
        fine = pattern is not None and re.fullmatch(pattern, text, re.ASCII) is not None
        fine = fine and (scheme != "LN" or _mod10(text))
    return value if fine and not known.is_identifier(text) else None
