"""De-identification of one data set: bytes of a DICOM file in, bytes of a DICOM file out. Knows no database.

PS3.15 Annex E Basic Profile (113100) with Clean Descriptors (113105), Retain Longitudinal Temporal Information with
Modified Dates (113107) and Retain Patient Characteristics (113108). Safe private attributes are kept where the list has
them, and only then 113111 is declared. Sequences and the file meta information are walked; pixels are not changed.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from imaging.deidentification.rules import RULES, Rule, clean_age, clean_text, shift_date, value_allowed
from imaging.structure import BadStructure, content_start, scan
from oncoflow_site.foundation.errors import EngineError

__all__ = ["CODES", "DeidentificationRefused", "Deidentified", "Profile", "deidentify"]

# PS3.16 CID 7050, coding scheme DCM
CODES = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113111": "Retain Safe Private Option",
}
OUR_CODES = ("113100", "113105", "113107", "113108")
SENDERS_CODES = ("113101", "113102")  # done before it came to us; we neither do nor undo it
IMPLEMENTATION_UID = "2.25.191823450116390744170463115237429517521"
IMPLEMENTATION_NAME = "ONCOFLOW_1"
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 8
_SCHEME = BaseTag(0x00080102)
_SAFE_GROUPS = frozenset(group for _, group, _ in RULES.private)
_Raws = Mapping[BaseTag, Any]
_SCT = re.compile(r"\d{6,18}\Z")
_WRITTEN_BY_US = {0x00120062, 0x00120063, 0x00120064, 0x00280302, 0x00280303}


class DeidentificationRefused(EngineError):
    """The data set cannot be de-identified; the message holds nothing of it."""


@dataclass(frozen=True)
class Profile:
    """What is particular to a patient.

    :param pseudonym: stands for name and id.
    :param shift_days: added to every date, the same for all of the patient's studies.
    :param map_uid: consistent replacement of UIDs.
    """

    pseudonym: str
    shift_days: int
    map_uid: Callable[[str], str]


@dataclass(frozen=True)
class Deidentified:
    """The result for one instance.

    :param data: a DICOM file (preamble, file meta information, data set in the transfer syntax it came in).
    :param actions: how many attributes met which action of the table (X removed, Z emptied, D dummy, U UID replaced,
        C cleaned, S date shifted, A age, K kept, P private removed, PK safe private kept, V removed for its value).
    :param codes: CID 7050 codes written into (0012,0064).
    """

    data: bytes
    actions: Counter[str] = field(default_factory=Counter)
    codes: tuple[str, ...] = ()


class _Writer:
    """Serialises elements in the syntax of the source."""

    def __init__(self, implicit: bool, little: bool) -> None:
        self.implicit = implicit
        self.order = "<" if little else ">"
        self.little = little

    def element(self, tag: int, vr: str, value: bytes, *, undefined: bool = False) -> bytes:
        if len(value) % 2 and not undefined:
            value += b"\0" if vr in ("UI", "OB", "UN") else b" "
        length = _UNDEFINED if undefined else len(value)
        head = struct.pack(f"{self.order}HH", tag >> 16, tag & 0xFFFF)
        if self.implicit:
            head += struct.pack(f"{self.order}I", length)
        elif vr in _LONG:
            head += vr.encode() + b"\0\0" + struct.pack(f"{self.order}I", length)
        else:
            if length > 0xFFFF:
                raise DeidentificationRefused("a value is too long for its value representation")
            head += vr.encode() + struct.pack(f"{self.order}H", length)
        if undefined:
            return head + value + struct.pack(f"{self.order}HHI", 0xFFFE, 0xE0DD, 0)
        return head + value

    def item(self, content: bytes) -> bytes:
        return struct.pack(f"{self.order}HHI", 0xFFFE, 0xE000, len(content)) + content


def deidentify(data: bytes, profile: Profile) -> Deidentified:
    """De-identify one DICOM file.

    :raises DeidentificationRefused: it cannot be parsed or written, or is nested too deep. Nothing half done comes out.
    """
    try:
        syntax = UID(str(dcmread(BytesIO(memoryview(data)[: content_start(data)])).file_meta.TransferSyntaxUID))
        if syntax.is_deflated or not syntax.is_transfer_syntax:
            raise DeidentificationRefused("the transfer syntax is not supported")
        layout = scan(data, implicit=syntax.is_implicit_VR, little=syntax.is_little_endian)
        return _deidentify(dcmread(BytesIO(memoryview(data)[: layout.end])), syntax, profile)
    except DeidentificationRefused:
        raise
    except BadStructure as error:
        raise DeidentificationRefused(str(error)) from None
    except Exception as error:  # any parser error; its text may quote the data
        raise DeidentificationRefused(f"the data set cannot be parsed ({type(error).__name__})") from None


def _deidentify(source: Dataset, syntax: UID, profile: Profile) -> Deidentified:
    writer = _Writer(syntax.is_implicit_VR, syntax.is_little_endian)
    walk = _Walk(profile, writer)
    codes, earlier_no_face = _sender_codes(source)
    elements = dict(walk.elements(source, 0))
    if walk.actions["PK"]:
        codes = (*codes, "113111")
    codes = tuple(sorted({*OUR_CODES, *codes}))
    elements |= dict(_statement(writer, codes, face=not earlier_no_face))
    body = b"".join(elements[tag] for tag in sorted(elements))
    sop_class = str(source.get("SOPClassUID", ""))
    sop_instance = profile.map_uid(str(source.get("SOPInstanceUID", "")))
    if not sop_class or not sop_instance:
        raise DeidentificationRefused("the data set has no SOP Class or SOP Instance UID")
    return Deidentified(_meta(sop_class, sop_instance, str(syntax)) + body, walk.actions, codes)


def _meta(sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """Preamble and file meta information (PS3.10 section 7.1), written anew: nothing of the sender's survives."""
    explicit = _Writer(implicit=False, little=True)
    meta = b"".join(
        explicit.element(tag, vr, value)
        for tag, vr, value in (
            (0x00020001, "OB", b"\x00\x01"),
            (0x00020002, "UI", sop_class.encode()),
            (0x00020003, "UI", sop_instance.encode()),
            (0x00020010, "UI", syntax.encode()),
            (0x00020012, "UI", IMPLEMENTATION_UID.encode()),
            (0x00020013, "SH", IMPLEMENTATION_NAME.encode()),
        )
    )
    return b"\0" * 128 + b"DICM" + explicit.element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta


