"""Data elements as the bytes they are stored in: the one walk that finds them, and the writing of new ones (PS3.5 section 7).

The walk touches the headers of the elements only, gives up at fixed limits, and finds what is cut short: a parser builds
objects for everything it meets, and some megabytes of tiny elements would keep it busy for minutes. Values are never decoded
here. It is used twice, with different tolerance:

- `ElementReader.survey`, before any parser sees a received file. Looks into every sequence and notes next to nothing. Takes
  what a parser would take: an element that occurs twice.
- `ElementReader.elements` and `items`, for de-identification, which reads with this and with nothing else: what was not
  understood here cannot come out. Refuses that.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.datadict import dictionary_has_tag, dictionary_VR

__all__ = ["PIXEL_TAGS", "UNDEFINED", "Element", "ElementReader", "ElementWriter", "MalformedDataSet", "known_vr"]

UNDEFINED = 0xFFFFFFFF
MAX_ELEMENTS = 400_000  # an enhanced image of 2,000 frames with 100 attributes each has half of that
MAX_DEPTH = 16
LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
VRS = LONG | {
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST",
    b"TM", b"UI", b"UL", b"US",
}  # fmt: skip
_NAMES = {vr: vr.decode() for vr in VRS}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_NOTHING: frozenset[int] = frozenset()
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, Double Float and plain Pixel Data (PS3.3 C.7.6.24, C.7.6.25, C.7.6.3)."""


class MalformedDataSet(Exception):
    """Not a data set, or one that contradicts itself. The message holds nothing of it."""


class Element(NamedTuple):
    """Where one element lies.

    :param vr: as stored; empty in implicit VR. :param start: of the value. :param end: behind the value.
    :param undefined: its length is not stored; ``end`` is behind the delimiter then.
    :param implicit: its items are in implicit VR little endian, whatever the data set is in (PS3.5 section 6.2.2).
    :param children: the items of a sequence of undefined length, which had to be walked to find its end.
    :param fragments: of encapsulated pixel data, (start, end) each, the Basic Offset Table first.
    """

    tag: int
    vr: str
    head: int
    start: int
    end: int
    undefined: bool
    implicit: bool
    children: list[list[Element]] | None = None
    fragments: list[tuple[int, int]] | None = None


