"""De-identification of one data set: bytes of a DICOM file in, bytes of a DICOM file out. Knows no database.

PS3.15 Annex E Basic Profile (113100) with Clean Descriptors (113105), Retain Longitudinal Temporal Information with
Modified Dates (113107) and Retain Patient Characteristics (113108). Safe private attributes are kept where the list has
them, and only then 113111 is declared. Sequences and the file meta information are walked; the image is not changed.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_keyword
from pydicom.uid import UID

from imaging.deidentification import value_cleaning
from imaging.deidentification.codestream_comments import HiddenText
from imaging.deidentification.known_identity import NOBODY, KnownIdentity
from imaging.deidentification.persons import persons_of
from imaging.deidentification.pixel_data import PIXEL_DATA, pixel_data
from imaging.deidentification.profile import RULES, Rule
from imaging.dicom.elements import Element, ElementReader, ElementWriter, MalformedDataSet, known_vr
from imaging.dicom.file_meta import content_start, file_meta
from imaging.dicom.part10 import WRITER, well_formed
from imaging.dicom.transfer_syntaxes import EXPLICIT_LITTLE
from imaging.dicom.written_file import WrittenFile
from oncoflow_site.foundation.errors import EngineError

__all__ = [
    "CODES",
    "DeidentificationRefused",
    "Deidentified",
    "Deidentifier",
    "PatientProfile",
    "PixelStatement",
    "deidentify",
]

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
OUR_CODES = ("113100", *RULES.options)
SENDERS_CODES = ("113101", "113102")  # done before it came to us; we neither do nor undo it
STANDARD_ROOT = b"1.2.840.10008."
MAX_INFLATED = 1 << 30
_MAX_DEPTH = 8
_CACHED_BYTES = 512
_CACHED_VALUES = 50_000
_SAFE_GROUPS = frozenset(group for _, group, _ in RULES.private)
_WRITTEN_BY_US = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280301, 0x00280302, 0x00280303})
_UIDS = re.compile(r"[0-9.]{1,64}")
_Key = tuple[int, str, str]


class DeidentificationRefused(EngineError):
    """The data set cannot be de-identified; the message holds nothing of it."""


@dataclass(frozen=True)
class PatientProfile:
    """What is particular to a patient.

    :param pseudonym: stands for name and id.
    :param shift_days: added to every date, the same for all of the patient's studies.
    :param map_uid: consistent replacement of UIDs.
    :param known: the patient's names and numbers, looked for in whatever stays, besides those of the data set itself.
    """

    pseudonym: str
    shift_days: int
    map_uid: Callable[[str], str]
    known: KnownIdentity = field(default=NOBODY, repr=False)


@dataclass(frozen=True)
class PixelStatement:
    """What was done to the pixels besides this engine, for (0028,0301), (0028,0302) and the codes.

    :param no_text: somebody or something looked at every frame and found no burned-in text (113101).
    :param no_face: the face was removed (113102).
    """

    no_text: bool = False
    no_face: bool = False


@dataclass(frozen=True)
class Deidentified:
    """The result for one instance.

    :param report: (tag, VR, action of `imaging.deidentification.profile.ACTIONS`) -> how many. Private tags are reported by
        their group alone, as (group << 16), unless they are on the safe list. No values.
    :param file: the DICOM file in the transfer syntax it came in (a deflated one comes out as Explicit VR Little Endian),
        with the elements it was joined from: its header need not be parsed again.
    :param codes: CID 7050 codes written into (0012,0064).
    :param image_type: (0008,0008) and :param burned_in: (0028,0301) as they were sent, to judge the pixels by. Not to be
        shown: they are the sender's.
    """

    file: WrittenFile
    report: Counter[_Key] = field(default_factory=Counter)
    codes: tuple[str, ...] = ()
    image_type: tuple[str, ...] = field(default=(), repr=False)
    burned_in: str = field(default="", repr=False)

    @property
    def data(self) -> bytes:
        """A DICOM file (preamble, file meta information, data set)."""
        return self.file.data

    @property
    def actions(self) -> Counter[str]:
        """How many attributes met which action."""
        counts: Counter[str] = Counter()
        for (_, _, action), number in self.report.items():
            counts[action] += number
        return counts


def deidentify(data: bytes, profile: PatientProfile, pixels: PixelStatement | None = None) -> Deidentified:
    """De-identify one DICOM file. For many of one patient, a `Deidentifier` is faster.

    :raises DeidentificationRefused: it cannot be parsed or written, or is nested too deep. Nothing half done comes out.
    """
    return Deidentifier(profile)(data, pixels)


class Deidentifier:
    """De-identifies the files of one patient, and remembers what it made of an element: those of a series are mostly alike."""

    def __init__(self, profile: PatientProfile) -> None:
        self.profile = profile
        self._caches: dict[object, dict[bytes, tuple[bytes | None, _Key]]] = {}

    def __call__(self, data: bytes, pixels: PixelStatement | None = None) -> Deidentified:
        """:raises DeidentificationRefused: see `deidentify`."""
        try:
            return self._file(data, pixels or PixelStatement())
        except (MalformedDataSet, HiddenText) as error:
            raise DeidentificationRefused(str(error)) from None
        except (struct.error, IndexError, ValueError, zlib.error) as error:  # their text may quote the data
            raise DeidentificationRefused(f"the data set cannot be parsed ({type(error).__name__})") from None

    def _file(self, data: bytes, pixels: PixelStatement) -> Deidentified:
        data = well_formed(data)
        start = content_start(data)
        syntax = _transfer_syntax(data, start)
        if syntax.is_deflated:
            data, start, syntax = _inflated(data[start:]), 0, UID(EXPLICIT_LITTLE)
        reader = ElementReader(data, little=syntax.is_little_endian)
        elements = reader.elements(start, len(data), implicit=syntax.is_implicit_VR)
        by_tag = {element.tag: element for element in elements}
        value = {tag: _stripped(data, by_tag, tag) for tag in (0x00080005, 0x00080016, 0x00080018)}
        character_set = tuple(value[0x00080005].decode("ascii", "replace").split("\\"))
        sop_class = value[0x00080016].decode("ascii", "replace")
        sop_instance = value[0x00080018].decode("ascii", "replace")
        if not value[0x00080016].startswith(STANDARD_ROOT) or not _UIDS.fullmatch(sop_class):
            raise DeidentificationRefused("the data set is of no SOP class of the standard")
        if not _UIDS.fullmatch(sop_instance):
            raise DeidentificationRefused("the data set has no SOP Instance UID")
        known = self.profile.known | persons_of(data, elements, syntax, character_set)
        context = (syntax.is_implicit_VR, syntax.is_little_endian, sop_class, character_set, known)
        cache = self._caches.setdefault(context, {})
        if len(self._caches) > 8 or len(cache) > _CACHED_VALUES:
            self._caches = {context: (cache := {})}
        writer = ElementWriter(implicit=syntax.is_implicit_VR, little=syntax.is_little_endian)
        walk = _DeidentifyingWalk(self.profile, reader, writer, str(syntax), sop_class, character_set, known, cache)
        written = dict(walk.elements(elements, 0))
        codes, no_face = _sender_codes(reader, by_tag)
        if walk.report_has("PK"):
            codes = (*codes, "113111")
        ours = tuple(code for code, done in (("113101", pixels.no_text), ("113102", pixels.no_face)) if done)
        codes = tuple(sorted({*OUR_CODES, *codes, *ours}))
        burned_in = b"NO" if pixels.no_text else _said(data, by_tag)
        written |= dict(_statement(writer, codes, burned_in, face=not (no_face or pixels.no_face)))
        # Written anew: nothing of the sender's preamble and file meta information survives.
        meta = file_meta(sop_class, self.profile.map_uid(sop_instance), str(syntax), WRITER)
        image_type = tuple(_stripped(data, by_tag, 0x00080008).decode("ascii", "replace").split("\\"))
        said = _stripped(data, by_tag, 0x00280301).decode("ascii", "replace")
        return Deidentified(WrittenFile.of(meta, written, syntax), walk.report, codes, image_type, said)


def _transfer_syntax(data: bytes, start: int) -> UID:
    reader = ElementReader(data, little=True)
    for element in reader.elements(132, start, implicit=False):
        if element.tag == 0x00020010:
            syntax = UID(data[element.start : element.end].rstrip(b" \0").decode("ascii", "replace"))
            if syntax.is_transfer_syntax:
                return syntax
    raise DeidentificationRefused("the transfer syntax is not supported")


def _inflated(data: bytes) -> bytes:
    """The data set of a deflated file (PS3.5 A.5), at most 1 GiB."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = engine.decompress(data, MAX_INFLATED)
    if engine.unconsumed_tail or not engine.eof:
        raise DeidentificationRefused("the deflated data set is too large or cut short")
    return plain