def _sender_codes(source: Dataset) -> tuple[tuple[str, ...], bool]:
    """Codes of what the sender did to the pixels, and whether it says that no face can be recognised."""
    items = source.get("DeidentificationMethodCodeSequence") or []
    given = {str(item.get("CodeValue", "")) for item in items if item.get("CodingSchemeDesignator") == "DCM"}
    codes = tuple(code for code in SENDERS_CODES if code in given)
    return codes, "113102" in codes and str(source.get("RecognizableVisualFeatures", "")) == "NO"


def _statement(writer: _Writer, codes: tuple[str, ...], *, face: bool) -> Iterator[tuple[int, bytes]]:
    """What was done: (0012,0062) to (0012,0064), (0028,0302) and (0028,0303), PS3.15 section E.2 and PS3.3 C.7.1.1."""
    yield 0x00120062, writer.element(0x00120062, "CS", b"YES")
    yield 0x00120063, writer.element(0x00120063, "LO", RULES.method.encode())
    items = b"".join(
        writer.item(
            writer.element(0x00080100, "SH", code.encode())
            + writer.element(0x00080102, "SH", b"DCM")
            + writer.element(0x00080104, "LO", CODES[code].encode()[:64])
        )
        for code in codes
    )
    yield 0x00120064, writer.element(0x00120064, "SQ", items)
    yield 0x00280302, writer.element(0x00280302, "CS", b"YES" if face else b"NO")
    yield 0x00280303, writer.element(0x00280303, "CS", b"MODIFIED")