class ElementReader:
    """Finds the elements of a data set. Bounded: at most 400,000 elements, 16 levels.

    :ivar unknown: how many elements had a value representation that no standard knows; they are given as UN.
    """

    def __init__(self, data: bytes, *, little: bool) -> None:
        self.data = data
        order = "<" if little else ">"
        self._explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self._implicit = struct.Struct(f"{order}HHI").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from
        self._left = MAX_ELEMENTS
        self.unknown = 0

    def elements(self, position: int, end: int, *, implicit: bool, depth: int = 0) -> list[Element]:
        """The elements in ``data[position:end]``, in their order. :raises MalformedDataSet:"""
        return self._walk(position, end, implicit, depth, delimited=False)[0]

    def items(self, element: Element, *, depth: int) -> list[list[Element]]:
        """The elements of each item of a sequence. :raises MalformedDataSet:"""
        if element.children is not None:
            return element.children
        return self._items(element.start, element.end, element.implicit, depth, delimited=False)[0]

    def survey(
        self, position: int, end: int, *, implicit: bool, wanted: frozenset[int] = frozenset()
    ) -> tuple[list[Element], int]:
        """Walk everything in ``data[position:end]``, into every sequence, and forgive what a parser forgives.

        :param wanted: tags of the elements to return, of the top level.
        :returns: these elements in their order, twice where they occur twice; and the offset behind the last of all.
        :raises MalformedDataSet: cut short, contradictory, too many elements, nested too deep.
        """
        return self._walk(position, end, implicit, 0, delimited=False, wanted=wanted)

    def _walk(
        self,
        position: int,
        end: int,
        implicit: bool,
        depth: int,
        *,
        delimited: bool,
        wanted: frozenset[int] | None = None,
    ) -> tuple[list[Element], int]:
        """:param wanted: the walk is a survey for these; None: an index of all, which refuses what is ambiguous."""
        if depth > MAX_DEPTH:
            raise MalformedDataSet("it is nested too deep")
        data, explicit_head, implicit_head = self.data, self._explicit, self._implicit
        surveyed = wanted is not None
        within = _NOTHING if surveyed else None
        found: list[Element] = []
        tags: set[int] = set()
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise MalformedDataSet("it has too many elements")
            if end - position < 8:
                if depth == 0 and not data[position:end].strip(b"\0"):
                    break
                raise MalformedDataSet("it is cut short")
            head, vr = position, ""
            if implicit:
                group, number, length = implicit_head(data, position)
                position += 8
            else:
                group, number, stored, length = explicit_head(data, position)
                if stored in VRS:
                    vr = _NAMES[stored]
                    position += 8
                    if stored in LONG:
                        if end - position < 4:
                            raise MalformedDataSet("it is cut short")
                        length = self._long(data, position)[0]
                        position += 4
                elif group == 0xFFFE:
                    length = implicit_head(data, position)[2]
                    position += 8
                else:
                    vr, position, length = self._unknown_vr(head, end, stored, delimited=delimited)
            tag = group << 16 | number
            if group in (0, 0xFFFE):
                if tag == _ITEM_END and delimited:
                    return found, position
                if depth == 0 and not data[head:end].strip(b"\0"):
                    position = head
                    break
                raise MalformedDataSet("an element that no data set has")
            if wanted is None:
                if tag in tags:
                    raise MalformedDataSet("an element occurs twice")
                tags.add(tag)
            nested = implicit or vr != "SQ"
            children = fragments = None
            undefined = length == UNDEFINED
            if undefined:
                if depth == 0 and tag in PIXEL_TAGS:
                    fragments, behind = self.fragments(position, end)
                elif vr in ("", "SQ", "UN"):
                    children, behind = self._items(position, end, nested, depth + 1, delimited=True, wanted=within)
                else:
                    raise MalformedDataSet("a value without a length")
            else:
                behind = position + length
                if behind > end:
                    raise MalformedDataSet("the pixel data are cut short" if tag in PIXEL_TAGS else "it is cut short")
                if surveyed and (vr == "SQ" or (not vr and known_vr(tag) == "SQ")):
                    self._items(position, behind, nested, depth + 1, delimited=False, wanted=within)
            if wanted is None or tag in wanted:
                found.append(Element(tag, vr, head, position, behind, undefined, nested, children, fragments))
            position = behind
        if delimited:
            raise MalformedDataSet("it is cut short")
        return found, position

    def _unknown_vr(self, head: int, end: int, stored: bytes, *, delimited: bool) -> tuple[str, int, int]:
        """VR, start of the value and its length for an element whose VR nobody knows: UN, or empty for an implicit element
        in an explicit data set, as a few senders write.

        Future VRs have a length of four bytes behind two reserved ones (PS3.5 section 6.2): so letters are read. Other marks
        ("??") come from writers of two-byte lengths. Either may be written the other way, so what follows decides.
        """
        data = self.data
        explicit = ("UN", head + 8, self._explicit(data, head)[3])
        implicit = ("", head + 8, self._implicit(data, head)[2])
        candidates = [explicit, implicit]
        if not all(0x20 <= mark < 0x7F for mark in stored):
            candidates = [implicit, explicit]
        if data[head + 6 : head + 8] == b"\0\0" and end - head >= 12:
            extended = ("UN", head + 12, int(self._long(data, head + 8)[0]))
            candidates.insert(0 if stored.isalpha() else 1, extended)
        group, number = self._explicit(data, head)[:2]
        for candidate in candidates:
            if self._continues(candidate[1] + candidate[2], end, group << 16 | number, delimited=delimited):
                self.unknown += candidate[0] == "UN"
                return candidate
        if implicit[2] == UNDEFINED:
            return implicit
        if all(0x20 <= mark < 0x7F for mark in stored):
            raise MalformedDataSet("a value representation that no standard knows")
        return implicit

    def _continues(self, position: int, end: int, tag: int, *, delimited: bool) -> bool:
        """Whether the data set ends at ``position`` or goes on there with a later element than ``tag``."""
        if position >= end or end - position < 8:
            return position == end and not delimited
        group, number = self._implicit(self.data, position)[:2]
        following = group << 16 | number
        return (following > tag and group < 0xFFFE) or (delimited and following == _ITEM_END)

    def _items(
        self,
        position: int,
        end: int,
        implicit: bool,
        depth: int,
        *,
        delimited: bool,
        wanted: frozenset[int] | None = None,
    ) -> tuple[list[list[Element]], int]:
        found: list[list[Element]] = []
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise MalformedDataSet("it has too many elements")
            if end - position < 8:
                raise MalformedDataSet("it is cut short")
            group, number, length = self._implicit(self.data, position)
            tag = group << 16 | number
            position += 8
            if tag == _SEQUENCE_END and delimited:
                return found, position
            if tag != _ITEM:
                raise MalformedDataSet("a sequence that holds no items")
            if length == UNDEFINED:
                elements, position = self._walk(position, end, implicit, depth, delimited=True, wanted=wanted)
            elif position + length > end:
                raise MalformedDataSet("it is cut short")
            else:
                elements, _ = self._walk(position, position + length, implicit, depth, delimited=False, wanted=wanted)
                position += length
            if wanted is None:
                found.append(elements)
        if delimited:
            raise MalformedDataSet("it is cut short")
        return found, position

    def fragments(self, position: int, end: int) -> tuple[list[tuple[int, int]], int]:
        """Encapsulated pixel data (PS3.5 A.4): (start, end) of each fragment, the Basic Offset Table first, and the
        offset behind the delimiter."""
        found: list[tuple[int, int]] = []
        while end - position >= 8:
            self._left -= 1
            if self._left < 0:
                raise MalformedDataSet("it has too many elements")
            group, number, length = self._implicit(self.data, position)
            position += 8
            if group << 16 | number == _SEQUENCE_END:
                return found, position
            if group << 16 | number != _ITEM or length == UNDEFINED or position + length > end:
                break
            found.append((position, position + length))
            position += length
        raise MalformedDataSet("the pixel data are cut short")