def _stripped(data: bytes, by_tag: dict[int, Element], tag: int) -> bytes:
    element = by_tag.get(tag)
    return b"" if element is None else data[element.start : element.end].strip(b" \0")


def _said(data: bytes, by_tag: dict[int, Element]) -> bytes | None:
    """(0028,0301) as the sender has it, if that is a value of the attribute."""
    said = _stripped(data, by_tag, 0x00280301)
    return said if said in (b"YES", b"NO") else None


def _sender_codes(reader: ElementReader, by_tag: dict[int, Element]) -> tuple[tuple[str, ...], bool]:
    """Codes of what the sender did to the pixels, and whether it says that no face can be recognised."""
    sequence = by_tag.get(0x00120064)
    if sequence is None or sequence.vr not in ("", "SQ"):
        return (), False
    given = set()
    for item in reader.items(sequence, depth=1):
        inside = {element.tag: element for element in item}
        if _stripped(reader.data, inside, 0x00080102) == b"DCM":
            given.add(_stripped(reader.data, inside, 0x00080100).decode("ascii", "replace"))
    codes = tuple(code for code in SENDERS_CODES if code in given)
    return codes, "113102" in codes and _stripped(reader.data, by_tag, 0x00280302) == b"NO"


def _statement(
    writer: ElementWriter, codes: tuple[str, ...], burned_in: bytes | None, *, face: bool
) -> Iterator[tuple[int, bytes]]:
    """What was done: (0012,0062) to (0012,0064), (0028,0301) to (0028,0303), PS3.15 section E.2 and PS3.3 C.7.1.1."""
    yield 0x00120062, writer.element(0x00120062, "CS", b"YES")
    yield 0x00120063, writer.element(0x00120063, "LO", RULES.method.encode()[:64])
    items = b"".join(
        writer.item(
            writer.element(0x00080100, "SH", code.encode())
            + writer.element(0x00080102, "SH", b"DCM")
            + writer.element(0x00080104, "LO", CODES[code].encode()[:64])
        )
        for code in codes
    )
    yield 0x00120064, writer.element(0x00120064, "SQ", items)
    if burned_in is not None:
        yield 0x00280301, writer.element(0x00280301, "CS", burned_in)
    yield 0x00280302, writer.element(0x00280302, "CS", b"YES" if face else b"NO")
    yield 0x00280303, writer.element(0x00280303, "CS", b"MODIFIED")