class _Walk:
    """One pass over a data set and its sequences."""

    def __init__(self, profile: Profile, writer: _Writer) -> None:
        self.profile = profile
        self.writer = writer
        self.actions: Counter[str] = Counter()

    def elements(self, dataset: Dataset, depth: int) -> Iterator[tuple[int, bytes]]:
        """Serialised elements that survive, by tag."""
        if depth > _MAX_DEPTH:
            raise DeidentificationRefused("sequences are nested too deep")
        # Taken before anything is looked at: pydicom decodes an element (and its neighbours) on first access.
        raws: _Raws = {tag: dataset.get_item(tag) for tag in sorted(dataset.keys())}
        for tag in raws:
            number = int(tag)
            if number in _WRITTEN_BY_US or number & 0xFFFF == 0:
                continue
            if tag.is_private:
                yield from self._private(raws, tag)
                continue
            rule = RULES.by_tag.get(number)
            if rule is None:
                self.actions["X"] += 1
                continue
            written = (
                self._sequence(dataset, tag, depth)
                if rule.action == "sequence"
                else self._one(dataset, raws, tag, rule)
            )
            if written is not None:
                yield number, written

    def _raw(self, raws: _Raws, tag: BaseTag) -> tuple[str, bytes, bool]:
        """(VR, bytes, undefined length) as stored. An element pydicom has decoded already is of no use here."""
        raw = raws[tag]
        if not getattr(raw, "is_raw", False):
            return "", b"", False
        vr = raw.VR or ""
        if not vr or vr == "UN":
            # Implicit VR: the dictionary's. Of two possible ones (US or SS) the first; the bytes are the same.
            vr = dictionary_VR(tag).split(" or ")[0] if dictionary_has_tag(tag) else ""
        return vr, raw.value or b"", raw.length == _UNDEFINED

    def _one(self, dataset: Dataset, raws: _Raws, tag: BaseTag, rule: Rule) -> bytes | None:
        vr, value, undefined = self._raw(raws, tag)
        number = int(tag)
        if rule.action.startswith("D:"):
            self.actions["D"] += 1
            return self.writer.element(number, sorted(rule.vrs)[0], self.profile.pseudonym.encode())
        if rule.action == "Z":
            self.actions["Z"] += 1
            return self.writer.element(number, sorted(rule.vrs)[0], b"")
        if not vr or (undefined and rule.keyword != "PixelData"):
            self.actions["V"] += 1
            return None
        action = rule.action.split(":")[0]
        if rule.keyword == "PixelData":
            self.actions["K"] += 1
            return self.writer.element(
                number, vr, value if undefined else _trimmed(dataset, value), undefined=undefined
            )
        new = self._changed(raws, rule, vr, value)
        self.actions[action if new is not None else "V"] += 1
        return None if new is None else self.writer.element(number, vr, new)

    def _changed(self, raws: _Raws, rule: Rule, vr: str, value: bytes) -> bytes | None:
        if rule.action == "K":
            return value_allowed(rule, vr, value, self.writer.little)
        if vr not in rule.vrs:
            return None
        if rule.action == "U":
            return self._uids(value)
        if rule.action == "S":
            return shift_date(value, self.profile.shift_days)
        if rule.action == "A":
            return clean_age(value)
        if rule.action == "C:code":
            scheme = self._raw(raws, _SCHEME)[1] if _SCHEME in raws else b""
            return _clean_code(scheme.decode("latin-1").strip(" \0"), value)
        cleaned = clean_text(value)
        if rule.action == "C:contrast" and not cleaned and value.strip(b" \0"):
            return b"CONTRAST"  # that an agent was given must survive; which one, said in unknown words, need not
        return cleaned

    def _uids(self, value: bytes) -> bytes | None:
        parts = value.strip(b" \0").decode("latin-1").split("\\")
        if not all(re.fullmatch(r"[0-9.]{1,64}", part) for part in parts if part):
            return None
        return "\\".join(self.profile.map_uid(part) for part in parts).encode()

    def _sequence(self, dataset: Dataset, tag: BaseTag, depth: int) -> bytes | None:
        element = dataset[tag]
        if element.VR != "SQ":
            self.actions["V"] += 1
            return None
        items = []
        for item in element.value:
            content = dict(self.elements(item, depth + 1))
            items.append(self.writer.item(b"".join(content[number] for number in sorted(content))))
        self.actions["K"] += 1
        return self.writer.element(int(tag), "SQ", b"".join(items))

    def _private(self, raws: _Raws, tag: BaseTag) -> Iterator[tuple[int, bytes]]:
        """A private attribute survives only if (creator, group, element) is on the safe list and its value a number."""
        if tag.element < 0x1000:
            return  # a creator is written with the attribute that needs it
        if tag.group not in _SAFE_GROUPS:
            self.actions["P"] += 1
            return
        creator_tag = BaseTag((tag.group << 16) | (tag.element >> 8))
        creator = ""
        if creator_tag in raws:
            creator = self._raw(raws, creator_tag)[1].decode("latin-1").strip(" \0")
        wanted = RULES.private.get((creator, tag.group, tag.element & 0xFF))
        vr, value, undefined = self._raw(raws, tag)
        vr = wanted if wanted and not vr else vr
        if wanted is None or vr != wanted or undefined:
            self.actions["P"] += 1
            return
        rule = Rule("", "K", frozenset({wanted}), 9, None)
        if value_allowed(rule, vr, value, self.writer.little) is None:
            self.actions["V"] += 1
            return
        self.actions["PK"] += 1
        yield creator_tag, self.writer.element(creator_tag, "LO", creator.encode())
        yield int(tag), self.writer.element(int(tag), vr, value)


def _trimmed(dataset: Dataset, value: bytes) -> bytes:
    """Native pixels without anything behind the last pixel: bytes there are no image."""
    try:
        bits = (
            int(dataset.Rows)
            * int(dataset.Columns)
            * int(dataset.get("SamplesPerPixel", 1))
            * int(dataset.BitsAllocated)
        )
        size = (bits * int(dataset.get("NumberOfFrames") or 1) + 7) // 8
    except (AttributeError, TypeError, ValueError):
        raise DeidentificationRefused("the image does not say how large it is") from None
    return value[: size + size % 2]


def _verhoeff(digits: str) -> bool:
    """Check digit of a SNOMED CT identifier (Release File Specification, section 7.5, appendix)."""
    check = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(position % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        # multiplication in the dihedral group of order 10
        check = _dihedral(check, value)
    return check == 0


def _dihedral(a: int, b: int) -> int:
    if a < 5:
        return (a + b) % 5 if b < 5 else (a + b - 5) % 5 + 5
    return (a - 5 - b) % 5 + 5 if b < 5 else (a - b) % 5


def _clean_code(scheme: str, value: bytes) -> bytes | None:
    """A code value survives if its scheme could have issued it."""
    text = value.decode("latin-1").strip(" \0")
    fine = {
        "DCM": lambda: re.fullmatch(r"1[0-9]{5}", text),
        "SCT": lambda: _SCT.match(text) and _verhoeff(text),
        "SRT": lambda: re.fullmatch(r"[A-Z]-[0-9A-F]{5}", text),
        "UCUM": lambda: text in {"mm", "mm2", "mm3", "cm3", "ml", "1", "%"},
    }.get(scheme)
    return value if fine is not None and fine() else None