class ElementWriter:
    """Serialises elements in one transfer syntax."""

    def __init__(self, *, implicit: bool, little: bool) -> None:
        self.implicit = implicit
        self.little = little
        self.order = "<" if little else ">"

    def element(self, tag: int, vr: str, value: bytes, *, undefined: bool = False) -> bytes:
        """The bytes of one element. ``value`` of an undefined length ends with its delimiter already.

        :raises MalformedDataSet: the value is too long for its value representation.
        """
        if len(value) % 2 and not undefined:
            value += b"\0" if vr in ("UI", "OB", "UN") else b" "
        length = UNDEFINED if undefined else len(value)
        head = struct.pack(f"{self.order}HH", tag >> 16, tag & 0xFFFF)
        if self.implicit:
            return head + struct.pack(f"{self.order}I", length) + value
        if vr.encode() in LONG:
            return head + vr.encode() + b"\0\0" + struct.pack(f"{self.order}I", length) + value
        if length > 0xFFFF:
            raise MalformedDataSet("a value is too long for its value representation")
        return head + vr.encode() + struct.pack(f"{self.order}H", length) + value

    def item(self, content: bytes) -> bytes:
        """One item of a sequence, with its length."""
        return struct.pack(f"{self.order}HHI", 0xFFFE, 0xE000, len(content)) + content


_known: dict[int, str] = {}


def known_vr(tag: int) -> str:
    """The VR of a public attribute in the data dictionary; of two possible ones the first. Empty for unknown ones."""
    vr = _known.get(tag)
    if vr is None:
        vr = dictionary_VR(tag).split(" or ")[0] if dictionary_has_tag(tag) else ""
        if len(_known) < 10_000:
            _known[tag] = vr
    return vr
