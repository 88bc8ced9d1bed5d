"""The layout of a DICOM file, surveyed before any parser sees it: where the data set, its pixels and wanted values lie.

`imaging.dicom.elements` walks; this page knows files (PS3.10 section 7.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imaging.dicom.elements import PIXEL_TAGS, ElementReader
from imaging.dicom.file_meta import content_start

__all__ = ["Layout", "scan"]

_MAX_WANTED = 4096


@dataclass(frozen=True)
class Layout:
    """Where things are, as offsets into the file.

    :param pixels: of the pixel data element, None without one. :param pixel_start: of its value.
    :param pixel_bytes: length of its value.
    :param end: behind the last element; what follows is padding.
    :param values: of the wanted attributes at the top level: tag -> (VR as written, empty where implicit; the bytes).
    :param fragments: of encapsulated pixel data, the Basic Offset Table first: (begin, end) each.
    :param unknown: how many elements are of a value representation that no standard knows.
    """

    start: int
    pixels: int | None
    pixel_start: int
    pixel_bytes: int
    end: int
    values: Mapping[int, tuple[bytes, bytes]] = field(default_factory=dict)
    fragments: Sequence[tuple[int, int]] = ()
    unknown: int = 0


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
    return Layout(start, pixels, pixel_start, pixel_bytes, end, values, fragments, reader.unknown)
