"""The skeleton of a DICOM file, walked before any parser sees it: lengths, nesting, number of elements (PS3.5 section 7).

A parser builds objects for everything it meets; some megabytes of tiny elements would keep it busy for minutes. This walk
touches the headers of the elements only, gives up at fixed limits, and finds what is cut short.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_VR

__all__ = ["BadStructure", "Layout", "content_start", "scan", "scan_meta"]

MAX_ELEMENTS = 400_000  # an enhanced image of 2,000 frames with 100 attributes each has half of that
MAX_DEPTH = 16
MAX_META = 1 << 16
_UNDEFINED = 0xFFFFFFFF
_MAX_WANTED = 4096
_META = frozenset({0x00020002, 0x00020003, 0x00020010})
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


class BadStructure(Exception):
    """Not the skeleton of a data set. The message holds no value of it."""


@dataclass(frozen=True)
class Layout:
    """Where things are, as offsets into the file.

    :param pixels: of the pixel data element, None without one. :param pixel_bytes: length of its value.
    :param end: behind the last element; what follows is padding.
    :param values: of the wanted attributes at the top level: tag -> (VR as written, empty where implicit; the bytes).
    :param fragments: of encapsulated pixel data, the Basic Offset Table first: (begin, end) each.
    """

    start: int
    pixels: int | None
    pixel_bytes: int
    end: int
    values: Mapping[int, tuple[bytes, bytes]] = field(default_factory=dict)
    fragments: Sequence[tuple[int, int]] = ()


def content_start(data: bytes) -> int:
    """Where the data set begins: behind the file meta information, whose length is its first element (PS3.10 7.1).

    :raises BadStructure: no prefix, or no such length.
    """
    if data[128:132] != b"DICM":
        raise BadStructure("no DICOM file: the prefix is missing")
    if data[132:138] != b"\x02\x00\x00\x00UL" or len(data) < 144:
        raise BadStructure("no length of the file meta information")
    start = 144 + int(struct.unpack("<I", data[140:144])[0])
    if start > len(data):
        raise BadStructure("the file meta information is cut short")
    if start > MAX_META:
        raise BadStructure("the file meta information is too long")
    return start


def scan(data: bytes, *, implicit: bool, little: bool, wanted: frozenset[int] = frozenset()) -> Layout:
    """Walk the file.

    :param wanted: attributes at the top level whose values are noted on the way.
    :raises BadStructure: cut short, contradictory, too many elements, nested too deep.
    """
    start = content_start(data)
    walk = _PreflightWalk(data, little, wanted)
    end = walk.elements(start, len(data), 0, implicit, delimited=False)
    return Layout(start, walk.pixels, walk.pixel_bytes, end, walk.values, walk.fragments)


def scan_meta(data: bytes) -> Mapping[int, bytes]:
    """Values of the file meta information (group 2, explicit little endian), by tag. :raises BadStructure:"""
    start = content_start(data)
    walk = _PreflightWalk(data, True, _META)
    walk.elements(144, start, 0, False, delimited=False)
    return {tag: value for tag, (_, value) in walk.values.items()}


class _PreflightWalk:
    def __init__(self, data: bytes, little: bool, wanted: frozenset[int]) -> None:
        order = "<" if little else ">"
        self.data = data
        self.tag = struct.Struct(f"{order}HH").unpack_from
        self.short = struct.Struct(f"{order}H").unpack_from
        self.long = struct.Struct(f"{order}I").unpack_from
        self.left = MAX_ELEMENTS
        self.pixels: int | None = None
        self.pixel_bytes = 0
        self.wanted = wanted
        self.values: dict[int, tuple[bytes, bytes]] = {}
        self.fragments: list[tuple[int, int]] = []

    def _count(self, depth: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise BadStructure("it has too many elements")
        if depth > MAX_DEPTH:
            raise BadStructure("it is nested too deep")

    def elements(self, position: int, end: int, depth: int, implicit: bool, *, delimited: bool) -> int:
        """Walk elements up to ``end``, or behind the item delimiter where ``delimited``; returns the offset behind."""
        while position < end:
            self._count(depth)
            if end - position < 8:
                if depth == 0 and not self.data[position:end].strip(b"\0"):
                    return position
                raise BadStructure("it is cut short")
            group, element = self.tag(self.data, position)
            tag = group << 16 | element
            if tag == _ITEM_END and delimited:
                return position + 8
            if group in (0, 0xFFFE):
                if depth == 0 and not self.data[position:end].strip(b"\0"):
                    return position
                raise BadStructure("an element that no data set has")
            position = self._element(position, end, depth, implicit, tag)
        if delimited:
            raise BadStructure("it is cut short")
        return end

    def _element(self, position: int, end: int, depth: int, implicit: bool, tag: int) -> int:
        head = position
        vr = self.data[position + 4 : position + 6]
        if implicit or not vr.isalpha():  # a few senders write implicit elements into explicit data sets
            vr, length, position = b"", self.long(self.data, position + 4)[0], position + 8
        elif vr in _LONG:
            if end - position < 12:
                raise BadStructure("it is cut short")
            length, position = self.long(self.data, position + 8)[0], position + 12
        else:
            length, position = self.short(self.data, position + 6)[0], position + 8
        if length != _UNDEFINED and position + length > end:
            raise BadStructure("the pixel data are cut short" if tag in _PIXELS else "it is cut short")
        if depth == 0 and tag in self.wanted and length and length != _UNDEFINED and self.pixels is None:
            self.values[tag] = vr, self.data[position : position + min(length, _MAX_WANTED)]
        if depth == 0 and tag in _PIXELS:
            self.pixels = head
            behind = self._fragments(position, end) if length == _UNDEFINED else position + length
            self.pixel_bytes = behind - position
            return behind
        if length == _UNDEFINED:
            if vr not in (b"", b"SQ", b"UN"):
                raise BadStructure("a value without a length")
            return self._items(position, end, depth + 1, implicit or vr != b"SQ", delimited=True)
        if vr == b"SQ" or (not vr and _is_sequence(tag)):
            self._items(position, position + length, depth + 1, implicit or not vr, delimited=False)
        return position + int(length)

    def _items(self, position: int, end: int, depth: int, implicit: bool, *, delimited: bool) -> int:
        while position < end:
            self._count(depth)
            if end - position < 8:
                raise BadStructure("it is cut short")
            group, element = self.tag(self.data, position)
            tag, length = group << 16 | element, self.long(self.data, position + 4)[0]
            position += 8
            if tag == _SEQUENCE_END and delimited:
                return position
            if tag != _ITEM:
                raise BadStructure("a sequence that holds no items")
            if length == _UNDEFINED:
                position = self.elements(position, end, depth, implicit, delimited=True)
            elif position + length > end:
                raise BadStructure("it is cut short")
            else:
                position = self.elements(position, position + length, depth, implicit, delimited=False)
        if delimited:
            raise BadStructure("it is cut short")
        return position

    def _fragments(self, position: int, end: int) -> int:
        """Encapsulated pixel data (PS3.5 A.4): items of bytes up to the delimiter."""
        while end - position >= 8:
            self._count(1)
            group, element = self.tag(self.data, position)
            length = self.long(self.data, position + 4)[0]
            position += 8
            if group << 16 | element == _SEQUENCE_END:
                return position
            if group << 16 | element != _ITEM or position + length > end:
                break
            self.fragments.append((position, position + length))
            position += length
        raise BadStructure("the pixel data are cut short")


def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False
