"""The layout of a DICOM file, surveyed before any parser sees it: where the data set, its pixels and wanted values lie.

`imaging.dicom.elements` walks; this page knows files (PS3.10 section 7.1).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imaging.dicom.elements import PIXEL_TAGS, ElementReader, MalformedDataSet

__all__ = ["Layout", "content_start", "scan", "scan_meta"]

MAX_META = 1 << 16
_MAX_WANTED = 4096
_META = frozenset({0x00020002, 0x00020003, 0x00020010})


@dataclass(frozen=True)
class Layout:
    """Where things are, as offsets into the file.

    :param pixels: of the pixel data element, None without one. :param pixel_start: of its value.
    :param pixel_bytes: length of its value.
    :param end: behind the last element; what follows is padding.
    :param values: of the wanted attributes at the top level: tag -> (VR as written, empty where implicit; the bytes).
    :param fragments: of encapsulated pixel data, the Basic Offset Table first: (begin, end) each.
    """

    start: int
    pixels: int | None
    pixel_start: int
    pixel_bytes: int
    end: int
    values: Mapping[int, tuple[bytes, bytes]] = field(default_factory=dict)
    fragments: Sequence[tuple[int, int]] = ()


def content_start(data: bytes) -> int:
    """Where the data set begins: behind the file meta information, whose length is its first element (PS3.10 7.1).

    :raises MalformedDataSet: no prefix, or no such length.
    """
    if data[128:132] != b"DICM":
        raise MalformedDataSet("no DICOM file: the prefix is missing")
    if data[132:138] != b"\x02\x00\x00\x00UL" or len(data) < 144:
        raise MalformedDataSet("no length of the file meta information")
    start = 144 + int(struct.unpack("<I", data[140:144])[0])
    if start > len(data):
        raise MalformedDataSet("the file meta information is cut short")
    if start > MAX_META:
        raise MalformedDataSet("the file meta information is too long")
    return start


def scan(data: bytes, *, implicit: bool, little: bool, wanted: frozenset[int] = frozenset()) -> Layout:
    """Walk the file.

    :param wanted: attributes at the top level whose values are noted on the way.
    :raises MalformedDataSet: cut short, contradictory, too many elements, nested too deep.
    """
    start = content_start(data)
    reader = ElementReader(data, little=little)
    elements, end = reader.survey(start, len(data), implicit=implicit, wanted=wanted | PIXEL_TAGS)
    pixels: int | None = None
    pixel_start = pixel_bytes = 0
    values: dict[int, tuple[bytes, bytes]] = {}
    fragments: list[tuple[int, int]] = []
    for element in elements:
        if element.tag in PIXEL_TAGS:
            pixels, pixel_start, pixel_bytes = element.head, element.start, element.end - element.start
            fragments += element.fragments or ()
        elif pixels is None and not element.undefined and element.end > element.start:
            value = data[element.start : min(element.end, element.start + _MAX_WANTED)]
            values[element.tag] = element.vr.encode("ascii"), value
    return Layout(start, pixels, pixel_start, pixel_bytes, end, values, fragments)


def scan_meta(data: bytes) -> Mapping[int, bytes]:
    """Values of the file meta information (group 2, explicit little endian), by tag. :raises MalformedDataSet:"""
    start = content_start(data)
    elements, _ = ElementReader(data, little=True).survey(144, start, implicit=False, wanted=_META)
    return {element.tag: data[element.start : element.end] for element in elements if element.end > element.start}
