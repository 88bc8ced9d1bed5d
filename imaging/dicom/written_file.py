"""A DICOM file whose elements are known because they were just written: its header without parsing the bytes again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from imaging.dicom.elements import LONG, PIXEL_TAGS, UNDEFINED, ElementReader
from imaging.dicom.preflight import Layout

__all__ = ["WrittenFile"]


@dataclass(frozen=True)
class WrittenFile:
    """A file in memory (PS3.10) and the elements it was joined from.

    :param start: where the data set begins. :param elements: tag -> the bytes of the element, header and value, at the top
        level, without the pixel data; ``data[start:]`` is all elements in the order of their tags.
    :param pixels: tag and length, header and value, of the pixel data element; None without one.
    """

    data: bytes = field(repr=False)
    start: int
    elements: Mapping[int, bytes] = field(repr=False)
    pixels: tuple[int, int] | None
    transfer_syntax_uid: UID

    @staticmethod
    def of(meta: bytes, elements: Mapping[int, bytes], syntax: UID) -> WrittenFile:
        """Join preamble and file meta information with the elements of a data set."""
        data = meta + b"".join([elements[tag] for tag in sorted(elements)])
        header = {tag: element for tag, element in elements.items() if tag not in PIXEL_TAGS}
        pixels = next(((tag, len(elements[tag])) for tag in sorted(elements) if tag in PIXEL_TAGS), None)
        return WrittenFile(data, len(meta), header, pixels, syntax)

    def header(self) -> Dataset:
        """Every element but the pixel data, as `pydicom.dcmread` of the file would give it."""
        raw: dict[BaseTag, DataElement | RawDataElement] = {
            BaseTag(tag): self._raw(tag) for tag in sorted(self.elements)
        }
        dataset = Dataset(raw)
        named = 0x00080005 in self.elements
        encoding = convert_encodings(convert_raw_data_element(self._raw(0x00080005)).value) if named else "iso8859"
        syntax = self.transfer_syntax_uid
        dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, encoding)
        return dataset

    def layout(self) -> Layout:
        """Where the pixel data lie; `Layout.values` stay empty."""
        end = len(self.data)
        if self.pixels is None:
            return Layout(self.start, None, 0, 0, end)
        pixels, length = self.pixels
        at = self.start + sum(len(element) for tag, element in self.elements.items() if tag < pixels)
        value = at + self._head(self.data[at : at + 12])
        if self.transfer_syntax_uid.is_encapsulated:
            fragments, behind = ElementReader(self.data, little=True).fragments(value, len(self.data))
            return Layout(self.start, at, value, behind - value, end, {}, fragments)
        return Layout(self.start, at, value, length - (value - at), end)

    def _head(self, element: bytes) -> int:
        return 12 if not self.transfer_syntax_uid.is_implicit_VR and element[4:6] in LONG else 8

    def _raw(self, tag: int) -> RawDataElement:
        element, syntax = self.elements[tag], self.transfer_syntax_uid
        head = self._head(element)
        length = int.from_bytes(element[head - 4 : head], "little" if syntax.is_little_endian else "big")
        if not syntax.is_implicit_VR and head == 8:
            length = len(element) - head
        vr = None if syntax.is_implicit_VR else element[4:6].decode("ascii")
        value = element[head:]
        return RawDataElement(
            BaseTag(tag),
            vr,
            len(value) if length == UNDEFINED else length,
            value,
            0,
            syntax.is_implicit_VR,
            syntax.is_little_endian,
        )
