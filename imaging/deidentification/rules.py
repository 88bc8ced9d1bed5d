"""The rules of de-identification, read from ``data/profile.json``, and what values they let through.

PS3.15 Annex E. Values are handled as the bytes they are stored in: text outside the allow-list of words never survives,
whatever attribute it hides in, and a number must be a plausible number of its attribute's kind.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, tag_for_keyword

__all__ = ["RULES", "Rule", "Rules", "clean_age", "clean_text", "clean_words", "shift_date", "value_allowed"]

_DATA = Path(__file__).with_name("data") / "profile.json"
_SPLIT = re.compile(r"[^A-Za-z0-9.]+")
_NUMBERED = re.compile(r"(\d{1,2}(mm|ms|d)|\d(\.\d)?t|p\d|iso\d?|b\d{3,4}|t[12])\Z")
_DS = re.compile(rb"[+-]?(\d{1,6}(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?\Z")
_IS = re.compile(rb"[+-]?\d{1,6}\Z")
_TM = re.compile(rb"([01]\d|2[0-3])([0-5]\d([0-6]\d(\.\d{1,6})?)?)?\Z")
_AS = re.compile(rb"(\d{3})([DWMY])\Z")
_UID = re.compile(rb"[0-9.]{1,64}\Z")
_SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "AT": 4, "OF": 4, "OD": 8, "UV": 8, "SV": 8}
# Values of these may use their whole range; for any other, two printable letters would make an implausible number.
_PIXEL_VALUES = frozenset({"SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue"})
_RAW = frozenset(
    {"PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"}
)


@dataclass(frozen=True)
class Rule:
    """What happens to one attribute: ``action`` as in the table, with the attribute's VRs and largest multiplicity."""

    keyword: str
    action: str
    vrs: frozenset[str]
    count: int
    terms: frozenset[str] | None


@dataclass(frozen=True)
class Rules:
    """The whole table. ``by_tag`` lacks what is to be removed."""

    by_tag: dict[int, Rule]
    words: frozenset[str]
    private: dict[tuple[str, int, int], str]
    method: str


def _count(vm: str) -> int:
    last = vm.rsplit("-", 1)[-1]
    return int(last) if last.isdigit() else 64


def _load() -> Rules:
    data = json.loads(_DATA.read_text(encoding="utf-8"))
    terms = {keyword: frozenset(values.split()) for keyword, values in data["terms"].items()}
    rules: dict[int, Rule] = {}
    for action, lines in data["actions"].items():
        for keyword in " ".join(lines).split():
            tag = tag_for_keyword(keyword)
            if tag is None or tag in rules:
                raise ValueError(f"profile.json: {keyword} is unknown or named twice")
            vrs = frozenset(dictionary_VR(tag).replace(" or ", " ").split())
            rules[tag] = Rule(keyword, action, vrs, _count(dictionary_VM(tag)), terms.get(keyword))
    private = {}
    for entry in data["safe_private"]["entries"]:
        creator, group, element, vr = entry.split("|")
        private[creator, int(group, 16), int(element, 16)] = vr
    return Rules(rules, frozenset(" ".join(data["words"]).split()), private, data["method"])


RULES = _load()


def _known(word: str) -> bool:
    lowered = word.lower().strip(".")
    return lowered in RULES.words or bool(_NUMBERED.match(lowered))


@lru_cache(maxsize=8192)
def clean_words(text: str) -> str:
    """``text`` reduced to the words on the allow-list, joined by blanks (option 113105, Clean Descriptors)."""
    return " ".join(word for word in _SPLIT.split(text) if word and _known(word))


def clean_text(value: bytes) -> bytes:
    """`clean_words` for stored bytes of any character set: only ASCII words can be on the list. At most 64 bytes."""
    return clean_words(value.decode("latin-1")).encode("ascii", "ignore")[:64].strip()


@lru_cache(maxsize=8192)
def _clean_codes(value: bytes, terms: frozenset[str] | None) -> bytes:
    """A code string: a component that is not made of known words becomes OTHER (where it is the only one: removed)."""
    parts = value.decode("latin-1").strip(" \0").split("\\")
    kept = []
    for part in parts:
        part = part.strip()
        words = [word for word in _SPLIT.split(part) if word]
        fine = part in terms if terms is not None else len(part) <= 16 and all(_known(word) for word in words)
        if fine:
            kept.append(part)
        elif len(parts) > 1 and terms is None:
            kept.append("OTHER")
    return "\\".join(kept).encode("ascii", "ignore")


def shift_date(value: bytes, days: int) -> bytes:
    """A DA or DT value (one or several) moved by ``days``; empty when it is not a date. The time of day stays."""
    moved = []
    for part in value.strip(b" \0").split(b"\\"):
        text = part.strip().decode("latin-1")
        match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})(\d{0,6}(?:\.\d{1,6})?)(?:[+-]\d{4})?", text)
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
    if vr in ("US", "UL"):
        limit = 8192 if vr == "US" else 1 << 20
        return all(
            number < limit
            for number in struct.unpack(f"{order}{len(value) // _SIZES[vr]}{'H' if vr == 'US' else 'I'}", value)
        )
    if vr == "AT":
        pairs = struct.unpack(f"{order}{len(value) // 2}H", value)
        return all(dictionary_has_tag((pairs[i] << 16) | pairs[i + 1]) for i in range(0, len(pairs), 2))
    return vr in ("SS", "SL")


def value_allowed(rule: Rule, vr: str, value: bytes, little: bool) -> bytes | None:
    """The value of a kept attribute if it is what its attribute may hold (perhaps cleaned), else None: removed."""
    if rule.keyword in _RAW:
        return value if vr in rule.vrs | {"OB", "OW"} else None
    if vr not in rule.vrs:
        return None
    if vr in _SIZES:
        size = _SIZES[vr]
        if len(value) % size or len(value) > rule.count * size:
            return None
        fine = rule.keyword in _PIXEL_VALUES or _plausible(vr, value, little)
        return value if fine else None
    if vr in ("CS", "SH"):
        return _clean_codes(value, rule.terms) or None
    stripped = value.strip(b" \0")
    if vr == "UI":  # kept only where the standard itself defines the UID
        return value if _UID.match(stripped) and stripped.startswith(b"1.2.840.10008.") and rule.action == "K" else None
    pattern = {"DS": _DS, "IS": _IS, "TM": _TM}.get(vr)
    if pattern is None:
        return None
    parts = stripped.split(b"\\")
    fine = not stripped or (len(parts) <= rule.count and all(pattern.match(part.strip()) for part in parts))
    return value if fine else None