class _DeidentifyingWalk:
    """One pass over a data set and its sequences."""

    def __init__(
        self,
        profile: PatientProfile,
        reader: ElementReader,
        writer: ElementWriter,
        syntax: str,
        sop_class: str,
        character_set: tuple[str, ...],
        known: KnownIdentity,
        cache: dict[bytes, tuple[bytes | None, _Key]],
    ) -> None:
        self.profile = profile
        self.reader = reader
        self.data = reader.data
        self.writer = writer
        self.syntax = syntax
        self.sop_class = sop_class
        self.character_set = character_set
        self.known = known
        self.cache = cache
        self.report: Counter[_Key] = Counter()
        self._seen: list[_Key] = []

    def report_has(self, action: str) -> bool:
        """Closes the report; whether any attribute met ``action``."""
        self.report.update(self._seen)
        self._seen.clear()
        return any(key[2] == action for key in self.report)

    def elements(self, elements: list[Element], depth: int) -> Iterator[tuple[int, bytes]]:
        """Serialised elements that survive, by tag."""
        if depth > _MAX_DEPTH:
            raise DeidentificationRefused("sequences are nested too deep")
        data, cache, seen, by_tag = self.data, self.cache, self._seen, RULES.by_tag
        implicit = self.writer.implicit
        scheme: bytes | None = None
        for element in elements:
            tag = element.tag
            if tag in _WRITTEN_BY_US or tag & 0xFFFF == 0:
                continue
            if tag & 0x10000:
                yield from self._private(elements, element)
                continue
            rule = by_tag.get(tag)
            if rule is None:
                if tag in RULES.needed and element.end > element.start:
                    raise DeidentificationRefused(f"{dictionary_keyword(tag)} is needed and cannot be kept")
                if tag == PIXEL_DATA and depth == 0:
                    seen.append((tag, element.vr, "K"))
                    yield tag, pixel_data(self.reader, self.writer, self.syntax, elements, element)
                else:
                    seen.append((tag if known_vr(tag) else tag & 0xFFFF0000, known_vr(tag) or "UN", "X"))
                continue
            # In an implicit item of an explicit data set the same bytes would mean another element.
            alike = element.vr or implicit
            if alike and element.end - element.head <= _CACHED_BYTES and rule.alone:
                raw = data[element.head : element.end]
                known = cache.get(raw)
                if known is None:
                    known = cache[raw] = self._one(rule, element, depth, b"")
                seen.append(known[1])
                if known[0] is not None:
                    yield tag, known[0]
                continue
            if rule.action == "code" and scheme is None:
                scheme = next((_value(data, one) for one in elements if one.tag == 0x00080102), b"")
            written, key = self._one(rule, element, depth, scheme or b"")
            seen.append(key)
            if written is not None:
                yield tag, written

    def _vr(self, element: Element) -> str:
        """As stored; the dictionary's where it is not. Of two possible ones (US or SS) the first: the bytes are the same."""
        return element.vr if element.vr not in ("", "UN") else known_vr(element.tag)

    def _one(self, rule: Rule, element: Element, depth: int, scheme: bytes) -> tuple[bytes | None, _Key]:
        action = rule.by_class.get(self.sop_class, rule.action) if depth == 0 else rule.action
        vr, tag = self._vr(element), element.tag
        if action in ("X", "Z", "D", "pseudonym"):
            return self._basic(rule, action, vr)
        if action == "walk":
            return self._sequence(rule, element, vr, depth)
        new = None
        if not element.undefined:
            new = self._changed(rule, action, vr, self.data[element.start : element.end], scheme)
        if new is None or (not new and element.end > element.start):
            if rule.needed and self.data[element.start : element.end].strip(b" \0\\"):
                raise DeidentificationRefused(f"{rule.keyword} is needed and cannot be read as what it should be")
            written, _ = self._basic(rule, rule.otherwise, vr)
            return written, (tag, vr, "V")
        name = {"S": "S", "A": "A", "K": "K", "U": "U", "T": "K", "code": "K"}.get(action, "C")
        return self.writer.element(tag, vr, new), (tag, vr, name)

    def _basic(self, rule: Rule, action: str, vr: str) -> tuple[bytes | None, _Key]:
        """X, Z and D of the table."""
        if action == "X":
            return None, (rule.tag, vr, "X")
        if action == "Z":
            return self.writer.element(rule.tag, rule.vr, b""), (rule.tag, rule.vr, "Z")
        dummy = {"DA": b"19000101", "DT": b"19000101", "TM": b"000000", "UI": b"2.25.0", "AS": b"000Y"}
        value = self.profile.pseudonym.encode() if action == "pseudonym" else dummy.get(rule.vr, b"ANONYMIZED")
        return self.writer.element(rule.tag, rule.vr, value), (rule.tag, rule.vr, "D")

    def _changed(self, rule: Rule, action: str, vr: str, value: bytes, scheme: bytes) -> bytes | None:
        if action in ("K", "T"):
            return value_cleaning.value_allowed(rule, vr, value, self.writer.little, self.known)
        if vr not in rule.vrs:
            return None
        if action == "U":
            return self._uids(value)
        if action == "S":
            return value_cleaning.shift_date(value, self.profile.shift_days)
        if action == "A":
            return value_cleaning.clean_age(value)
        if action == "code":
            return value_cleaning.clean_code(scheme.decode("ascii", "replace").strip(" \0"), value, self.known)
        if action == "version":
            return value_cleaning.clean_version(value, self.character_set, self.known)
        if vr == "CS":
            return value_cleaning.clean_terms(value, rule, self.known)
        cleaned = value_cleaning.clean_text(value, self.character_set, self.known, vr, rule)
        if action == "contrast" and not cleaned and value.strip(b" \0"):
            return b"CONTRAST"  # that an agent was given must survive; which one, said in unknown words, need not
        return cleaned

    def _uids(self, value: bytes) -> bytes | None:
        # What is mapped need not be well formed (a leading zero, a letter): nothing of it comes out.
        parts = [part.strip(" \0") for part in value.strip(b" \0").decode("latin-1").split("\\")]
        return "\\".join(self.profile.map_uid(part) if part else "" for part in parts).encode()

    def _sequence(self, rule: Rule, element: Element, vr: str, depth: int) -> tuple[bytes | None, _Key]:
        if vr != "SQ" or (element.vr == "UN" and not self.writer.little):
            return None, (element.tag, vr, "V")
        items = []
        for item in self.reader.items(element, depth=depth + 1):
            content = dict(self.elements(item, depth + 1))
            items.append(self.writer.item(b"".join([content[tag] for tag in sorted(content)])))
        return self.writer.element(element.tag, "SQ", b"".join(items)), (element.tag, "SQ", "K")

    def _private(self, elements: list[Element], element: Element) -> Iterator[tuple[int, bytes]]:
        """A private attribute survives only if (creator, group, element) is on the safe list and its value a number."""
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if number < 0x1000:
            return  # a creator is written with the attribute that needs it
        creator_tag = group << 16 | number >> 8
        creator, wanted = "", None
        if group in _SAFE_GROUPS:
            stored = next((_value(self.data, one) for one in elements if one.tag == creator_tag), b"")
            creator = stored.decode("ascii", "replace").strip(" \0")
            wanted = RULES.private.get((creator, group, number & 0xFF))
        vr = wanted if wanted and element.vr in ("", "UN") else element.vr
        if wanted is None or vr != wanted or element.undefined:
            self._seen.append((group << 16, "", "P"))
            return
        rule = Rule("", element.tag, "K", frozenset({wanted}), 9)
        value = value_cleaning.value_allowed(
            rule, wanted, self.data[element.start : element.end], self.writer.little, self.known
        )
        self._seen.append((element.tag, wanted, "PK" if value is not None else "V"))
        if value is not None:
            yield creator_tag, self.writer.element(creator_tag, "LO", creator.encode())
            yield element.tag, self.writer.element(element.tag, wanted, value)


def _value(data: bytes, element: Element) -> bytes:
    return data[element.start : element.end]
